//! Network namespaces for a run: each node in one of its own, all joined by a bridge in another, where the cloud, the relays and
//! this program are. Nothing of it touches the network of the machine.
//!
//! ```text
//!  hub: bridge 10.213.0.254 ── cloud, relays, clients
//!        │ v1        │ v2        │ v3 …
//!  eth0 10.213.0.1   .2          .3        (a namespace each)
//! ```
//! [`run`] makes them with iproute2, starts this program again inside the hub, and takes all away at the end: when that ended, when a
//! signal came, and what a killed run of before left. It takes root; where that or `ip` is missing, [`Made::Skipped`] says so.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::Context as _;
use proto::NodeId;
use rockpool::local::Hosts;
use tokio::signal::unix::{SignalKind, signal};

/// Nodes of a run, those that join later among them.
const NODES_MAX: u8 = 8;
/// What the names of all namespaces begin with.
const PREFIX: &str = "rockpool-";
/// The machine that all of this program's own processes are on.
const HUB: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 254);

/// The namespaces in which a run takes place, seen from inside the hub.
#[derive(Debug, Clone)]
pub struct Namespaces {
    prefix: String,
    /// Whether links can be made bad by the kernel (`tc netem`).
    netem: bool,
}

fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 0, node)
}

impl Namespaces {
    /// Those of a name, made by [`run`]; this program was started in their hub.
    ///
    /// # Errors
    /// Where it was not: the links to the nodes are not there.
    pub fn enter(prefix: String) -> anyhow::Result<Self> {
        ip(&["link", "show", "v1"]).context("this is for the program itself: use --namespaces")?;
        let netem = tc("add", "lo", &["delay", "1ms"]).and_then(|()| unspoil("lo")).is_ok();
        Ok(Self { prefix, netem })
    }

    /// Whether links can be made bad by the kernel.
    pub fn netem(&self) -> bool {
        self.netem
    }

    /// This program's address.
    pub fn own(&self) -> IpAddr {
        HUB.into()
    }

    /// Addresses of all that may come to be.
    pub fn hosts(&self) -> Hosts {
        let node = |number| (NodeId(u64::from(number)), IpAddr::V4(address(number)));
        Hosts { cloud: Some(HUB.into()), nodes: (1..=NODES_MAX).map(node).collect::<BTreeMap<_, _>>() }
    }

    /// What a node is started through.
    pub fn through(&self, node: u64) -> Vec<String> {
        ["ip", "netns", "exec", &format!("{}-{node}", self.prefix)].map(str::to_owned).into()
    }

    /// Takes a node's cable out, or puts it in again.
    ///
    /// # Errors
    /// Where `ip` says no.
    pub fn plug(&self, node: u64, plugged: bool) -> anyhow::Result<()> {
        ip(&["link", "set", &format!("v{node}"), if plugged { "up" } else { "down" }])
    }

    /// Lets the kernel delay, lose and double what is sent to a node.
    ///
    /// # Errors
    /// Where `tc` says no.
    pub fn spoil(&self, node: u64, delay_ms: u64, loss_percent: u64) -> anyhow::Result<()> {
        let (delay, loss) = (format!("{delay_ms}ms"), format!("{loss_percent}%"));
        tc("replace", &format!("v{node}"), &["delay", &delay, &delay, "loss", &loss, "duplicate", "5%"])
    }

    /// Ends that.
    ///
    /// # Errors
    /// Where `tc` says no.
    pub fn unspoil(&self, node: u64) -> anyhow::Result<()> {
        unspoil(&format!("v{node}"))
    }
}

fn tc(verb: &str, link: &str, netem: &[&str]) -> anyhow::Result<()> {
    said("tc", &[&["qdisc", verb, "dev", link, "root", "netem"], netem].concat())
}

fn unspoil(link: &str) -> anyhow::Result<()> {
    said("tc", &["qdisc", "del", "dev", link, "root"])
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    said("ip", words)
}

fn said(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {}: {}", words.join(" "), error.trim());
    Ok(())
}

/// Namespaces that this process made; taken away when dropped.
struct Owned {
    prefix: String,
}

impl Owned {
    fn make() -> anyhow::Result<Self> {
        let owned = Self { prefix: format!("{PREFIX}{}", std::process::id()) };
        let hub = owned.hub();
        let inside = |name: &str, words: &[&str]| ip(&[&["-n", name], words].concat());
        ip(&["netns", "add", &hub])?;
        inside(&hub, &["link", "set", "lo", "up"])?;
        inside(&hub, &["link", "add", "br0", "type", "bridge"])?;
        inside(&hub, &["address", "add", &format!("{HUB}/24"), "dev", "br0"])?;
        inside(&hub, &["link", "set", "br0", "up"])?;
        for node in 1..=NODES_MAX {
            let (name, link) = (format!("{}-{node}", owned.prefix), format!("v{node}"));
            ip(&["netns", "add", &name])?;
            inside(&hub, &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            inside(&hub, &["link", "set", &link, "master", "br0", "up"])?;
            inside(&name, &["address", "add", &format!("{}/24", address(node)), "dev", "eth0"])?;
            inside(&name, &["link", "set", "eth0", "up"])?;
            inside(&name, &["link", "set", "lo", "up"])?;
        }
        Ok(owned)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        clear(&self.prefix);
    }
}

/// Names of all namespaces of ours, whoever made them.
fn names() -> Vec<String> {
    let listed = Command::new("ip").args(["netns", "list"]).output().map(|output| output.stdout);
    let listed = String::from_utf8_lossy(&listed.unwrap_or_default()).into_owned();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    listed.lines().filter_map(first).filter(|name| name.starts_with(PREFIX)).collect()
}

/// Ends what runs in the namespaces of a prefix, and takes them away. What cannot be taken away is left to the next run.
fn clear(prefix: &str) {
    for name in
        names().into_iter().filter(|name| name.strip_prefix(prefix).is_some_and(|n| n.starts_with('-')))
    {
        let within = Command::new("ip").args(["netns", "pids", &name]).output().map(|output| output.stdout);
        for id in String::from_utf8_lossy(&within.unwrap_or_default()).split_whitespace() {
            drop(said("kill", &["-KILL", id]));
        }
        drop(ip(&["netns", "delete", &name]));
    }
}

/// Takes away what runs left that were killed themselves.
fn clear_left() {
    for name in names() {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(owner) = owner.filter(|id| !std::path::Path::new("/proc").join(id).exists()) {
            clear(&format!("{PREFIX}{owner}"));
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Made {
    /// The program ran inside, and ended so.
    Ran(ExitCode),
    /// There can be no namespaces here, and why.
    Skipped(String),
}

/// Starts this program again in the hub of new namespaces, with the arguments that `arguments` makes of their name.
///
/// # Errors
/// Where it cannot be started.
pub async fn run(arguments: impl FnOnce(&str) -> Vec<OsString>) -> anyhow::Result<Made> {
    clear_left();
    let owned = match Owned::make() {
        Ok(owned) => owned,
        Err(error) => {
            // What was made before it failed.
            clear(&format!("{PREFIX}{}", std::process::id()));
            return Ok(Made::Skipped(format!("{error:#}")));
        }
    };
    let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut child = tokio::process::Command::new("ip")
        .args(["netns", "exec", &owned.hub()])
        .arg(std::env::current_exe()?)
        .args(arguments(&owned.prefix))
        .kill_on_drop(true)
        .spawn()?;
    let ended: Option<ExitStatus> = tokio::select! {
        status = child.wait() => Some(status?),
        _ = interrupt.recv() => None,
        _ = end.recv() => None,
    };
    let well = ended.is_some_and(|status| status.success());
    Ok(Made::Ran(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
