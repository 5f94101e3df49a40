//! What a PoP promises, one file a promise.
//!
//! Each promise is an oracle over facts: what clients sent and were told, what nodes said of themselves, what the cloud
//! took. Serials are unique, so every check is a look into a map and never a search. The simulator and the process runs
//! feed the same oracles.

mod acked_write_survives;
mod applied_never_regresses;
mod event_reaches_cloud_exactly_once;
mod heals_when_faults_stop;
mod linearizable_reads;
mod one_leader_per_term;
mod order_per_visitor_kept;
mod queues_stay_bounded;
mod read_your_writes;
mod reads_answer_while_cloud_is_gone;
mod replicas_agree;
mod revision_never_goes_back;
mod served_model_is_published_and_signed;
mod stale_reads_say_their_age;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Digest, EventId, Offset, Revision};

pub use heals_when_faults_stop::Healed;
pub use queues_stay_bounded::Lengths;

/// Number of an event of one visitor, from 1, in the order its client sent them.
pub type Serial = u64;
/// A visitor's number.
pub type Visitor = u64;
/// A node's number.
pub type Node = u64;
/// Visitors from here on are written by several clients at once: their serials are unique, and have no order.
pub const SHARED_FROM: Visitor = 1_000_000_000;

/// What a read promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// What the node has, no older than it says.
    Local {
        /// How old the node says it may be; none: it cannot say.
        age: Option<Duration>,
    },
    /// At least what the session's own writes made.
    Session,
    /// Everything that was acknowledged before it began.
    Linearizable,
}

/// A read that was answered.
#[derive(Debug, Clone)]
pub struct Read<'a> {
    /// By which node.
    pub node: Node,
    /// Of whom.
    pub visitor: Visitor,
    /// When it was asked.
    pub began: Duration,
    /// What the node promised.
    pub consistency: Consistency,
    /// The visitor's events in the order in which the node counted them.
    pub seen: &'a [Serial],
}

/// Something that was observed.
#[derive(Debug, Clone)]
pub enum Fact<'a> {
    /// A client sends an event, for the first time or again.
    Sent {
        /// Whose.
        visitor: Visitor,
        /// Which.
        serial: Serial,
        /// Its id.
        id: EventId,
    },
    /// A client was told that an event is counted.
    Acknowledged {
        /// Whose.
        visitor: Visitor,
        /// Which.
        serial: Serial,
    },
    /// A read was answered.
    Read(Read<'a>),
    /// A node was asked for a local read while the cloud was away, and whether it answered.
    AskedWithoutCloud {
        /// Which node.
        node: Node,
        /// Whether it answered.
        answered: bool,
    },
    /// A node says that it leads.
    Leads {
        /// Which.
        node: Node,
        /// In which term.
        term: u64,
    },
    /// A node says how far it is.
    Applied {
        /// Which.
        node: Node,
        /// How often it was started.
        life: u64,
        /// Log index applied.
        index: u64,
        /// The active bundle.
        revision: Revision,
    },
    /// A node's whole state at an index.
    Digest {
        /// Which.
        node: Node,
        /// Log index.
        index: u64,
        /// SHA-256 of its keyspace.
        digest: Digest,
    },
    /// The cloud made an event durable.
    Taken {
        /// At which offset of the PoP.
        offset: Offset,
        /// Its id.
        id: EventId,
    },
    /// The cloud published a bundle.
    Published {
        /// Its number.
        revision: Revision,
        /// SHA-256 of its signed manifest.
        manifest: Digest,
    },
    /// A node serves from a bundle.
    Serves {
        /// Which node.
        node: Node,
        /// The bundle's number.
        revision: Revision,
        /// SHA-256 of its signed manifest.
        manifest: Digest,
        /// Whether its signature is the cloud's.
        signed: bool,
    },
    /// What waits at a node.
    Waits {
        /// Which node.
        node: Node,
        /// What waits.
        lengths: Lengths,
    },
    /// Some time after the last fault.
    Healed(Healed),
}

/// A promise.
pub trait Invariant: Send {
    /// Its name: the file's.
    fn name(&self) -> &'static str;

    /// Takes in a fact, observed at a time since the start.
    ///
    /// # Errors
    /// Says how the fact breaks the promise.
    fn observe(&mut self, at: Duration, fact: &Fact<'_>) -> Result<(), String>;

    /// Judges the whole, after everything healed.
    ///
    /// # Errors
    /// Says how the promise was broken.
    fn end(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Which promise.
    pub invariant: String,
    /// How.
    pub what: String,
    /// When, in milliseconds since the start.
    pub at_ms: u64,
}

/// Violations kept of one run: the first say what happened.
const VIOLATIONS_MAX: usize = 20;

/// All promises, watched at once.
pub struct Oracle {
    invariants: Vec<Box<dyn Invariant>>,
    checked: BTreeMap<&'static str, u64>,
    violations: Vec<Violation>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

impl Oracle {
    /// Has seen nothing yet.
    pub fn new() -> Self {
        let invariants: Vec<Box<dyn Invariant>> = vec![
            Box::<acked_write_survives::AckedWriteSurvives>::default(),
            Box::<replicas_agree::ReplicasAgree>::default(),
            Box::<applied_never_regresses::AppliedNeverRegresses>::default(),
            Box::<one_leader_per_term::OneLeaderPerTerm>::default(),
            Box::<linearizable_reads::LinearizableReads>::default(),
            Box::<read_your_writes::ReadYourWrites>::default(),
            Box::<stale_reads_say_their_age::StaleReadsSayTheirAge>::default(),
            Box::<event_reaches_cloud_exactly_once::EventReachesCloudExactlyOnce>::default(),
            Box::<order_per_visitor_kept::OrderPerVisitorKept>::default(),
            Box::<served_model_is_published_and_signed::ServedModelIsPublishedAndSigned>::default(),
            Box::<revision_never_goes_back::RevisionNeverGoesBack>::default(),
            Box::<reads_answer_while_cloud_is_gone::ReadsAnswerWhileCloudIsGone>::default(),
            Box::<queues_stay_bounded::QueuesStayBounded>::default(),
            Box::<heals_when_faults_stop::HealsWhenFaultsStop>::default(),
        ];
        Self { invariants, checked: BTreeMap::new(), violations: Vec::new() }
    }

    /// Takes in a fact.
    pub fn observe(&mut self, at: Duration, fact: &Fact<'_>) {
        *self.checked.entry(name(fact)).or_default() += 1;
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.observe(at, fact) {
                violate(&mut self.violations, &**invariant, what, at);
            }
        }
    }

    /// Judges the whole.
    pub fn end(&mut self, at: Duration) {
        for invariant in &self.invariants {
            if let Err(what) = invariant.end() {
                violate(&mut self.violations, &**invariant, what, at);
            }
        }
    }

    /// What was broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Facts that were checked, by kind.
    pub fn checked(&self) -> &BTreeMap<&'static str, u64> {
        &self.checked
    }
}

fn violate(violations: &mut Vec<Violation>, invariant: &dyn Invariant, what: String, at: Duration) {
    if violations.len() < VIOLATIONS_MAX {
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        violations.push(Violation { invariant: invariant.name().to_owned(), what, at_ms });
    }
}

fn name(fact: &Fact<'_>) -> &'static str {
    match fact {
        Fact::Sent { .. } => "sent",
        Fact::Acknowledged { .. } => "acknowledged",
        Fact::Read(Read { consistency: Consistency::Local { .. }, .. }) => "local reads",
        Fact::Read(Read { consistency: Consistency::Session, .. }) => "session reads",
        Fact::Read(Read { consistency: Consistency::Linearizable, .. }) => "linearizable reads",
        Fact::AskedWithoutCloud { .. } => "reads without the cloud",
        Fact::Leads { .. } => "leaders",
        Fact::Applied { .. } => "positions",
        Fact::Digest { .. } => "digests",
        Fact::Taken { .. } => "taken by the cloud",
        Fact::Published { .. } => "bundles published",
        Fact::Serves { .. } => "bundles served",
        Fact::Waits { .. } => "queue lengths",
        Fact::Healed(_) => "healings",
    }
}

#[cfg(test)]
mod tests;
