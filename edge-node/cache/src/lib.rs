//! The content cache of an edge node: what origins serve, near to who asks for it, as RFC 9111 allows.
//!
//! | module | what |
//! |---|---|
//! | `serve` | one request on one page |
//! | [`rules`] | what a shared cache may do: pure |
//! | `fill` | asking an origin once for all who wait |
//! | [`flow`] | a body that many read while it comes |
//! | [`key`], [`entry`] | what names a response, and what is stored of it |
//! | `record`, [`disk`] | the same in bytes, and the tier that outlives the process |
//! | [`origin`], [`breaker`] | where content comes from, and when it is left alone |
//! | [`upload`] | a request's body on its way there |
//! | [`ledger`] | what was purged |
//! | `answer`, `body` | what a client gets |
//! | `prefetch` | what is fetched before anybody asks |
//!
//! Memory (W-TinyLFU, by moka) lies over disk (sled). Both are bounded in bytes; so are requests to origins, who waits to be written,
//! and what is held of a body that comes. A cache knows nothing of Raft: a [`ledger::Ledger`] tells it what was declared void.

mod answer;
mod body;
pub mod breaker;
mod config;
pub mod disk;
pub mod entry;
mod fill;
pub mod flow;
pub mod key;
pub mod ledger;
mod metrics;
pub mod origin;
mod prefetch;
mod record;
pub mod rules;
mod serve;
pub mod upload;

/// What is private, for the fuzz targets (edge-node/fuzz).
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::record::{Place, decode, encode};
}

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache as Moka;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use disk::Disk;
use entry::Variants;
use fill::Fills;
use key::Key;
use ledger::Ledger;
use origin::{Origin, OriginError};
use rules::reuse::Habits;

pub use answer::{CACHE_STATUS, Cut, cut};
pub use body::CacheBody;
pub use config::{CacheConfig, OriginConfig};
pub use metrics::Metrics;
pub use origin::{BodyError, RequestBody};
pub use prefetch::Prefetched;
pub use serve::{Looked, Wanted};

/// For how long a resource is not waited for that was not for others (as Varnish's hit-for-miss).
const SOLO_FOR: Duration = Duration::from_secs(10);
/// Most such resources.
const SOLO_LEN_MAX: u64 = 65_536;
/// How often the size of what is stored is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The settings name no such origin.
    #[error("there is no origin {0:?} here (cache.origins)")]
    NoOrigin(String),
    /// The path is too long, or has `.` or `..` in it.
    #[error("the path is longer than {} bytes, or has `.` or `..` in it", key::TARGET_BYTES_MAX)]
    Target,
    /// CONNECT or TRACE.
    #[error("this method is not passed on")]
    Method,
    /// Its content is compressed for the way here, which is not undone (RFC 9112, 6.1).
    #[error("the request has a transfer coding other than `chunked`, which is not understood here")]
    Coding,
    /// `only-if-cached`, and it is not.
    #[error("it is not stored here, and only what is was asked for")]
    NotCached,
    /// As many requests as may be wait for origins.
    #[error("too many requests wait for origins (cache.fetches_max)")]
    Full,
    /// The origin gives no answer.
    #[error(transparent)]
    Origin(OriginError),
}

/// The cache of a node. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    config: CacheConfig,
    origins: HashMap<String, Arc<Origin>>,
    habits: Habits,
    memory: Moka<Key, Arc<Variants>>,
    disk: Option<Arc<Disk>>,
    fills: Fills,
    /// What was not for others a moment ago.
    solo: Moka<Key, ()>,
    ledger: Arc<dyn Ledger>,
    metrics: Metrics,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Cache {
    /// Opens it, with a folder of its own, and starts to watch over its origins. A disk that cannot be used is left out.
    ///
    /// # Errors
    /// Where the settings cannot work.
    pub fn open(
        config: CacheConfig,
        dir: &Path,
        ledger: Arc<dyn Ledger>,
        metrics: Metrics,
    ) -> Result<Self, String> {
        config.check()?;
        let mut origins = HashMap::new();
        for origin in &config.origins {
            origins.insert(origin.name.clone(), Arc::new(Origin::new(origin.clone(), metrics.clone())?));
        }
        // Without an origin nothing is ever stored.
        let disk = (config.disk_bytes > 0 && !origins.is_empty())
            .then(|| Disk::open(dir, config.disk_bytes, metrics.clone()))
            .and_then(|opened| {
                let warn = |error: &_| tracing::error!(%error, "the cache has no disk: it is in memory only");
                opened.inspect_err(warn).ok().map(Arc::new)
            });
        let weight = |key: &Key, variants: &Arc<Variants>| {
            u32::try_from(key.target().len() + variants.weight()).unwrap_or(u32::MAX)
        };
        let memory = Moka::builder().max_capacity(config.memory_bytes).weigher(weight).build();
        let habits = Habits {
            offline: Duration::from_secs(config.offline_s),
            negative: Duration::from_secs(config.negative_s),
        };
        let solo = Moka::builder().max_capacity(SOLO_LEN_MAX).time_to_live(SOLO_FOR).build();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let fills = Fills::default();
        let inner =
            Inner { config, origins, habits, memory, disk, fills, solo, ledger, metrics, tasks, stop };
        let cache = Self { inner: Arc::new(inner) };
        for origin in cache.inner.origins.values() {
            cache.keep_up(Arc::clone(origin).watch());
        }
        let watched = Arc::clone(&cache.inner);
        cache.keep_up(async move {
            loop {
                tokio::time::sleep(LOOKED_AT_EVERY).await;
                watched
                    .metrics
                    .memory_bytes
                    .set(i64::try_from(watched.memory.weighted_size()).unwrap_or(i64::MAX));
            }
        });
        Ok(cache)
    }

    fn keep_up(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// What a URL of an origin is purged as, whatever is written: `https://…` at its origin, or `/c/{origin}/…`. `None`: it is of no
    /// origin here.
    pub fn resource(&self, url: &str) -> Option<proto::purge::PurgeKey> {
        let (origin, target) = self.locate(url)?;
        origin.key(target).map(|key| key.purge_key())
    }

    /// The origin of a URL, and the path and query from the origin's own path on.
    fn locate<'u>(&self, url: &'u str) -> Option<(&Arc<Origin>, &'u str)> {
        if let Some(path) = url.strip_prefix("/c/") {
            let (name, target) = path.split_at(path.find('/')?);
            return self.inner.origins.get(name).map(|origin| (origin, target));
        }
        self.inner.origins.values().find_map(|origin| {
            let target = url.strip_prefix(&*origin.root)?.strip_prefix(&*origin.base)?;
            target.starts_with('/').then_some((origin, target))
        })
    }

    /// Where a redirection of an origin leads, as a path here. `None`: elsewhere, or relative, which is right as it is.
    pub fn path_here(&self, origin: &str, location: &str) -> Option<String> {
        let origin = self.inner.origins.get(origin)?;
        let target = match location.strip_prefix(&*origin.root) {
            Some(target) => target,
            None if location.starts_with('/') && !location.starts_with("//") => location,
            None => return None,
        };
        let path = target.strip_prefix(&*origin.base).filter(|path| path.starts_with('/'))?;
        Some(format!("/c/{}{path}", origin.config.name))
    }

    /// Ends what runs, and writes what waits.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        inner.stop.cancel();
        inner.tasks.close();
        // Who asks an origin is bounded in time; a body may come for long.
        let _ = tokio::time::timeout(LOOKED_AT_EVERY, inner.tasks.wait()).await;
        if let Some(disk) = &inner.disk {
            let disk = Arc::clone(disk);
            let _ = tokio::task::spawn_blocking(move || disk.close()).await;
        }
    }
}
