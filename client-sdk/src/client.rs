//! The handle that apps hold, and what its parts share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::client::{Answer, DetailedAnswer, Tracked};
use proto::limits::TRACK_EVENTS_MAX;
use proto::{Code, ErrorReply, Event, EventId, EventKind, TraceId, VisitorId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use transport::Dialer;
use transport::pki;
use transport::quic::{QuicDialer, Settings};

use crate::config::{Config, NODES_MAX, Trust};
use crate::error::SdkError;
use crate::ids::new_trace;
use crate::pool::{self, AskError, Connection, Pool};
use crate::queue::{DeadLetter, Draft, Queue};
use crate::request::SlotRequest;
use crate::session::{Address, Answers, NodeRules, Nodes, Session, Tokens};
use crate::stats::{Counters, Stats, add};

/// Visitors whose tokens are kept apart.
const VISITORS_MAX: usize = 1_024;
/// Bytes of each of the two files of dead letters.
const DEAD_BYTES_MAX: u64 = 256 * 1024;
/// Round trips that differ by less are equally near, in microseconds.
const NEAR_US: u64 = 1_000;

/// A client of one PoP (or of several that carry the same name). Clones are the same client; it ends with
/// [`Client::close`] or with its last clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Ends the client's tasks with the last handle.
    _guard: Arc<DropGuard>,
}

impl Client {
    /// Opens the queue, measures the nodes, and settles on the nearest.
    ///
    /// # Errors
    /// [`SdkError::Config`], [`SdkError::QueueLocked`] and [`SdkError::Queue`]; without [`Config::start_offline`]
    /// also what the last node said where none can be reached.
    pub async fn connect(config: Config) -> Result<Self, SdkError> {
        config.check()?;
        let trust = match &config.trust {
            Trust::CaFile(path) => pki::Trust::read(path),
            Trust::CaPem(text) => pki::Trust::from_pem(text.as_bytes()),
            Trust::OfDialer => {
                return Err(SdkError::Config(
                    "trust: a certificate authority is needed without a dialer".into(),
                ));
            }
        };
        let trust = trust.map_err(|e| SdkError::Config(format!("trust: {e}")))?;
        let trust = trust.with_grace(Duration::from_millis(config.certificate_grace_ms));
        let dialer = QuicDialer::new(&trust, None, proto::ALPN_CLIENT, &Settings::clients())
            .map_err(|source| SdkError::Link { node: "-".into(), source })?;
        Self::connect_with(Arc::new(dialer), config).await
    }

    /// [`Client::connect`] with a dialer of the caller's: many clients in one process share one socket so, and
    /// tests bring a network of their own. [`Config::trust`] is not looked at.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(dialer: Arc<dyn Dialer>, config: Config) -> Result<Self, SdkError> {
        config.check()?;
        let queue = open_queue(&config).await?;
        let closing = CancellationToken::new();
        let started = Instant::now();
        let rules = NodeRules {
            nodes_max: NODES_MAX,
            backoff_base_ms: config.timing.backoff_base_ms,
            backoff_max_ms: config.timing.backoff_max_ms,
            near_us: NEAR_US,
        };
        let session = Session {
            nodes: Nodes::new(rules, &config.nodes),
            tokens: Tokens::new(VISITORS_MAX),
            answers: Answers::default(),
        };
        let inner = Arc::new(Inner {
            pool: Pool::new(dialer, &config, started, closing.clone()),
            session: Mutex::new(session),
            counters: Counters::default(),
            measure_soon: Notify::new(),
            tasks: TaskTracker::new(),
            config,
            queue,
            started,
            closing: closing.clone(),
        });
        let client = Self { inner, _guard: Arc::new(closing.drop_guard()) };
        let measured = client.inner.measure().await;
        if let Err(error) = measured {
            if !client.inner.config.start_offline {
                client.close().await;
                return Err(error);
            }
            tracing::warn!(%error, "starting without a node");
        }
        client.spawn();
        Ok(client)
    }

    /// Asks for items for a slot. What this client tracked for the visitor, and a node acknowledged, is seen by the
    /// answer.
    ///
    /// Nodes are asked as the deadline allows: the nearest first, another beside it when a quarter of the time (at most
    /// a second) has passed without an answer, another at once when one fails, at most three in all.
    ///
    /// # Errors
    /// [`SdkError::Refused`] where the request is not allowed, [`SdkError::Deadline`] and [`SdkError::Unavailable`]
    /// where no node answered.
    pub async fn recommend(&self, request: SlotRequest) -> Result<Answer, SdkError> {
        self.inner.recommend(request, false).await.map(|detailed| detailed.answer)
    }

    /// [`Client::recommend`] with what [`SlotRequest::fields`] names of each item, and with why the answer is less than it
    /// could have been, if it is. Nodes of before 0.2 do not know the question.
    ///
    /// # Errors
    /// As [`Client::recommend`].
    pub async fn recommend_detailed(&self, request: SlotRequest) -> Result<DetailedAnswer, SdkError> {
        self.inner.recommend(request, true).await
    }

    /// Takes note of something a visitor did. Returns when the event is in the queue for good (with
    /// [`Config::queue_dir`]: on the disk), not when it is delivered; delivery goes on by itself, in order, until a
    /// node acknowledges it. Given up before it returns, the event may or may not be in the queue.
    ///
    /// # Errors
    /// [`SdkError::QueueFull`], [`SdkError::Refused`] where the event is not allowed, [`SdkError::Queue`] where the
    /// disk fails. The event is not in the queue then.
    pub async fn track(&self, visitor: &VisitorId, kind: EventKind) -> Result<EventId, SdkError> {
        let ids = self.track_all(vec![(visitor.clone(), kind)]).await?;
        ids.first().copied().ok_or(SdkError::Closed)
    }

    /// [`Client::track`] for 1 to [`TRACK_EVENTS_MAX`] events, all or none, written together.
    ///
    /// # Errors
    /// As [`Client::track`].
    pub async fn track_all(&self, events: Vec<(VisitorId, EventKind)>) -> Result<Vec<EventId>, SdkError> {
        let inner = &self.inner;
        if inner.closing.is_cancelled() {
            return Err(SdkError::Closed);
        }
        if events.is_empty() || events.len() > TRACK_EVENTS_MAX {
            let message = format!("1 to {TRACK_EVENTS_MAX} events at a time, not {}", events.len());
            return Err(SdkError::Refused { node: None, reply: ErrorReply::new(Code::TooLarge, message) });
        }
        let at_ms = wall_ms();
        let drafts: Vec<Draft> = {
            let session = inner.session();
            let draft = |(visitor, kind)| Draft { visitor, at_ms, trace: trace_of(&session, &kind), kind };
            events.into_iter().map(draft).collect()
        };
        let ids = inner.queue.append(&drafts, at_ms).await?;
        add(&inner.counters.tracked, ids.len() as u64);
        Ok(ids)
    }

    /// Hands over 1 to [`TRACK_EVENTS_MAX`] events that happened before, with ids and times of their own: a visitor's past
    /// from another system. They go past the queue; when this returns, a PoP holds them. Events dedupe by id, so the same
    /// call may be repeated.
    ///
    /// # Errors
    /// [`SdkError::Refused`] where an event is not allowed; else, once `within` has passed, what the last node said.
    pub async fn import(&self, events: Vec<Event>, within: Duration) -> Result<Tracked, SdkError> {
        self.inner.import(events, within).await
    }

    /// Waits until every event tracked so far is acknowledged (or put aside).
    ///
    /// # Errors
    /// [`SdkError::NotFlushed`] where that takes longer than `within`; delivery goes on.
    pub async fn flush(&self, within: Duration) -> Result<(), SdkError> {
        let mut progress = self.inner.queue.progress();
        let last = progress.borrow().last;
        let flushed = progress.wait_for(|progress| progress.acknowledged >= last);
        tokio::select! {
            result = tokio::time::timeout(within, flushed) => match result {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(SdkError::Closed),
                Err(_) => Err(SdkError::NotFlushed { pending: self.pending() }),
            },
            () = self.inner.closing.cancelled() => Err(SdkError::Closed),
        }
    }

    /// Events in the queue that are not acknowledged.
    pub fn pending(&self) -> u64 {
        self.inner.queue.progress().borrow().pending
    }

    /// Address of the node that is preferred now.
    pub fn node(&self) -> Option<String> {
        self.inner.session().nodes.preferred().map(ToString::to_string)
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot()
    }

    /// Events that were put aside because no node will ever take them, oldest first, as far as they are kept: up to
    /// 512 KiB in the queue's folder, none without a folder.
    ///
    /// # Errors
    /// Where the disk fails.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, SdkError> {
        self.inner.queue.dead_letters().await.map_err(|e| SdkError::queue("read dead letters", e))
    }

    /// Ends the client, all clones of it: what waits for an answer fails, connections close, and the queue's folder
    /// is free for another client. Events that are not acknowledged stay in the folder; without one they are lost,
    /// so [`Client::flush`] before.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.pool.close();
        self.inner.queue.close().await;
    }

    /// Starts the two tasks of a client.
    fn spawn(&self) {
        let inner = &self.inner;
        for task in [
            futures::future::FutureExt::boxed(Arc::clone(inner).deliver()),
            futures::future::FutureExt::boxed(Arc::clone(inner).keep_nearest()),
        ] {
            let closing = inner.closing.clone();
            inner.tasks.spawn(async move {
                closing.run_until_cancelled(task).await;
            });
        }
    }
}

/// What the parts of a client share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) queue: Queue,
    pub(crate) counters: Counters,
    pub(crate) measure_soon: Notify,
    pub(crate) closing: CancellationToken,
    session: Mutex<Session>,
    tasks: TaskTracker,
    started: Instant,
}

impl Inner {
    /// What the client remembers. Held for a few steps, never over an await.
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        // A panic while it was held has left nothing half done that matters: all of it is advice.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the client began.
    pub(crate) fn now_ms(&self) -> u64 {
        pool::now_ms(self.started)
    }

    /// The inverse of [`Inner::now_ms`].
    pub(crate) fn instant(&self, at_ms: u64) -> Instant {
        self.started + Duration::from_millis(at_ms)
    }

    /// The connection to a node; what a new one says of its PoP is learned.
    pub(crate) async fn connect(&self, address: &Address) -> Result<Arc<Connection>, AskError> {
        let (connection, found) = self.pool.connection(address).await?;
        if !found {
            add(&self.counters.connections, 1);
            self.session().nodes.learn(&connection.session().nodes);
        }
        Ok(connection)
    }
}

async fn open_queue(config: &Config) -> Result<Queue, SdkError> {
    let bytes_max = config.queue_bytes_max;
    let Some(dir) = config.queue_dir.clone() else { return Ok(Queue::in_memory(bytes_max)) };
    let opening = tokio::task::spawn_blocking(move || Queue::open(&dir, bytes_max, DEAD_BYTES_MAX));
    Ok(opening.await.map_err(|_| SdkError::Closed)??)
}

/// The trace of the request whose answer the event refers to, or a new one.
fn trace_of(session: &Session, kind: &EventKind) -> TraceId {
    let answer = match kind {
        EventKind::Impression { answer, .. }
        | EventKind::Click { answer, .. }
        | EventKind::Conversion { answer, .. } => *answer,
        EventKind::Rating { .. } | EventKind::Custom { .. } => None,
    };
    answer.and_then(|answer| session.answers.trace(answer)).unwrap_or_else(new_trace)
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
