//! A simulated disk with the page cache before it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use sled::IVec;

use super::lock;
use super::log::{Image, SimLog, Write};
use crate::state::Batch;

/// How a disk behaves. Changes hold for what is asked of it from then on.
#[derive(Debug, Clone, Default)]
pub struct DiskSettings {
    /// Shortest time that a sync takes.
    pub sync_min: Duration,
    /// What the seed may add to it, at most.
    pub sync_jitter: Duration,
    /// What fails, if anything.
    pub failing: Option<Failing>,
}

/// What a disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// Writes: it is full.
    Writes,
    /// Syncs: it is broken, and what was written is lost without a word.
    Syncs,
}

impl Failing {
    fn error(self) -> io::Error {
        match self {
            Failing::Writes => io::ErrorKind::StorageFull.into(),
            Failing::Syncs => io::Error::other("input/output error"),
        }
    }
}

/// What a power cut takes of what was written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    All,
    /// What comes after a point that the seed chooses.
    Tail,
}

/// What a machine keeps. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk {
    pub(super) shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    settings: DiskSettings,
    /// The log as it survives a power cut.
    durable: Image,
    /// Writes to the log after that, oldest first.
    pending: Vec<Write>,
    /// Writes before the pending ones are in the page cache only, for good: after a power cut the log ends before them, whatever
    /// was written and synced behind.
    hole: bool,
    /// The log as the page cache has it.
    pub(super) cached: Image,
    /// Writes that are durable, since the disk was new.
    synced: u64,
    /// The state machine's tree, in the page cache.
    map: Map,
    random: SmallRng,
}

impl State {
    /// Writes since the disk was new.
    pub(super) fn written(&self) -> u64 {
        self.synced + self.pending.len() as u64
    }

    /// A write is taken into the page cache.
    pub(super) fn write(&mut self, write: Write) -> io::Result<()> {
        if let Some(failing @ Failing::Writes) = self.settings.failing {
            return Err(failing.error());
        }
        self.cached.apply(write.clone());
        self.pending.push(write);
        Ok(())
    }

    /// A sync returns: the first `upto` writes are durable.
    pub(super) fn sync(&mut self, upto: u64) -> io::Result<()> {
        if let Some(failing @ Failing::Syncs) = self.settings.failing {
            // The kernel marks the pages clean: later syncs succeed, and write nothing (Rebello et al., "Can Applications
            // Recover from fsync Failures?", 2020).
            self.synced += self.pending.drain(..).count() as u64;
            self.hole = true;
            return Err(failing.error());
        }
        self.settle(upto);
        Ok(())
    }

    fn settle(&mut self, upto: u64) {
        let len = usize::try_from(upto.saturating_sub(self.synced)).unwrap_or(usize::MAX);
        let written: Vec<Write> = self.pending.drain(..len.min(self.pending.len())).collect();
        self.synced += written.len() as u64;
        written.into_iter().filter(|_| !self.hole).for_each(|write| self.durable.apply(write));
    }
}

impl Disk {
    /// An empty disk.
    pub fn new(seed: u64, settings: DiskSettings) -> Self {
        let state = State {
            settings,
            durable: Image::default(),
            pending: Vec::new(),
            hole: false,
            cached: Image::default(),
            synced: 0,
            map: Map::default(),
            random: SmallRng::seed_from_u64(seed),
        };
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut DiskSettings)) {
        change(&mut lock(&self.shared).settings);
    }

    /// The machine loses its power. Of what was written and not synced some is lost, and the page cache is gone.
    /// Returns how many writes were lost.
    pub fn cut_power(&self, loss: Loss) -> usize {
        let mut state = lock(&self.shared);
        let kept = match loss {
            Loss::All => 0,
            Loss::Tail => {
                let pending = state.pending.len();
                state.random.random_range(0..=pending)
            }
        };
        let lost = state.pending.len() - kept;
        let upto = state.synced + kept as u64;
        state.settle(upto);
        state.pending.clear();
        state.hole = false;
        state.cached = state.durable.clone();
        state.map = Map::default();
        lost
    }

    /// Opens the log. What is in the page cache is written anew and synced first, as [`crate::log`] does with files.
    pub(crate) fn log(&self) -> SimLog {
        let mut state = lock(&self.shared);
        state.synced += state.pending.drain(..).count() as u64;
        state.durable = state.cached.clone();
        state.hole = false;
        SimLog::new(self.clone())
    }

    pub(crate) fn map(&self) -> Map {
        lock(&self.shared).map.clone()
    }

    pub(crate) fn adopt(&self, map: Map) {
        lock(&self.shared).map = map;
    }

    pub(super) fn sync_takes(&self) -> Duration {
        let mut state = lock(&self.shared);
        let jitter = u64::try_from(state.settings.sync_jitter.as_micros()).unwrap_or(u64::MAX);
        let jitter = state.random.random_range(0..=jitter);
        state.settings.sync_min + Duration::from_micros(jitter)
    }
}

/// A tree of the state machine. Clones are the same map.
#[derive(Debug, Clone, Default)]
pub struct Map {
    records: Arc<Mutex<BTreeMap<Vec<u8>, IVec>>>,
}

impl Map {
    fn records(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, IVec>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<IVec> {
        self.records().get(key).cloned()
    }

    /// All records, or those in a range.
    pub(crate) fn range(&self, range: Option<Range<Vec<u8>>>) -> Vec<(IVec, IVec)> {
        let records = self.records();
        let owned = |(key, value): (&Vec<u8>, &IVec)| (IVec::from(key.as_slice()), value.clone());
        match range {
            Some(range) => records.range(range).map(owned).collect(),
            None => records.iter().map(owned).collect(),
        }
    }

    pub(crate) fn apply(&self, batch: Batch) {
        let mut records = self.records();
        for (key, value) in batch {
            match value {
                Some(value) => records.insert(key, value.into()),
                None => records.remove(&key),
            };
        }
    }
}
