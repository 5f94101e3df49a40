//! The pure state machine: `apply(state, command) -> effect`. No IO of its own, no async, no clock, no randomness: the
//! same commands in the same order give the same keyspace on every replica, byte for byte.
//!
//! The state is one keyspace ([`keys`]) in two parts: what lies below ([`Base`]: sled, or a map in tests) and the writes
//! since ([`Writes`]). Small singletons ([`Heads`]) and the dedupe window stand in memory as well. One aggregate a file:
//!
//! | module | what |
//! |---|---|
//! | [`profile`] | what is known of a visitor |
//! | [`outbox`] | committed events that the cloud has not acknowledged, and how far it has |
//! | [`dedupe`] | event ids that were counted |
//! | [`bundle`] | the active manifest and the one before |
//! | [`purge`] | what of the content cache was declared void |
//! | [`erasure`] | who was erased |
//! | [`members`] | who is in the group, and who once was |

pub mod bundle;
pub mod dedupe;
pub mod erasure;
pub mod keys;
pub mod members;
mod memory;
pub mod outbox;
pub mod profile;
pub mod purge;
pub mod stored;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proto::codec::CodecError;
use proto::command::{Command, Effect};
use proto::profile::Profile;
use proto::purge::Purges;
use proto::{Code, ErrorReply, Event, VisitorId};

pub use bundle::Bundles;
pub use dedupe::{Chunk, DedupeHead};
pub use erasure::Erasures;
pub use members::Members;
pub use memory::{Memory, digest_record};
pub use outbox::{OUTBOX_LEN_MAX, Offsets};
pub use stored::Stored;

use dedupe::Seen;

/// Why the machine could not go on: what lies below it failed or is corrupt. Never the fault of a command.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MachineError {
    /// The base could not be read or written.
    #[error("cannot {operation} the state: {reason}")]
    Base {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: Arc<str>,
    },
    /// A stored value is not what its key says.
    #[error("the state's value at {key} is corrupt: {source}")]
    Corrupt {
        /// Its key, in hex.
        key: String,
        /// Why it cannot be read.
        #[source]
        source: CodecError,
    },
    /// A value that must be there is not.
    #[error("the state lacks {0}")]
    Missing(&'static str),
}

/// What lies below the writes.
pub trait Base {
    /// The value at a key.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MachineError>;

    /// The profile of a visitor; a base that keeps them decoded answers without decoding.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn profile(&self, visitor: &VisitorId) -> Result<Option<Arc<Profile>>, MachineError> {
        Ok(read::<Profile, _>(self, &keys::profile(visitor))?.map(Arc::new))
    }

    /// A chunk of the dedupe window.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn chunk(&self, number: u64) -> Result<Option<Arc<Chunk>>, MachineError> {
        Ok(read::<Chunk, _>(self, &keys::chunk(number))?.map(Arc::new))
    }
}

/// Reads and decodes one value of a base.
///
/// # Errors
/// Where it cannot be read or decoded.
pub fn read<T: Stored, B: Base + ?Sized>(base: &B, key: &[u8]) -> Result<Option<T>, MachineError> {
    base.value(key)?.map(|bytes| stored::decode_at(key, &bytes)).transpose()
}

/// Position in the Raft log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Position {
    /// Raft term.
    pub term: u64,
    /// Raft log index.
    pub index: u64,
}

/// The singletons of the keyspace, decoded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heads {
    /// The last entry applied; none yet.
    pub applied: Option<Position>,
    /// First and last event of the outbox.
    pub offsets: Offsets,
    /// Where the dedupe window begins and ends.
    pub dedupe: DedupeHead,
    /// The active bundle and the one before.
    pub bundles: Arc<Bundles>,
    /// Who is in the group, and who once was.
    pub members: Arc<Members>,
    /// What of the content cache was declared void.
    pub purges: Arc<Purges>,
    /// How far the cloud's list of erasures is carried out.
    pub erasures: Erasures,
}

impl Heads {
    /// Reads the singletons of a base; the defaults where it is empty.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn read<B: Base>(base: &B) -> Result<Self, MachineError> {
        Ok(Self {
            applied: read(base, keys::APPLIED)?,
            offsets: read(base, keys::OFFSETS)?.unwrap_or_default(),
            dedupe: read(base, keys::DEDUPE)?.unwrap_or_default(),
            bundles: Arc::new(read(base, keys::BUNDLES)?.unwrap_or_default()),
            members: Arc::new(read(base, keys::MEMBERS)?.unwrap_or_default()),
            purges: Arc::new(read(base, keys::PURGES)?.unwrap_or_default()),
            erasures: read(base, keys::ERASURES)?.unwrap_or_default(),
        })
    }

    /// Keys and values of all singletons.
    pub fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = vec![
            (keys::OFFSETS.to_vec(), stored::encode(&self.offsets)),
            (keys::DEDUPE.to_vec(), stored::encode(&self.dedupe)),
            (keys::BUNDLES.to_vec(), stored::encode(&*self.bundles)),
            (keys::MEMBERS.to_vec(), stored::encode(&*self.members)),
        ];
        if let Some(applied) = &self.applied {
            records.push((keys::APPLIED.to_vec(), stored::encode(applied)));
        }
        // Where nothing was ever purged, the keyspace is that of a node that knows no purges.
        if self.purges.last() > 0 {
            records.push((keys::PURGES.to_vec(), stored::encode(&*self.purges)));
        }
        // The same for erasures.
        if self.erasures.0 > 0 {
            records.push((keys::ERASURES.to_vec(), stored::encode(&self.erasures)));
        }
        records
    }
}

/// What was written and is not in the base yet. Values stay decoded: one that is written again, or forgotten, before it
/// reaches the base is never encoded.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// Profiles.
    pub profiles: HashMap<VisitorId, Arc<Profile>>,
    /// Events of the outbox, by offset.
    pub events: BTreeMap<u64, Arc<Event>>,
    /// Chunks of the dedupe window; none: removed.
    pub chunks: BTreeMap<u64, Option<Arc<Chunk>>>,
}

impl Writes {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.profiles.len() + self.events.len() + self.chunks.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in newer writes.
    pub fn absorb(&mut self, newer: Writes) {
        if self.is_empty() {
            *self = newer;
            return;
        }
        self.profiles.extend(newer.profiles);
        self.events.extend(newer.events);
        self.chunks.extend(newer.chunks);
    }

    /// Forgets events that the cloud holds.
    pub fn forget_events(&mut self, acknowledged: u64) {
        if self.events.first_key_value().is_some_and(|(first, _)| *first <= acknowledged) {
            self.events = self.events.split_off(&acknowledged.saturating_add(1));
        }
    }

    /// Keys and values, encoded; none: the key is removed. Events that the cloud has acknowledged are left out.
    pub fn records(&self, acknowledged: u64) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> + '_ {
        let profiles = self.profiles.iter().map(|(id, p)| (keys::profile(id), Some(stored::encode(&**p))));
        let waiting = self.events.range(acknowledged.saturating_add(1)..);
        let events = waiting.map(|(offset, event)| (keys::event(*offset), Some(stored::encode(&**event))));
        let chunks =
            self.chunks.iter().map(|(n, c)| (keys::chunk(*n), c.as_ref().map(|c| stored::encode(&**c))));
        profiles.chain(events).chain(chunks)
    }
}

/// The state that commands are applied to.
#[derive(Debug)]
pub struct State<B> {
    base: B,
    heads: Heads,
    seen: Seen,
    writes: Writes,
}

impl<B: Base> State<B> {
    /// Reads the singletons and the dedupe window of a base.
    ///
    /// # Errors
    /// Where they cannot be read, or do not fit each other.
    pub fn load(base: B) -> Result<Self, MachineError> {
        let heads = Heads::read(&base)?;
        let seen = Seen::load(&heads.dedupe, &base)?;
        Ok(Self { base, heads, seen, writes: Writes::default() })
    }

    /// The singletons.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// What lies below.
    pub fn base(&self) -> &B {
        &self.base
    }

    /// What lies below, to write to it.
    pub fn base_mut(&mut self) -> &mut B {
        &mut self.base
    }

    /// Notes that the entry at `position` is applied, whatever it held. The commands of an entry come before.
    pub fn applied(&mut self, position: Position) {
        self.heads.applied = Some(position);
    }

    /// Hands over what was written since the last time. The caller must have it found by [`Base`] from now on.
    pub fn take_writes(&mut self) -> Writes {
        std::mem::take(&mut self.writes)
    }

    /// Puts the chunk of the dedupe window that is being filled among the writes: before the keyspace is stored as a
    /// whole, not after every entry.
    pub fn complete(&mut self) {
        self.seen.write_tail(&mut self.writes, self.heads.dedupe.next);
    }
}

/// Applies one command. A command never fails: what it may not do, it is refused, with nothing changed.
///
/// # Errors
/// Where the base fails; the state is of no more use then.
pub fn apply<B: Base>(state: &mut State<B>, command: Command) -> Result<Effect, MachineError> {
    match command {
        Command::Track { events, received_at_ms } => track(state, events, received_at_ms),
        Command::Served { visitor, items, at_ms } => {
            profile::change(state, &visitor, |profile| profile.serve(&items, at_ms))?;
            Ok(Effect::Done)
        }
        Command::Activate { manifest } => Ok(bundle::activate(state, manifest)),
        Command::Acknowledge { upto } => Ok(outbox::acknowledge(state, upto)),
        Command::Purge { keys, all } => Ok(purge::purge(state, &keys, all)),
        Command::Erase { visitor, at_ms, number } => erasure::erase(state, &visitor, at_ms, number),
    }
}

fn track<B: Base>(
    state: &mut State<B>,
    events: Vec<Event>,
    received_at_ms: u64,
) -> Result<Effect, MachineError> {
    if state.heads.offsets.len() + events.len() as u64 > OUTBOX_LEN_MAX {
        let message = format!("{OUTBOX_LEN_MAX} events wait for the cloud already");
        return Ok(Effect::Refused(ErrorReply::new(Code::Overloaded, message).retry_after_ms(1_000)));
    }
    dedupe::advance(state, received_at_ms)?;
    let (mut accepted, mut duplicates) = (0, 0);
    for event in events {
        if dedupe::insert(state, event.id)? {
            profile::change(state, &event.visitor, |profile| profile.record(&event))?;
            outbox::push(state, event);
            accepted += 1;
        } else {
            duplicates += 1;
        }
    }
    Ok(Effect::Tracked { accepted, duplicates })
}

#[cfg(test)]
mod tests;
