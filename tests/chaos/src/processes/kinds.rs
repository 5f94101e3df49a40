//! The kinds of fault that a run may have, and what people call them.

use super::gear::Gear;
use crate::relay::Kind;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of one node.
    Kill,
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of a majority.
    KillQuorum,
    /// SIGKILL of all nodes.
    KillAll,
    /// SIGSTOP of one node for half to three elections.
    Pause,
    /// SIGSTOP of the leader for half to three elections.
    PauseLeader,
    /// The leader hands over.
    Transfer,
    /// SIGKILL of the cloud.
    KillCloud,
    /// Nothing passes between any node and the cloud.
    CutCloud,
    /// A new node joins, and another leaves.
    Replace,
    /// All nodes are stopped in order and started as the next binary, one after the other.
    Upgrade,
    /// One node's disk is full.
    DiskFull,
    /// One node's log cannot be synced.
    DiskFails,
    /// One node's cable is out: only in network namespaces.
    Unplug,
    /// The kernel delays, loses and doubles what is sent to a node: only in network namespaces.
    Netem,
    /// What a relay does to datagrams.
    Network(Kind),
}

/// All that any run has.
const ALL: [Fault; 22] = [
    Fault::Kill,
    Fault::KillLeader,
    Fault::KillQuorum,
    Fault::KillAll,
    Fault::Pause,
    Fault::PauseLeader,
    Fault::Transfer,
    Fault::KillCloud,
    Fault::CutCloud,
    Fault::Replace,
    Fault::Upgrade,
    Fault::DiskFull,
    Fault::DiskFails,
    Fault::Network(Kind::Delay),
    Fault::Network(Kind::Jitter),
    Fault::Network(Kind::Loss),
    Fault::Network(Kind::Duplicate),
    Fault::Network(Kind::Reorder),
    Fault::Network(Kind::OneWay),
    Fault::Network(Kind::Blackhole),
    Fault::Network(Kind::Rate),
    Fault::Network(Kind::Rebind),
];

/// All of a run with what it has.
pub fn kinds(gear: &Gear) -> Vec<Fault> {
    let unplugs = gear.namespaces.as_ref().map(|_| Fault::Unplug);
    let netem = gear.namespaces.as_ref().filter(|namespaces| namespaces.netem()).map(|_| Fault::Netem);
    ALL.into_iter().chain(unplugs).chain(netem).collect()
}

impl Fault {
    /// Whether it takes effect the moment it is injected; the others are counted when they have.
    pub fn at_once(self) -> bool {
        use Fault::{DiskFails, DiskFull, Network, Replace, Upgrade};
        !matches!(self, Network(_) | Replace | Upgrade | DiskFull | DiskFails)
    }

    /// What people call it.
    pub fn name(self) -> String {
        match self {
            Fault::Kill => "kill".into(),
            Fault::KillLeader => "kill of the leader".into(),
            Fault::KillQuorum => "kill of a quorum".into(),
            Fault::KillAll => "kill of all".into(),
            Fault::Pause => "pause".into(),
            Fault::PauseLeader => "pause of the leader".into(),
            Fault::Transfer => "leader transfer".into(),
            Fault::KillCloud => "kill of the cloud".into(),
            Fault::CutCloud => "cloud cut off".into(),
            Fault::Replace => "member replaced".into(),
            Fault::Upgrade => "rolling upgrade".into(),
            Fault::DiskFull => "disk full".into(),
            Fault::DiskFails => "disk does not sync".into(),
            Fault::Unplug => "cable out".into(),
            Fault::Netem => "netem".into(),
            Fault::Network(kind) => format!("datagrams: {kind}"),
        }
    }
}
