//! What a node serves from, and how it was answered from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use edge_serving::Prepared;
use proto::Revision;
use proto::client::ServedBy;
use proto::control::AnswerCounts;
use tokio::sync::watch;

/// What is served from at this moment. Cheap to clone; loading costs no lock.
#[derive(Clone, Default)]
pub struct ActiveBundle {
    present: Arc<ArcSwapOption<Serving>>,
    changed: watch::Sender<Revision>,
}

/// A bundle that is served from.
pub struct Serving {
    /// The bundle.
    pub prepared: Arc<Prepared>,
    /// How it was answered from.
    pub tally: Tally,
}

impl ActiveBundle {
    /// What is served from; none before the first good bundle.
    pub fn load(&self) -> Option<Arc<Serving>> {
        self.present.load_full()
    }

    /// Its revision; 0: none.
    pub fn revision(&self) -> Revision {
        self.present
            .load()
            .as_ref()
            .map_or(Revision(0), |serving| serving.prepared.bundle().manifest.revision)
    }

    /// Its revision, as it changes.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    pub(super) fn store(&self, prepared: Prepared) {
        let serving = Serving { prepared: Arc::new(prepared), tally: Tally::default() };
        self.present.store(Some(Arc::new(serving)));
        self.changed.send_replace(self.revision());
    }
}

/// Counts answers from one bundle.
#[derive(Default)]
pub struct Tally {
    answers: AtomicU64,
    failed: AtomicU64,
    fell_back: AtomicU64,
    took_us: AtomicU64,
}

impl Tally {
    /// An answer was decided. `failed`: a model failed on the way.
    pub fn count(&self, served_by: Option<ServedBy>, failed: bool, took: Duration) {
        let by_model = matches!(served_by, Some(ServedBy::Ranked | ServedBy::Retrieved));
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.fell_back.fetch_add(u64::from(!by_model), Ordering::Relaxed);
        self.took_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted.
    pub fn counts(&self) -> AnswerCounts {
        AnswerCounts {
            answers: self.answers.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            fell_back: self.fell_back.load(Ordering::Relaxed),
            took_us: self.took_us.load(Ordering::Relaxed),
        }
    }
}
