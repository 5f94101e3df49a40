//! One node's disk is full, or fails to sync, for some seconds: the node says so, acknowledges nothing, goes on answering, and
//! begins anew when the disk takes writes again (`edge-node/src/disk.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::client::{Client, Door, Way};
use super::kinds::Fault;
use super::watch::{Node, Watch};

/// How long a node may take to notice: one that nobody writes to does not.
const NOTICES_WITHIN: Duration = Duration::from_secs(6);
/// It looks after its disk once a second.
const LATE: Duration = Duration::from_millis(2_500);
/// How long an answer may take: the machine is shared with everything else.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to begin anew.
const ANEW_WITHIN: Duration = Duration::from_secs(30);
/// How often its log is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Clients that see that nothing is acknowledged have numbers from here on, one a life of a node.
const PROBERS: u64 = 1_000;

/// A disk that is to be broken.
pub struct Ailing {
    /// Whose; nobody else looks at how far it is in this life, for it will go back when it begins anew.
    pub node: Node,
    /// How its disk fails.
    pub fault: Fault,
    /// For how long.
    pub lasts: Duration,
    /// The file of rules.
    pub control: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// How it is reached.
    pub way: Way,
    /// The run's.
    pub watch: Watch,
    /// The run's.
    pub seed: u64,
}

impl Ailing {
    /// Breaks the disk and mends it. False: the node did not notice, or was ended meanwhile.
    ///
    /// # Errors
    /// Where the node acknowledged what it could not make durable, did not answer a read, or did not begin anew.
    pub async fn run(self) -> anyhow::Result<bool> {
        let from = std::fs::metadata(&self.log)?.len();
        let mends = Instant::now() + self.lasts;
        std::fs::write(&self.control, self.rules())?;
        let mut noticed = self.says(from, "the store has ended", NOTICES_WITHIN).await?;
        self.watch.note(&format!("node {}: {}: noticed {noticed}", self.node.node, self.fault.name()));
        let asked = if noticed { self.ask().await } else { Ok(()) };
        tokio::time::sleep_until(mends).await;
        mend(&self.control)?;
        asked?;
        // The last call that failed may be told of later.
        noticed = noticed || self.says(from, "the store has ended", LATE).await?;
        if noticed && !self.says(from, "the node begins anew", ANEW_WITHIN).await? {
            anyhow::ensure!(!self.watch.lives(&self.node), "{} did not begin anew", self.who());
        }
        if noticed && !self.says(from, "node is up", ANEW_WITHIN).await? {
            anyhow::ensure!(!self.watch.lives(&self.node), "{} began anew, and is not up", self.who());
        }
        let whole = noticed && self.watch.lives(&self.node);
        self.watch.note(&format!("node {}: its disk works again; it began anew: {whole}", self.node.node));
        Ok(whole)
    }

    /// What fails: all that takes space, or every sync of the log; and what the node tries its disk with.
    fn rules(&self) -> &'static str {
        match self.fault {
            Fault::DiskFull => "write 28 store/\nwrite 28 disk.probe\n",
            _ => "sync 5 store/log\nsync 5 disk.probe\n",
        }
    }

    fn who(&self) -> String {
        format!("node {}, whose disk worked again ({}),", self.node.node, self.fault.name())
    }

    /// Whether the node's log says something after a place in it, in time, and in this life.
    async fn says(&self, from: u64, what: &str, within: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + within;
        while self.watch.lives(&self.node) {
            if after(&self.log, from)?.contains(what) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(POLL).await;
        }
        Ok(false)
    }

    async fn ask(&self) -> anyhow::Result<()> {
        let now = self.watch.nodes().into_iter().find(|node| node.node == self.node.node);
        let Some(now) = now.filter(|now| now.life == self.node.life) else { return Ok(()) };
        let number = PROBERS + now.node * 100 + now.life;
        let mut prober = Client::new(number, self.seed, self.way.clone(), self.watch.clone());
        let acknowledged = prober.write_through(&now).await;
        prober.give_up();
        // Another process may listen there by now.
        let lied = acknowledged && self.watch.lives(&self.node);
        anyhow::ensure!(!lied, "node {} acknowledges a write: {}", now.node, self.fault.name());
        let mut door = Door::new(self.way.clone());
        let answers = async {
            while door.offered(&now, 0, None).await.is_none() {
                sleep(POLL).await;
            }
        };
        let answered = timeout(ANSWERS_WITHIN, answers).await.is_ok();
        let excused = !self.watch.undisturbed(&now);
        anyhow::ensure!(
            answered || excused,
            "node {} does not answer a read: {}",
            now.node,
            self.fault.name()
        );
        Ok(())
    }
}

/// From now on no call fails.
///
/// # Errors
/// Where the rules cannot be taken away.
pub fn mend(control: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(control) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn after(log: &Path, from: u64) -> anyhow::Result<String> {
    let bytes = std::fs::read(log)?;
    let from = usize::try_from(from)?.min(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
}
