//! A PoP in a process of its own, to be watched, broken and killed: it writes events with serials through all its nodes,
//! makes snapshots, hands leadership on, restarts nodes, and says in the file of marks what was acknowledged.
//!
//! Of standard input it takes `restart N` and `quit`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use chaos::driver::Stir;
use chaos::pop::{FIRST_BOOT, Pop, Settings};
use chaos::serials::{Mark, Marks, track};
use clap::Parser;
use edge_store::{Store, StoreError};
use proto::bundle::SignedManifest;
use proto::command::{Command, Effect};
use proto::{Code, Offset};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, sleep};

/// Nobody waits longer for anything here.
const PATIENCE: Duration = Duration::from_secs(60);
/// A write's deadline.
const SOON: Duration = Duration::from_secs(2);
/// Pause after a write that was refused.
const PAUSE: Duration = Duration::from_millis(20);
/// Orders that wait.
const ORDERS_LEN_MAX: usize = 16;
/// Serials that a writer takes at a time, at most.
const EVENTS_MAX: u64 = 300;

#[derive(Parser)]
struct Arguments {
    /// The folder of the nodes and of the marks.
    #[arg(long)]
    root: PathBuf,
    /// Nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// What is done, and in which order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first serial.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Acknowledged writes after which it ends by itself; 0: it goes on until told.
    #[arg(long, default_value_t = 0)]
    writes: u64,
    /// The boot of the machine that the nodes are to believe in.
    #[arg(long, default_value = FIRST_BOOT)]
    boot: String,
    /// Writers a node.
    #[arg(long, default_value_t = 2)]
    writers: u64,
    /// What is done besides writing.
    #[arg(long, value_enum, default_value = "all")]
    stir: Stir,
}

/// What all tasks share.
struct Run {
    arguments: Arguments,
    marks: Arc<Marks>,
    pop: Mutex<Pop>,
    serial: AtomicU64,
    acked: AtomicU64,
    progress: Notify,
    done: Notify,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    // Planted bugs are switched on by FAILPOINTS.
    let _planted = fail::FailScenario::setup();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let arguments = Arguments::parse();
    let marks = Arc::new(Marks::open(&arguments.root)?);
    let witness = Arc::clone(&marks);
    let mut settings = Settings::busy(
        arguments.nodes,
        arguments.seed,
        Arc::new(move |promise| witness.say(&Mark::Promise(promise))),
    );
    settings.boot.clone_from(&arguments.boot);
    marks.say(&Mark::Boot(arguments.boot.clone()));
    if arguments.stir == Stir::Nothing {
        // No file is ended, and nobody is elected because the machine was busy: both cost a sync.
        settings.log_chunk_bytes_max = 16 << 20;
        settings.election_ms = 1_000;
    }
    let pop = Mutex::new(Pop::new(&arguments.root, settings));
    let serial = AtomicU64::new(arguments.first);
    let (acked, progress, done) = (AtomicU64::new(0), Notify::new(), Notify::new());
    let run = Arc::new(Run { arguments, marks, pop, serial, acked, progress, done });
    run.start().await?;
    let quiet = run.arguments.stir == Stir::Nothing;
    for node in 1..=if quiet { 1 } else { run.arguments.nodes } {
        for writer in 0..run.arguments.writers {
            tokio::spawn(Arc::clone(&run).write(node, writer));
        }
    }
    if !quiet {
        tokio::spawn(Arc::clone(&run).stir());
    }
    tokio::spawn(Arc::clone(&run).obey());
    run.done.notified().await;
    let mut pop = run.pop.lock().await;
    if quiet {
        pop.agree(PATIENCE).await?;
    }
    run.marks.say(&Mark::Done);
    pop.stop_all().await;
    Ok(())
}

impl Run {
    async fn start(&self) -> Result<()> {
        let mut pop = self.pop.lock().await;
        for node in 1..=self.arguments.nodes {
            self.boot(&mut pop, node).await?;
        }
        pop.form().await?;
        let (_, leader) = pop.leader(PATIENCE).await?;
        if self.arguments.stir == Stir::Nothing {
            // The leader's own entry, too, is on all disks.
            leader.read_index(Instant::now() + PATIENCE).await?;
            pop.agree(PATIENCE).await?;
        }
        self.marks.say(&Mark::Up);
        Ok(())
    }

    async fn boot(&self, pop: &mut Pop, node: u64) -> Result<()> {
        pop.boot(node).await?;
        if let Some(error) = pop.refused().get(&node) {
            self.marks.say(&Mark::Refused { node, reason: reason(error) });
        }
        Ok(())
    }

    async fn store(&self, node: u64) -> Option<Store> {
        self.pop.lock().await.stores().get(&node).cloned()
    }

    /// Writes through one node, each write until it is acknowledged.
    async fn write(self: Arc<Self>, node: u64, writer: u64) {
        let mut random = fastrand::Rng::with_seed(self.arguments.seed ^ node << 32 ^ writer << 40);
        loop {
            // Mostly small; now and then a write of many pages.
            let count = if random.u64(0..8) == 0 { random.u64(1..=EVENTS_MAX) } else { random.u64(1..=8) };
            let first = self.serial.fetch_add(count, Ordering::Relaxed);
            while !self.acknowledged(node, first, count).await {
                sleep(PAUSE).await;
            }
            let acked = self.acked.fetch_add(1, Ordering::Relaxed) + 1;
            self.progress.notify_waiters();
            if acked == self.arguments.writes {
                self.done.notify_one();
                if self.arguments.stir == Stir::Nothing {
                    return;
                }
            }
        }
    }

    async fn acknowledged(&self, node: u64, first: u64, count: u64) -> bool {
        let Some(store) = self.store(node).await else { return false };
        let command = track(first..first + count).expect("names are short");
        let reason = match store.propose(command, Instant::now() + SOON).await {
            Ok(proposed) if matches!(proposed.effect, Effect::Tracked { .. }) => {
                self.marks.say(&Mark::Acked { first, count, node });
                return true;
            }
            Ok(proposed) => format!("{:?}", proposed.effect),
            Err(error) => reason(&error),
        };
        self.marks.say(&Mark::Refused { node, reason });
        false
    }

    /// Now and then does something else than writing.
    async fn stir(self: Arc<Self>) {
        let mut random = fastrand::Rng::with_seed(self.arguments.seed);
        let mut next = 0;
        loop {
            let progress = self.progress.notified();
            if self.acked.load(Ordering::Relaxed) < next {
                progress.await;
                continue;
            }
            next = self.acked.load(Ordering::Relaxed) + random.u64(3..20);
            let node = random.u64(1..=self.arguments.nodes);
            let Some(store) = self.store(node).await else { continue };
            // That one of these fails is no news: leaders change, nodes stop.
            match random.u64(0..10) {
                0..=4 => drop(store.snapshot().await),
                5 => self.acknowledge(&store).await,
                _ if self.arguments.stir == Stir::Snapshots => {}
                6 | 7 => self.activate(&store, random.usize(10..60_000)).await,
                8 => drop(store.transfer_leadership().await),
                _ => self.restart(node).await.expect("a node starts again"),
            }
        }
    }

    async fn acknowledge(&self, store: &Store) {
        let last = store.changes().borrow().last_offset;
        let upto = Offset(last.0 / 2);
        drop(store.propose(Command::Acknowledge { upto }, Instant::now() + SOON).await);
    }

    async fn activate(&self, store: &Store, len: usize) {
        let revision = proto::Revision(store.changes().borrow().revision.0 + 1);
        let manifest =
            proto::bundle::Manifest { revision, published_at_ms: 1, expires_at_ms: 2, artifacts: Vec::new() };
        // The signature is the gateway's business, and the store keeps it as it is: here it makes the entry large.
        let signature = vec![0x5a; len];
        let manifest = SignedManifest { manifest: proto::codec::encode(&manifest), signature };
        let proposed = store.propose(Command::Activate { manifest }, Instant::now() + SOON).await;
        if proposed.is_ok_and(|proposed| matches!(proposed.effect, Effect::Activated { .. })) {
            self.marks.say(&Mark::Revision(revision.0));
        }
    }

    async fn restart(&self, node: u64) -> Result<()> {
        let mut pop = self.pop.lock().await;
        pop.stop(node).await;
        self.boot(&mut pop, node).await?;
        pop.form().await
    }

    async fn obey(self: Arc<Self>) -> Result<()> {
        let (told, mut orders) = mpsc::channel(ORDERS_LEN_MAX);
        std::thread::spawn(move || {
            let lines = std::io::stdin().lines().map_while(Result::ok);
            lines.take_while(|line| told.blocking_send(line.clone()).is_ok()).for_each(drop);
        });
        while let Some(line) = orders.recv().await {
            match line.split_once(' ') {
                Some(("restart", node)) => self.restart(node.parse().context("restart N")?).await?,
                _ => self.done.notify_one(),
            }
        }
        Ok(())
    }
}

/// An error with its causes.
fn reason(error: &StoreError) -> String {
    let mut text = format!("{:?}: {error}", error.code());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if error.code() == Code::Internal { format!("the disk: {text}") } else { text }
}
