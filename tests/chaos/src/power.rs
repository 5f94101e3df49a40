//! Power cuts: real stores run on a watched disk; at any moment of the trace, folders are built as the disk could hold them
//! after a power cut there, and the stores are started again and held to what they had promised.
//!
//! A cut takes the power of all nodes at once, or of one: the others then go on from what they had in the page cache. A
//! node may refuse to start where its log is damaged (it leaves, and joins anew), but a majority that does is data loss.

pub mod check;
pub mod cut;
pub mod disk;
pub mod recording;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::serials::Mark;
use crate::trace::{Kind, Record};
use check::Outcome;
use cut::Losses;
use recording::{Image, Moment, Story};

/// Power cuts of one recording.
const CUTS_A_RECORDING: u64 = 25;
/// Acknowledged writes of one recording.
const WRITES: u64 = 150;
/// Records after the start of a process that are soon after it.
const SOON_RECORDS: usize = 150;
/// A write of more bytes touches several pages.
const PAGES: usize = 4_096;
/// PoPs that are started at a time.
const CHECKS_AT_ONCE: usize = 4;
/// Examples of refusals that a report holds.
const REASONS_MAX: usize = 5;

/// What many power cuts came to.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// The first seed.
    pub seed: u64,
    /// Power cuts of all nodes of a PoP at once, and of one node of three.
    pub all_at_once: u64,
    /// Power cuts of one node of three.
    pub one_of_three: u64,
    /// Acknowledged events that were looked for.
    pub acked: u64,
    /// What was done to the disks.
    pub losses: Losses,
    /// Nodes that refused to start, out of those that were cut.
    pub refused: u64,
    /// Nodes that were cut.
    pub nodes_cut: u64,
    /// Cuts after which no majority started.
    pub majorities_lost: u64,
    /// Why nodes refused, for example.
    pub reasons: BTreeSet<String>,
    /// Promises that were broken, and how to see it again.
    pub broken: Vec<String>,
}

impl Report {
    /// Whether nothing acknowledged was lost, and nothing promised was taken back.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.majorities_lost == 0
    }

    /// Kinds of loss that this run claims to cover and never met: then it shows nothing.
    pub fn missing(&self) -> Vec<&'static str> {
        let Losses { lost, kept, torn, reordered, names } = self.losses;
        let kinds = [
            (lost, "unsynced data lost whole"),
            (kept, "unsynced data kept"),
            (torn, "a torn write"),
            (reordered, "reordered pages"),
            (names, "lost names"),
            (self.all_at_once, "all nodes at once"),
            (self.one_of_three, "one node of three"),
        ];
        kinds.iter().filter(|(count, _)| *count == 0).map(|(_, kind)| *kind).collect()
    }

    fn take(&mut self, cut: &PowerCut, outcome: Outcome) {
        match cut.only {
            Some(_) => self.one_of_three += 1,
            None => self.all_at_once += 1,
        }
        self.losses.add(cut.losses);
        self.acked += cut.image.promised.acked.len() as u64;
        self.nodes_cut += if cut.only.is_some() { 1 } else { cut.nodes };
        self.refused += outcome.refused.len() as u64;
        let untouched = |node: &u64| cut.only.is_some_and(|only| only != *node);
        for (node, reason) in outcome.refused.iter().filter(|(node, _)| untouched(node)) {
            self.broken.push(format!("{cut}: node {node} kept its power and refuses: {reason}"));
        }
        if outcome.lost_majority(cut.nodes) {
            self.majorities_lost += 1;
            self.broken.push(format!("{cut}: no majority starts: {:?}", outcome.refused));
        }
        self.reasons
            .extend(outcome.refused.into_values().take(REASONS_MAX - self.reasons.len().min(REASONS_MAX)));
        self.broken.extend(outcome.broken.map(|broken| format!("{cut}: {broken}")));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Losses { lost, kept, torn, reordered, names } = self.losses;
        writeln!(
            f,
            "power cuts from seed {}: {} of all nodes at once, {} of one node of three; {} acknowledged events looked for",
            self.seed, self.all_at_once, self.one_of_three, self.acked
        )?;
        writeln!(
            f,
            "  files: {lost} lost, {kept} kept, {torn} torn, {reordered} reordered; folders: {names} lost names"
        )?;
        writeln!(
            f,
            "  {} of {} nodes that were cut refused to start; {} majorities lost",
            self.refused, self.nodes_cut, self.majorities_lost
        )?;
        self.reasons.iter().try_for_each(|reason| writeln!(f, "    such as: {reason}"))?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN {broken}"))?;
        write!(f, "  {} promises broken", self.broken.len())
    }
}

/// One power cut, and the folders it left.
#[derive(Debug)]
struct PowerCut {
    image: Image,
    nodes: u64,
    seed: u64,
    trace: PathBuf,
    record: usize,
    only: Option<u64>,
    losses: Losses,
}

impl fmt::Display for PowerCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, record, seed, .. } = self;
        write!(f, "{}, record {record}, seed {seed}, node {}", trace.display(), self.only.unwrap_or(0))
    }
}

impl PowerCut {
    /// Writes the folders as the disks hold them.
    fn make(moment: &Moment<'_>, nodes: u64, trace: &Path, place: CutAt) -> Result<Self> {
        let CutAt { record, only, seed } = place;
        let (dir, mut random) = (scratch()?, Rng::with_seed(seed));
        let mut losses = Losses::default();
        for node in 1..=nodes {
            let name = format!("node-{node}");
            if only.is_none_or(|only| only == node) {
                losses.add(cut::power_cut(&moment.disk, &name, dir.path(), &mut random)?);
            } else {
                cut::crash(&moment.disk, &name, dir.path())?;
            }
        }
        let image = Image { dir, promised: moment.promised.clone() };
        Ok(Self { image, nodes, seed, trace: trace.to_owned(), record, only, losses })
    }

    async fn check(self) -> Result<(PowerCut, Outcome)> {
        let rebooted = (1..=self.nodes).filter(|node| self.only.is_none_or(|only| only == *node)).collect();
        let (dir, promised) = (self.image.dir.path(), &self.image.promised);
        let outcome = check::check(dir, self.nodes, self.seed, rebooted, promised).await?;
        Ok((self, outcome))
    }
}

/// A folder for a watched disk, in memory where there is such a place: what counts is the trace, not how long a real disk takes.
///
/// # Errors
/// Where it cannot be made.
pub fn scratch() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("rockpool-power-").tempdir_in(parent).context("a folder for scratch")
}

/// Where and how power is cut.
#[derive(Debug, Clone, Copy)]
pub struct CutAt {
    /// After which record of the trace.
    pub record: usize,
    /// Only of this node; none: of all.
    pub only: Option<u64>,
    /// Of what is lost.
    pub seed: u64,
}

/// Cuts the power `count` times, and reports. `progress` hears of every recording. What breaks a promise can be seen again
/// with [`replay`]: its trace is kept.
///
/// # Errors
/// Where the harness itself fails.
pub async fn run(seed: u64, count: u64, progress: impl Fn(&Report)) -> Result<Report> {
    let mut report = Report { seed, ..Report::default() };
    let mut random = Rng::with_seed(seed);
    let mut image = None;
    for number in 0..count.div_ceil(CUTS_A_RECORDING) {
        let cuts = CUTS_A_RECORDING.min(count - number * CUTS_A_RECORDING);
        let dir = scratch()?;
        // In turns: from nothing, killed in between, one node alone, and on folders that had their power cut before.
        let (story, nodes) = match number % 4 {
            0 => (Story::Whole, 3),
            1 => (Story::Killed, 3),
            2 => (Story::Killed, 1),
            _ => (Story::Whole, 3),
        };
        let before = image.take_if(|_| number % 4 == 3);
        let trace = recording::record(dir.path(), before.as_ref(), story, nodes, WRITES, &mut random)?;
        let broken = report.broken.len();
        let kept = std::env::temp_dir().join(format!("rockpool-power-{seed}-{number}.trace"));
        let last = cut_often(&trace, &kept, cuts, &mut random, &mut report).await?;
        if nodes == 3 {
            image = last;
        }
        if report.broken.len() > broken {
            fs::write(&kept, &trace)?;
        }
        progress(&report);
    }
    Ok(report)
}

/// Cuts the power in one trace as often as asked, and returns one image that started well.
async fn cut_often(
    trace: &[u8],
    name: &Path,
    cuts: u64,
    random: &mut Rng,
    report: &mut Report,
) -> Result<Option<Image>> {
    let records = recording::records(trace);
    let nodes = recording::nodes(&records);
    let unfounded = check::acknowledged(&records, nodes)?.unfounded;
    report.broken.extend(unfounded.into_iter().map(|unfounded| format!("{}, {unfounded}", name.display())));
    let mut moment = Moment::start();
    let (turns, mut checks) = (Arc::new(Semaphore::new(CHECKS_AT_ONCE)), JoinSet::new());
    for record in moments(&records, cuts, random)? {
        moment.advance(&records, record)?;
        let only = (nodes > 1 && random.u8(0..4) == 0).then(|| random.u64(1..=nodes));
        let turn = Arc::clone(&turns).acquire_owned().await?;
        let cut = PowerCut::make(&moment, nodes, name, CutAt { record, only, seed: random.u64(..) })?;
        checks.spawn(async move {
            let checked = cut.check().await;
            drop(turn);
            checked
        });
    }
    let at = (random.usize(0..records.len()), random.u64(..));
    while let Some(checked) = checks.join_next().await {
        let (cut, outcome) = checked.context("a check panicked")??;
        report.take(&cut, outcome);
    }
    // To go on from: cut anywhere, and not started yet.
    let mut moment = Moment::start();
    moment.advance(&records, at.0)?;
    let cut = PowerCut::make(&moment, nodes, name, CutAt { record: at.0, only: None, seed: at.1 })?;
    Ok(Some(cut.image))
}

/// Records after which power is cut, in order: some of them anywhere; the others right after an acknowledgement, when the
/// least has happened that could make up for a lie, right after a write of several pages to a log, when the most is on its
/// way, or soon after a process began.
fn moments(records: &[(u64, Record<'_>)], cuts: u64, random: &mut Rng) -> Result<Vec<usize>> {
    let (mut acked, mut starts, mut large) = (Vec::new(), Vec::new(), Vec::new());
    let begun = records.iter().position(|(_, record)| record.kind == Kind::Start).unwrap_or(0);
    for (index, (_, record)) in records.iter().enumerate().skip(begun) {
        if matches!(recording::mark(record)?, Some(Mark::Acked { node: 1.., .. })) {
            acked.push(index);
        } else if record.kind == Kind::Start {
            starts.push(index);
        } else if record.kind == Kind::Write && record.path.ends_with(b".wal") && record.bytes.len() > PAGES {
            large.push(index);
        }
    }
    ensure!(!acked.is_empty() && !starts.is_empty(), "nothing was acknowledged in the trace");
    let mut moments: Vec<usize> = (0..cuts)
        .map(|_| match random.u8(0..8) {
            0..=2 => random.usize(begun..records.len()),
            3 | 4 => acked[random.usize(0..acked.len())],
            5 | 6 if !large.is_empty() => large[random.usize(0..large.len())],
            _ => starts[random.usize(0..starts.len())] + random.usize(0..SOON_RECORDS),
        })
        .map(|at| at.min(records.len() - 1))
        .collect();
    moments.sort_unstable();
    Ok(moments)
}

/// Cuts the power of one node in a trace of a test's own, as often as asked, from a record on.
///
/// # Errors
/// Where the harness fails.
pub async fn cut_one(trace: &[u8], only: u64, from: usize, cuts: u64, seed: u64) -> Result<Report> {
    let records = recording::records(trace);
    let (mut random, mut moment) = (Rng::with_seed(seed), Moment::start());
    let mut report = Report { seed, ..Report::default() };
    let mut places: Vec<usize> = (0..cuts).map(|_| random.usize(from..records.len())).collect();
    places.sort_unstable();
    for record in places {
        moment.advance(&records, record)?;
        let at = CutAt { record, only: Some(only), seed: random.u64(..) };
        let cut = PowerCut::make(&moment, recording::nodes(&records), Path::new("the trace"), at)?;
        let (cut, outcome) = cut.check().await?;
        report.take(&cut, outcome);
    }
    Ok(report)
}

/// Cuts the power once more as a report says it was.
///
/// # Errors
/// Where the trace cannot be read, or the harness fails.
pub async fn replay(trace: &Path, at: CutAt) -> Result<Report> {
    let bytes = fs::read(trace)?;
    let records = recording::records(&bytes);
    let mut moment = Moment::start();
    moment.advance(&records, at.record)?;
    let mut report = Report { seed: at.seed, ..Report::default() };
    let cut = PowerCut::make(&moment, recording::nodes(&records), trace, at)?;
    let (cut, outcome) = cut.check().await?;
    report.take(&cut, outcome);
    Ok(report)
}
