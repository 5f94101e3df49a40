//! The log against a model, through SIGKILL: a child does what a seed says and tells of every step that was called durable;
//! it is killed at any moment, and the log that it left must be the model's, at the last step told or in the middle of the
//! one after it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Where the child works, and by which seed.
const DIR: &str = "ROCKPOOL_LOG_MODEL_DIR";
const SEED: &str = "ROCKPOOL_LOG_MODEL_SEED";
/// Small files, so that they are ended and removed often.
const CHUNK_BYTES: usize = 16 * 1024;
/// Steps that a child would do if nobody killed it.
const STEPS: usize = 200;

/// SplitMix64 (Steele et al., 2014): the same numbers in the child as in its parent.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}

#[derive(Debug)]
enum Step {
    Append(Vec<Entry>),
    Vote(Vote),
    Commit(LogId),
    Truncate(Option<LogId>),
    Purge(LogId),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    entries: Vec<Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
}

impl Model {
    /// What a log holds.
    async fn of(log: &mut LogStore) -> Self {
        let entries = all(log).await;
        let purged = log.get_log_state().await.unwrap().last_purged_log_id;
        let (vote, committed) = (log.read_vote().await.unwrap(), log.read_committed().await.unwrap());
        Self { entries, vote, purged, committed }
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    /// A step that Raft could ask for now.
    fn step(&self, random: &mut Random) -> Step {
        let (last, term) = (self.last(), self.vote.map_or(1, |vote| vote.leader_id.term));
        let between = |random: &mut Random, after: Option<LogId>| {
            let free: Vec<LogId> =
                self.entries.iter().map(|entry| entry.log_id).filter(|id| Some(*id) > after).collect();
            (!free.is_empty()).then(|| free[usize::try_from(random.below(free.len() as u64)).unwrap()])
        };
        match random.below(12) {
            0 => Step::Vote(Vote::new(term + random.below(3), 1 + random.below(3))),
            1 => Step::Vote(Vote::new_committed(term, 1)),
            2 | 3 => match between(random, self.committed) {
                Some(id) => Step::Commit(id),
                None => Step::Vote(Vote::new(term + 1, 2)),
            },
            4 => match between(random, self.committed) {
                Some(id) => Step::Truncate(Some(id)),
                None => Step::Vote(Vote::new(term + 1, 3)),
            },
            5 => match between(random, self.purged).filter(|id| Some(*id) <= self.committed) {
                Some(id) => Step::Purge(id),
                None => Step::Vote(Vote::new(term + 2, 3)),
            },
            _ => {
                let first = last.map_or(0, |last| last.index + 1);
                let term = term.max(last.map_or(1, |last| **last.committed_leader_id()));
                Step::Append(entries(term, first..first + 1 + random.below(20)))
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Commit(id) => self.committed = Some(*id),
            Step::Truncate(last) => self.entries.retain(|entry| Some(entry.log_id) <= *last),
            Step::Purge(upto) => {
                self.entries.retain(|entry| entry.log_id > *upto);
                self.purged = Some(*upto);
            }
        }
    }
}

async fn take(log: &mut LogStore, step: Step) {
    match step {
        Step::Append(entries) => log.blocking_append(entries).await.unwrap(),
        Step::Vote(vote) => log.save_vote(&vote).await.unwrap(),
        Step::Commit(id) => log.save_committed(Some(id)).await.unwrap(),
        Step::Truncate(last) => log.truncate_after(last).await.unwrap(),
        Step::Purge(upto) => log.purge(upto).await.unwrap(),
    }
}

fn open_small(dir: &Path) -> LogStore {
    let folder = Folder::open(dir, &PopId::new("pop").unwrap(), NodeId(1)).unwrap();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    LogStore::open(&folder, CHUNK_BYTES, BOOT, Arc::new(AtomicU64::new(u64::MAX)), metrics).unwrap()
}

/// Not a test: what the children of the one below run.
#[tokio::test]
#[ignore = "run by the_log_is_the_models_after_any_kill"]
async fn child() {
    let (Some(dir), Ok(seed)) = (std::env::var_os(DIR), std::env::var(SEED)) else { return };
    let mut log = open_small(Path::new(&dir));
    let (mut model, mut random) = (Model::of(&mut log).await, Random(seed.parse().unwrap()));
    println!("\nopen");
    for step in 0..STEPS {
        let next = model.step(&mut random);
        model.take(&next);
        take(&mut log, next).await;
        println!("\ndone {step}");
    }
}

/// Runs a child, kills it after it told of `upto` steps, and says of how many it told by then.
fn killed(dir: &Path, seed: u64, upto: usize) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "log::tests::model::child"])
        .env(DIR, dir)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = None;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    for line in lines.by_ref() {
        match line.strip_prefix("done ") {
            Some(step) => told = Some(step.parse::<usize>().unwrap()),
            None if line == "open" => {}
            None => continue,
        }
        if told.map_or(0, |told| told + 1) >= upto {
            break;
        }
    }
    child.kill().unwrap();
    // What it told until it died counts too.
    for line in lines {
        told = line.strip_prefix("done ").map_or(told, |step| Some(step.parse().unwrap()));
    }
    child.wait().unwrap();
    told.map_or(0, |told| told + 1)
}

/// Whether a log may hold this when the first steps were called durable, and the next one perhaps not.
fn may_be(found: &Model, before: &Model, next: &Step) -> bool {
    let mut after = before.clone();
    after.take(next);
    // A committed index that is lost is learned again.
    let same = |a: &Model, b: &Model| (&a.entries, a.vote, a.purged) == (&b.entries, b.vote, b.purged);
    let part = match next {
        Step::Append(_) => {
            let len = found.entries.len();
            let cut = Model { entries: after.entries.iter().take(len).cloned().collect(), ..after.clone() };
            len >= before.entries.len() && same(found, &cut)
        }
        _ => false,
    };
    found.committed <= after.committed && (part || same(found, before) || same(found, &after))
}

#[tokio::test]
async fn the_log_is_the_models_after_any_kill() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    println!("SEED={seed}");
    let (disk, mut random) = (Disk::new(), Random(seed));
    let mut killed_midway = 0;
    for round in 0..12 {
        let mut log = open_small(disk.dir.path());
        let mut model = Model::of(&mut log).await;
        log.stop().await.unwrap();
        let own = random.below(u64::MAX);
        let told = killed(disk.dir.path(), own, usize::try_from(random.below(120)).unwrap());
        killed_midway += u32::from(told < STEPS);
        let mut steps = Random(own);
        for _ in 0..told {
            let next = model.step(&mut steps);
            model.take(&next);
        }
        let next = model.step(&mut steps);
        let mut log = open_small(disk.dir.path());
        let found = Model::of(&mut log).await;
        assert!(
            may_be(&found, &model, &next),
            "round {round}, {told} steps told: {found:?}\n{model:?}\n{next:?}"
        );
        log.stop().await.unwrap();
    }
    assert!(killed_midway >= 10, "{killed_midway} of 12 were killed while they worked");
}
