//! The disk tier, warm after a restart: two generations, of which the newer is written to. Where it has its half of the room, the
//! older is removed whole and the newer takes its place: nothing is freed within one. What is found in the older one, and so is still
//! wanted, is written to the newer one again.
//!
//! A generation is a sled database of heads and a file of bodies, one after the other: sled writes a leaf of its tree whole, again and
//! again, which bodies would make many times their size.
//!
//! Nothing here must survive: a damaged database is removed, and a disk that fails leaves the memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::entry::{Entry, Variants};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::record::{self, Place};

/// Writes that wait. What comes while they do is in memory only.
const WAITING_MAX: usize = 256;
/// Bytes that wait: no more than a part of the memory tier at once.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What sled says of a file that somebody holds: it has no error of its own for that.
const LOCKED: &str = "could not acquire lock";
/// How long to wait for its last holder.
const LOCKED_MAX: Duration = Duration::from_secs(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(10);
/// The file of a generation's bodies, beside sled's own.
const BODIES: &str = "bodies";
/// Pages that sled keeps in memory, of each database, in bytes.
const PAGES_BYTES: u64 = 8 * 1024 * 1024;
/// How often a database's size is looked at while it fills: it is a sum over files.
const LOOKS: u64 = 32;
/// How often sled writes its buffers out by itself.
const FLUSH_EVERY_MS: u64 = 1_000;

/// What is written.
enum Job {
    Put(Key, Arc<Entry>),
    Remove(Key),
    End,
}

/// The tier.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// None once it is closed: the files are free for the next to open them.
    generations: RwLock<Option<Generations>>,
    waiting: Mutex<usize>,
    removals: Mutex<Removals>,
    failed: AtomicBool,
    metrics: Metrics,
}

/// What is to be removed: it is not found from the moment on that this is said.
#[derive(Debug, Default)]
struct Removals {
    /// Those that wait for the writer.
    waiting: HashMap<Key, usize>,
    /// Removals ever.
    begun: u64,
}

#[derive(Debug, Clone)]
struct Generations {
    newer: Generation,
    older: Option<Generation>,
}

#[derive(Debug, Clone)]
struct Generation {
    number: u64,
    path: PathBuf,
    heads: sled::Db,
    bodies: Arc<Bodies>,
}

/// The file of bodies.
#[derive(Debug)]
struct Bodies {
    file: File,
    /// One thread writes.
    len: AtomicU64,
}

impl Disk {
    /// Opens it in a folder, which becomes its own. At most about `bytes_max` are used.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub fn open(dir: &Path, bytes_max: u64, metrics: Metrics) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for file in std::fs::read_dir(dir)? {
            let file = file?;
            match file.file_name().to_str().and_then(|name| name.parse().ok()) {
                Some(number) => found.push(number),
                None => tracing::warn!(path = %file.path().display(), "a file that is not the cache's"),
            }
        }
        found.sort_unstable();
        let last: u64 = found.last().copied().unwrap_or_default();
        let mut opened: Vec<Generation> = Vec::new();
        for number in found.into_iter().rev() {
            let opening = (opened.len() < 2).then(|| Generation::open(dir, number)).transpose()?;
            match opening.flatten() {
                Some(generation) => opened.push(generation),
                None => std::fs::remove_dir_all(dir.join(number.to_string()))?,
            }
        }
        let mut opened = opened.into_iter();
        let newer = match opened.next() {
            Some(newer) => newer,
            None => Generation::begin(dir, last + 1)?,
        };
        let generations = RwLock::new(Some(Generations { newer, older: opened.next() }));
        let shared = Arc::new(Shared {
            generations,
            waiting: Mutex::default(),
            removals: Mutex::default(),
            failed: AtomicBool::new(false),
            metrics,
        });
        let (jobs, queue) = sync_channel(WAITING_MAX);
        let (dir, writing) = (dir.to_owned(), Arc::clone(&shared));
        let writer = thread::Builder::new()
            .name("cache-disk".to_owned())
            .spawn(move || writing.write_all(&dir, bytes_max / 2, &queue))?;
        Ok(Self { shared, jobs, writer: Mutex::new(Some(writer)) })
    }

    /// Writes a response, soon, if there is room for it to wait.
    pub fn put(&self, key: &Key, entry: Arc<Entry>) {
        if self.shared.failed.load(Ordering::Relaxed) {
            return;
        }
        let weight = entry.weight();
        if !self.shared.wait(weight)
            || self.jobs.try_send(Job::Put(key.clone(), entry)).is_err_and(|error| {
                self.shared.leave(weight);
                matches!(error, TrySendError::Full(_))
            })
        {
            self.shared.metrics.disk_skipped.inc();
        }
    }

    /// Forgets a resource, after what was written before.
    pub fn remove(&self, key: &Key) {
        let mut removals = self.shared.removals();
        removals.begun += 1;
        *removals.waiting.entry(key.clone()).or_default() += 1;
        drop(removals);
        // It must not be lost in a full queue: an older response would come back after a restart.
        let _ = self.jobs.send(Job::Remove(key.clone()));
    }

    /// What is stored of a resource. Blocks.
    pub fn find(&self, key: &Key) -> Variants {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Variants::default();
        }
        let before = {
            let removals = self.shared.removals();
            if removals.waiting.contains_key(key) {
                return Variants::default();
            }
            removals.begun
        };
        match catch_unwind(AssertUnwindSafe(|| self.shared.find(key))) {
            Ok(Ok((variants, again))) => {
                // What was removed while it was read is not written again.
                let removals = self.shared.removals();
                for entry in again.into_iter().filter(|_| removals.begun == before) {
                    self.put(key, entry);
                }
                variants
            }
            Ok(Err(error)) => self.shared.fail(&error.to_string()),
            Err(_) => self.shared.fail("sled panicked"),
        }
    }

    /// Writes what waits, and lets go of the files. Blocks.
    pub fn close(&self) {
        let _ = self.jobs.send(Job::End);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

impl Generation {
    /// Opens one. `None`: it is damaged.
    #[expect(
        clippy::disallowed_methods,
        reason = "sled tells nobody when it lets go; whoever opens may block"
    )]
    fn open(dir: &Path, number: u64) -> io::Result<Option<Self>> {
        let path = dir.join(number.to_string());
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(PAGES_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .mode(sled::Mode::HighThroughput);
        let give_up = Instant::now() + LOCKED_MAX;
        let heads = loop {
            // sled panics on some damaged files.
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(heads)) => break heads,
                // sled's threads let go of its file a moment after the last handle to it is gone.
                Ok(Err(sled::Error::Io(error)))
                    if error.to_string().contains(LOCKED) && Instant::now() < give_up =>
                {
                    thread::sleep(LOCKED_PAUSE);
                }
                Ok(Err(sled::Error::Io(error))) => return Err(error),
                Ok(Err(_)) | Err(_) => return Ok(None),
            }
        };
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(path.join(BODIES))?;
        let len = file.metadata()?.len().into();
        Ok(Some(Self { number, path, heads, bodies: Arc::new(Bodies { file, len }) }))
    }

    fn begin(dir: &Path, number: u64) -> io::Result<Self> {
        Self::open(dir, number)?.ok_or_else(|| io::Error::other("sled cannot begin a database"))
    }

    fn find(&self, key: &Key) -> io::Result<Vec<Arc<Entry>>> {
        let mut found = Vec::new();
        for stored in self.heads.scan_prefix(record::prefix(key)) {
            let (_, head) = stored.map_err(io::Error::other)?;
            let Some((mut entry, place)) = record::decode(&head) else { continue };
            // After a power cut the file may be shorter than the database says.
            if let Some(body) = self.bodies.read(place)? {
                entry.body = body;
                found.push(Arc::new(entry));
            }
        }
        Ok(found)
    }

    fn put(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        let place = Place::of(&entry.body, self.bodies.len.load(Ordering::Acquire));
        self.bodies.file.write_all_at(&entry.body, place.at)?;
        self.bodies.len.store(place.at + place.len, Ordering::Release);
        let head = record::encode(entry, place);
        self.heads.insert(record::key(key, &entry.selecting), head).map_err(io::Error::other)?;
        Ok(())
    }

    fn remove(&self, key: &Key) -> io::Result<()> {
        for stored in self.heads.scan_prefix(record::prefix(key)).keys() {
            self.heads.remove(stored.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.heads.size_on_disk().map_err(io::Error::other)? + self.bodies.len.load(Ordering::Acquire))
    }
}

impl Bodies {
    fn read(&self, place: Place) -> io::Result<Option<Bytes>> {
        if place.at.checked_add(place.len).is_none_or(|end| end > self.len.load(Ordering::Acquire)) {
            return Ok(None);
        }
        let mut body = vec![0; usize::try_from(place.len).unwrap_or_default()];
        self.file.read_exact_at(&mut body, place.at)?;
        Ok(Some(body).filter(|body| place.holds(body)).map(Bytes::from))
    }
}

impl Removals {
    fn end(&mut self, key: &Key) {
        if let Some(count) = self.waiting.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(key);
            }
        }
    }
}

impl Shared {
    fn wait(&self, weight: usize) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = *waiting + weight <= WAITING_BYTES_MAX;
        *waiting += if fits { weight } else { 0 };
        fits
    }

    fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, weight: usize) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) -= weight;
    }

    fn fail<T: Default>(&self, reason: &str) -> T {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(
                reason,
                "the cache's disk has failed: what is stored is in memory only until the next start"
            );
        }
        T::default()
    }

    /// All variants, and those of them that only the older database has.
    fn find(&self, key: &Key) -> io::Result<(Variants, Vec<Arc<Entry>>)> {
        let Some(Generations { newer, older }) = self.generations() else { return Ok(Default::default()) };
        let new = newer.find(key)?;
        let old = older.map(|older| older.find(key)).transpose()?.unwrap_or_default();
        let again =
            old.into_iter().filter(|entry| new.iter().all(|other| other.selecting != entry.selecting));
        let again: Vec<_> = again.collect();
        let variants = new
            .into_iter()
            .chain(again.iter().cloned())
            .fold(Variants::default(), |all, entry| all.with(entry));
        Ok((variants, again))
    }

    fn write_all(&self, dir: &Path, half: u64, queue: &Receiver<Job>) {
        let mut written = half;
        while let Ok(job) = queue.recv() {
            if matches!(job, Job::End) {
                break;
            }
            let (weight, removed) = match &job {
                Job::Put(_, entry) => (entry.weight(), None),
                Job::Remove(key) => (0, Some(key.clone())),
                Job::End => (0, None),
            };
            written += weight as u64;
            let look = written >= half / LOOKS;
            if look {
                written = 0;
            }
            if !self.failed.load(Ordering::Relaxed) {
                match catch_unwind(AssertUnwindSafe(|| self.write(dir, half, job, look))) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => self.fail(&error.to_string()),
                    Err(_) => self.fail("sled panicked"),
                }
            }
            self.leave(weight);
            if let Some(key) = removed {
                self.removals().end(&key);
            }
        }
        let last = self.generations.write().unwrap_or_else(PoisonError::into_inner).take();
        let flushed = catch_unwind(AssertUnwindSafe(|| last.map(|last| last.newer.heads.flush())));
        drop(flushed);
    }

    fn generations(&self) -> Option<Generations> {
        self.generations.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, dir: &Path, half: u64, job: Job, look: bool) -> io::Result<()> {
        let Some(Generations { newer, older }) = self.generations() else { return Ok(()) };
        match job {
            Job::Put(key, entry) => newer.put(&key, &entry)?,
            Job::Remove(key) => {
                newer.remove(&key)?;
                if let Some(older) = &older {
                    older.remove(&key)?;
                }
            }
            Job::End => {}
        }
        if !look {
            return Ok(());
        }
        let size = newer.size()?;
        self.metrics.disk_bytes.set(i64::try_from(size).unwrap_or(i64::MAX));
        if size >= half {
            self.turn_over(dir, newer.number + 1)?;
        }
        Ok(())
    }

    fn turn_over(&self, dir: &Path, number: u64) -> io::Result<()> {
        let fresh = Generation::begin(dir, number)?;
        let oldest = {
            let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
            let Some(generations) = generations.as_mut() else { return Ok(()) };
            let newer = std::mem::replace(&mut generations.newer, fresh);
            generations.older.replace(newer)
        };
        let Some(Generation { path, heads, .. }) = oldest else { return Ok(()) };
        heads.flush().map_err(io::Error::other)?;
        drop(heads);
        std::fs::remove_dir_all(path)
    }
}

#[cfg(test)]
mod tests;
