//! Memory over sled: the newest layer of writes, frozen ones on their way to sled, decoded profiles, sled.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use proto::profile::{Profile, View};
use proto::purge::Purges;
use proto::{Event, Offset, VisitorId};

use super::cache::Cache;
use super::tree::Tree;
use crate::machine::{self, Base, Chunk, Heads, MachineError, Members, Writes, keys, stored};
use crate::weight;

/// Writes with the singletons that go with them: what one atomic batch brings to sled.
#[derive(Debug, Default)]
pub struct Layer {
    /// The writes.
    pub writes: Writes,
    /// The singletons after the last of them.
    pub heads: Heads,
}

#[derive(Debug)]
struct Layers {
    top: Writes,
    /// Oldest first.
    frozen: VecDeque<Arc<Layer>>,
    /// None once the store is shut down: sled's files are free for the next to open them.
    tree: Option<Tree>,
    heads: Heads,
    /// Grows with every change of the layers above sled.
    epoch: u64,
}

/// What readers read. One thread writes.
#[derive(Debug)]
pub struct Hot {
    layers: RwLock<Layers>,
    clean: Mutex<Cache>,
    applied: AtomicU64,
}

/// Events of the outbox: some in memory, the ones before them in sled.
struct Found {
    tree: Tree,
    /// Offsets that sled holds.
    below: std::ops::Range<u64>,
    events: Vec<(Offset, Arc<Event>)>,
}

impl Hot {
    /// Nothing in memory yet.
    pub fn new(tree: Tree, heads: Heads, cache_bytes: u64) -> Self {
        let applied = AtomicU64::new(heads.applied.map_or(0, |at| at.index));
        let layers =
            Layers { top: Writes::default(), frozen: VecDeque::new(), tree: Some(tree), heads, epoch: 0 };
        Self { layers: RwLock::new(layers), clean: Mutex::new(Cache::new(cache_bytes)), applied }
    }

    /// The singletons.
    pub fn heads(&self) -> Heads {
        self.read().heads.clone()
    }

    /// Who is in the group, and who once was.
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.read().heads.members)
    }

    /// What was declared void, with the log index up to which this is known. Every request for content asks.
    pub fn purges(&self) -> (u64, Arc<Purges>) {
        let Heads { applied, purges, .. } = &self.read().heads;
        (applied.map_or(0, |at| at.index), Arc::clone(purges))
    }

    /// Log index that is applied.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// A visitor's profile with the index it was read at or after.
    pub fn view(&self, visitor: &VisitorId) -> Result<View, MachineError> {
        let applied = self.applied();
        let profile = self.profile(visitor)?.map(|profile| (*profile).clone()).unwrap_or_default();
        Ok(View { visitor: visitor.clone(), profile, applied })
    }

    /// Shows new writes to readers. Returns how many values are in the newest layer.
    pub fn publish(&self, writes: Writes, heads: Heads) -> usize {
        let mut layers = self.write();
        layers.top.absorb(writes);
        layers.top.forget_events(heads.offsets.acknowledged);
        layers.heads = heads;
        layers.epoch += 1;
        self.applied.store(layers.heads.applied.map_or(0, |at| at.index), Ordering::Release);
        layers.top.len()
    }

    /// Closes the newest layer; it stays readable until [`Hot::retire`].
    pub fn freeze(&self) -> Arc<Layer> {
        let mut layers = self.write();
        let layer = Layer { writes: std::mem::take(&mut layers.top), heads: layers.heads.clone() };
        let layer = Arc::new(layer);
        layers.frozen.push_back(Arc::clone(&layer));
        layer
    }

    /// Layers on their way to sled.
    pub fn frozen_len(&self) -> usize {
        self.read().frozen.len()
    }

    /// Forgets the oldest frozen layer: sled holds it now.
    pub fn retire(&self) {
        let mut layers = self.write();
        let Some(layer) = layers.frozen.pop_front() else { return };
        layers.epoch += 1;
        // Under the layers' lock: nobody may see sled's profile and put it in the cache over a newer one.
        let mut clean = self.clean();
        for (visitor, profile) in &layer.writes.profiles {
            clean.insert(visitor.clone(), Arc::clone(profile));
        }
    }

    /// Another keyspace takes the place of all.
    pub fn replace(&self, tree: Tree, heads: Heads) {
        let mut layers = self.write();
        self.clean().clear();
        self.applied.store(heads.applied.map_or(0, |at| at.index), Ordering::Release);
        let epoch = layers.epoch + 1;
        *layers = Layers { top: Writes::default(), frozen: VecDeque::new(), tree: Some(tree), heads, epoch };
    }

    /// Lets go of sled. What is in memory can still be read.
    pub fn close(&self) {
        self.write().tree = None;
    }

    /// Whether [`Hot::events`] can answer without reading sled.
    pub fn events_in_memory(&self, after: Offset) -> bool {
        let layers = self.read();
        let first = after.0.max(layers.heads.offsets.acknowledged) + 1;
        first > layers.heads.offsets.last || layers.first_event().is_some_and(|hot| hot <= first)
    }

    /// Events of the outbox after an offset, in order, within both limits. At least one, if there is one.
    pub fn events(
        &self,
        after: Offset,
        len_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Offset, Event)>, MachineError> {
        let found = self.find(after, len_max)?;
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut fits = |event: &Event, len: usize| {
            bytes += weight::event(event);
            len == 0 || (len < len_max && bytes <= bytes_max)
        };
        let range = keys::event(found.below.start)..keys::event(found.below.end);
        for record in found.tree.range(range) {
            let (key, value) = record?;
            let Some(offset) = keys::event_offset(&key) else { continue };
            let event: Event = stored::decode_at(&key, &value)?;
            if !fits(&event, events.len()) {
                return Ok(events);
            }
            events.push((Offset(offset), event));
        }
        for (offset, event) in found.events {
            if !fits(&event, events.len()) {
                break;
            }
            events.push((offset, (*event).clone()));
        }
        Ok(events)
    }

    fn find(&self, after: Offset, len_max: usize) -> Result<Found, MachineError> {
        let layers = self.read();
        let offsets = layers.heads.offsets;
        let first = after.0.max(offsets.acknowledged) + 1;
        let hot = layers.first_event().unwrap_or(offsets.last + 1).max(first);
        // No more from sled than were asked for: the rest of the range is somebody else's turn.
        let below = first..hot.min(first.saturating_add(len_max as u64));
        let missing = len_max.saturating_sub(usize::try_from(hot - first).unwrap_or(usize::MAX));
        let above = layers.frozen.iter().map(|layer| &layer.writes).chain([&layers.top]);
        let events = above.flat_map(|writes| writes.events.range(first..)).take(missing);
        let events = events.map(|(offset, event)| (Offset(*offset), Arc::clone(event))).collect();
        Ok(Found { tree: layers.tree()?, below, events })
    }

    fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn clean(&self) -> MutexGuard<'_, Cache> {
        self.clean.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layers {
    fn tree(&self) -> Result<Tree, MachineError> {
        let closed = || MachineError::Base { operation: "read", reason: "it is closed".into() };
        self.tree.clone().ok_or_else(closed)
    }

    /// The newest value that memory has.
    fn newest<'a, T>(&'a self, look: impl Fn(&'a Writes) -> Option<T>) -> Option<T> {
        look(&self.top).or_else(|| self.frozen.iter().rev().find_map(|layer| look(&layer.writes)))
    }

    /// Offset of the oldest event in memory that the cloud does not hold. All after it are in memory, too.
    fn first_event(&self) -> Option<u64> {
        let above = self.frozen.iter().map(|layer| &layer.writes).chain([&self.top]);
        let waiting = self.heads.offsets.acknowledged + 1;
        above.filter_map(|writes| writes.events.range(waiting..).next()).map(|(offset, _)| *offset).next()
    }
}

impl Base for Arc<Hot> {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        let tree = self.read().tree()?;
        Ok(tree.get(key)?.map(|value| value.to_vec()))
    }

    fn profile(&self, visitor: &VisitorId) -> Result<Option<Arc<Profile>>, MachineError> {
        Hot::profile(self, visitor)
    }

    fn chunk(&self, number: u64) -> Result<Option<Arc<Chunk>>, MachineError> {
        if let Some(written) = self.read().newest(|writes| writes.chunks.get(&number)) {
            return Ok(written.clone());
        }
        Ok(machine::read::<Chunk, _>(self, &keys::chunk(number))?.map(Arc::new))
    }
}

impl Hot {
    fn profile(&self, visitor: &VisitorId) -> Result<Option<Arc<Profile>>, MachineError> {
        let (tree, epoch) = {
            let layers = self.read();
            if let Some(profile) = layers.newest(|writes| writes.profiles.get(visitor)) {
                return Ok(Some(Arc::clone(profile)));
            }
            if let Some(profile) = self.clean().get(visitor) {
                return Ok(Some(profile));
            }
            (layers.tree()?, layers.epoch)
        };
        let key = keys::profile(visitor);
        let Some(value) = tree.get(&key)? else { return Ok(None) };
        let profile: Arc<Profile> = Arc::new(stored::decode_at(&key, &value)?);
        let layers = self.read();
        // Had anything changed meanwhile, this profile might be older than what sled holds by now.
        if layers.epoch == epoch {
            self.clean().insert(visitor.clone(), Arc::clone(&profile));
        }
        Ok(Some(profile))
    }
}
