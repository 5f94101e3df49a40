//! The clients' door: sessions, admission, dispatch. What a recommendation goes through is in [`pipeline`].
//!
//! A connection must present an app key before anything else. A stream carries one request and one reply. Frames that break
//! the protocol get an error, or their stream is reset; the connection and the node go on.

pub mod apps;
pub mod http;
pub mod pipeline;
mod quota;
mod shedding;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::client::{
    Ask, ClientReply, ClientRequest, DetailedRecommend, OpenSession, SessionOpened, Track, Tracked,
};
use proto::command::{Command, Effect};
use proto::limits::EVENT_FUTURE_MS_MAX;
use proto::{Code, ErrorReply, SessionToken};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use transport::{Link, Listener, Stream};

use apps::{App, Apps, Caller, Scope};

use crate::bundles::ActiveBundle;
use crate::clock;
use crate::config::{ClientsConfig, Config, NodeConfig, ServingConfig};
use crate::metrics::Metrics;
use crate::workers::Workers;
use shedding::{Load, Shedder};

/// How long a client may take to open its session or to send a request it has begun.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// What a shed request is told.
const RETRY_AFTER_MS: u32 = 100;

/// What requests need. One a node.
pub struct Gateway {
    /// Who answers.
    pub node: NodeConfig,
    /// The door's settings.
    pub config: ClientsConfig,
    /// Shares of the deadline.
    pub serving: ServingConfig,
    /// The replicated truth.
    pub store: edge_store::Store,
    /// The threads that run models.
    pub workers: Workers,
    /// What is served from.
    pub bundle: ActiveBundle,
    /// Counters.
    pub metrics: Metrics,
    /// Refuses what the processors cannot bear.
    shedder: Shedder,
    admission: Arc<Semaphore>,
    /// Of them, those that models are run for: what waits here waits for a processor, and more of it would only make all of it late.
    deciding: Arc<Semaphore>,
    pub(crate) apps: Apps,
    /// Those who run models on numbers of their own: half of the threads are for recommendations.
    inferences: Arc<Semaphore>,
}

impl Gateway {
    /// Checks the apps. `config`: what the clients' door is told, with the addresses that were really taken.
    pub fn new(
        node: &Config,
        config: ClientsConfig,
        store: edge_store::Store,
        workers: Workers,
        bundle: ActiveBundle,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let apps = Apps::new(&config.apps, config.address_requests_per_s)?;
        let delay_max = Duration::from_millis(config.delay_max_ms);
        let shedder = Shedder::start(delay_max, metrics.delays.clone())?;
        let admission = Arc::new(Semaphore::new(config.in_flight_max));
        let deciding = Arc::new(Semaphore::new(node.serving.in_flight_max()));
        let inferences = Arc::new(Semaphore::new((workers.threads() / 2).max(1)));
        let (node, serving) = (node.node.clone(), node.serving.clone());
        Ok(Self {
            node,
            config,
            serving,
            store,
            workers,
            bundle,
            metrics,
            shedder,
            admission,
            deciding,
            apps,
            inferences,
        })
    }

    /// Accepts clients until shutdown, then lets running requests finish.
    pub async fn serve(self: Arc<Self>, listener: Arc<dyn Listener>, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                link = listener.accept() => match link {
                    Some(link) => drop(connections.spawn(self.clone().connection(link))),
                    None => break,
                }
            }
        }
        listener.shutdown().await;
        connections.close();
        connections.wait().await;
    }

    async fn connection(self: Arc<Self>, link: Arc<dyn Link>) {
        self.metrics.connections.inc();
        match tokio::time::timeout(READ_WITHIN, self.open_session(&*link)).await {
            Ok(Some(app)) => {
                let address = apps::address_of(&link.remote().address);
                self.clone().streams(&*link, Caller { app, address }).await;
            }
            Ok(None) => link.close("the first request must be a session with a valid app key"),
            Err(_) => link.close("no session was opened in time"),
        }
        self.metrics.connections.dec();
    }

    async fn streams(self: Arc<Self>, link: &dyn Link, caller: Caller) {
        while let Ok(stream) = link.accept().await {
            tokio::spawn(self.clone().stream(stream, caller.clone()));
        }
    }

    async fn open_session(&self, link: &dyn Link) -> Option<Arc<App>> {
        let mut stream = link.accept().await.ok()?;
        let asked = match stream.recv::<ClientRequest>().await {
            Ok(request) => request.ask,
            Err(error) => {
                self.broken(&mut stream, &error).await;
                return None;
            }
        };
        let reply = match asked {
            Ask::Session(open) => self.session(&open),
            _ => Err(ErrorReply::new(
                Code::Unauthenticated,
                "the first request must be a session with an app key",
            )),
        };
        self.count("session", &reply);
        let (app, reply) = match reply {
            Ok((app, opened)) => (Some(app), ClientReply::Session(opened)),
            Err(error) => (None, ClientReply::Error(error)),
        };
        let sent = stream.send(&reply).await;
        stream.finish();
        if app.is_none() {
            // Give the reply a moment to leave before the connection closes over it.
            let _ = tokio::time::timeout(Duration::from_secs(1), link.closed()).await;
        }
        app.filter(|_| sent.is_ok())
    }

    fn session(&self, open: &OpenSession) -> Result<(Arc<App>, SessionOpened), ErrorReply> {
        let app = self.app(&open.app_key)?;
        let (pop, node, nodes) = (self.node.pop.clone(), self.node.id, self.config.public.clone());
        Ok((app, SessionOpened { pop, node, nodes }))
    }

    /// The app with this key.
    fn app(&self, key: &str) -> Result<Arc<App>, ErrorReply> {
        let unknown = || ErrorReply::new(Code::Unauthenticated, "this app key is not known here");
        self.apps.find(key).ok_or_else(unknown)
    }

    async fn stream(self: Arc<Self>, mut stream: Stream, caller: Caller) {
        let request = match tokio::time::timeout(READ_WITHIN, stream.recv::<ClientRequest>()).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => return self.broken(&mut stream, &error).await,
            Err(_) => return stream.reset(Code::DeadlineExceeded),
        };
        let span = tracing::debug_span!("request", trace_id = %request.trace);
        let reply = if self.shedder.admits() || matches!(request.ask, Ask::Ping) {
            self.answer(&caller, request).instrument(span).await
        } else {
            // The SDK waits as it is told, or asks another node.
            let refusal = self.shedder.refusal();
            self.count::<()>(asked(&request.ask), &Err(refusal.clone()));
            ClientReply::Error(refusal)
        };
        // Whoever does not take the reply does not keep its memory.
        match tokio::time::timeout(READ_WITHIN, stream.send(&reply)).await {
            Ok(Ok(())) => stream.finish(),
            Ok(Err(_)) => {}
            Err(_) => stream.reset(Code::DeadlineExceeded),
        }
    }

    /// Says what was wrong, as far as the stream still allows.
    async fn broken(&self, stream: &mut Stream, error: &transport::LinkError) {
        if error.code().fault() == proto::Fault::Caller {
            self.metrics.protocol_errors.inc();
            let _ = stream.send(&ClientReply::Error(ErrorReply::from(error))).await;
            stream.finish();
        }
    }

    /// Answers whoever may ask.
    async fn answer(&self, caller: &Caller, request: ClientRequest) -> ClientReply {
        let scope = match &request.ask {
            Ask::Recommend(_) | Ask::RecommendDetailed(_) => Some(Scope::Recommend),
            Ask::Track(_) => Some(Scope::Track),
            Ask::Session(_) | Ask::Ping => None,
        };
        if let Some(Err(error)) = scope.map(|scope| self.apps.permit(caller, scope)) {
            self.count::<()>(asked(&request.ask), &Err(error.clone()));
            return ClientReply::Error(error);
        }
        self.answer_permitted(request).await
    }

    /// Answers what was permitted.
    async fn answer_permitted(&self, request: ClientRequest) -> ClientReply {
        let started = Instant::now();
        let deadline = started + self.deadline(request.deadline_ms);
        let ask = asked(&request.ask);
        let reply = match request.ask {
            Ask::Recommend(recommend) => {
                let asked = DetailedRecommend { recommend, fields: Vec::new() };
                let answered = pipeline::recommend(self, asked, started, deadline).await;
                answered.map(|detailed| ClientReply::Answer(detailed.plain()))
            }
            Ask::RecommendDetailed(asked) => {
                pipeline::recommend(self, asked, started, deadline).await.map(ClientReply::Detailed)
            }
            Ask::Track(track) => self.track(track, deadline).await.map(ClientReply::Tracked),
            Ask::Session(open) => self.session(&open).map(|(_, opened)| ClientReply::Session(opened)),
            Ask::Ping => Ok(ClientReply::Pong),
        };
        let took = started.elapsed();
        self.metrics.request_seconds.with_label_values(&[ask]).observe(took.as_secs_f64());
        self.count(ask, &reply);
        match reply {
            Ok(reply) => {
                tracing::debug!(ask, us = took.as_micros(), "answered");
                reply
            }
            Err(error) => {
                tracing::debug!(ask, us = took.as_micros(), %error, "refused");
                ClientReply::Error(error)
            }
        }
    }

    async fn track(&self, mut track: Track, deadline: Instant) -> Result<Tracked, ErrorReply> {
        let _admitted = self.admit()?;
        let received_at_ms = clock::now_ms();
        // One of the two clocks is wrong, and an app cannot know which: what happened is worth more than when.
        for event in &mut track.events {
            if event.at_ms > received_at_ms.saturating_add(EVENT_FUTURE_MS_MAX) {
                event.at_ms = received_at_ms;
            }
        }
        track.check(received_at_ms)?;
        for event in &track.events {
            tracing::debug!(event_id = %event.id, trace_id = %event.trace, kind = event.kind.name(), "track");
        }
        let command = Command::Track { events: track.events, received_at_ms };
        let proposed = self.store.propose(command, deadline.into()).await?;
        let token = SessionToken { pop: self.node.pop.clone(), index: proposed.index };
        match proposed.effect {
            Effect::Tracked { accepted, duplicates } => Ok(Tracked { token, accepted, duplicates }),
            Effect::Refused(reply) => Err(reply),
            other => Err(ErrorReply::new(Code::Internal, format!("a track had the effect {other:?}"))),
        }
    }

    /// A place among the requests in flight, or `overloaded`.
    fn admit(&self) -> Result<Admitted<'_>, ErrorReply> {
        let place = self.admission.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{} requests are in flight already", self.config.in_flight_max);
            ErrorReply::new(Code::Overloaded, message).retry_after_ms(RETRY_AFTER_MS)
        })?;
        self.metrics.in_flight.inc();
        Ok(Admitted { _place: place, metrics: &self.metrics })
    }

    /// A place among those that models are run for. None: there are as many as may be, or the processors have too much to do.
    fn begin_deciding(&self) -> Option<OwnedSemaphorePermit> {
        if self.shedder.load() > Load::Fine {
            return None;
        }
        self.deciding.clone().try_acquire_owned().ok()
    }

    fn deadline(&self, asked_ms: u32) -> Duration {
        let ms = if asked_ms == 0 { self.config.deadline_ms } else { u64::from(asked_ms) };
        Duration::from_millis(ms.min(self.config.deadline_max_ms))
    }

    fn count<T>(&self, ask: &str, reply: &Result<T, ErrorReply>) {
        let outcome = reply.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok");
        self.metrics.requests.with_label_values(&[ask, outcome]).inc();
    }
}

/// What is asked, for metrics.
fn asked(ask: &Ask) -> &'static str {
    match ask {
        Ask::Recommend(_) | Ask::RecommendDetailed(_) => "recommend",
        Ask::Track(_) => "track",
        Ask::Session(_) => "session",
        Ask::Ping => "ping",
    }
}

/// A request in flight.
struct Admitted<'a> {
    _place: OwnedSemaphorePermit,
    metrics: &'a Metrics,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}
