//! The nodes' door. Which PoP and which node speaks is said by its certificate and never by a message.
//!
//! One request a stream. `Append` is answered once its events are durable; `Subscribe` keeps its stream and hears of every
//! newer revision at once. At a shutdown, subscriptions end, requests in flight are answered, and the listener asks the
//! nodes to wind down.

mod answer;
mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use cloud_registry::Registry;
use cloud_storage::Storage;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, ErrorReply, NodeId, PopId};
use service::shutdown::Shutdown;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use transport::{Identity, Link, LinkError, LinkErrorKind, Listener, Stream};

use crate::clock::now_ms;
use crate::config::UplinkConfig;
use crate::identities::Identities;
use crate::metrics::UplinkMetrics;
use crate::pops::Pops;

/// Most subscriptions on one connection; a node needs one.
const SUBSCRIPTIONS_MAX: usize = 2;
/// When a node that was shed may come back.
const RETRY_AFTER_MS: u32 = 200;

/// The nodes' door. Clones are the same door.
#[derive(Debug, Clone)]
pub struct UplinkDoor {
    storage: Storage,
    registry: Registry,
    identities: Identities,
    pops: Pops,
    metrics: UplinkMetrics,
    in_flight: Arc<Semaphore>,
    timeout: Duration,
    tasks: TaskTracker,
}

/// Who is at the other end, by its certificate.
#[derive(Debug, Clone)]
struct Caller {
    pop: PopId,
    node: NodeId,
    /// Names that apps dial, of its certificate.
    names: Vec<String>,
}

impl UplinkDoor {
    /// A door that opens once [`UplinkDoor::run`] runs.
    pub fn new(
        config: &UplinkConfig,
        storage: Storage,
        registry: Registry,
        identities: Identities,
        pops: Pops,
        metrics: UplinkMetrics,
    ) -> Self {
        Self {
            storage,
            registry,
            identities,
            pops,
            metrics,
            in_flight: Arc::new(Semaphore::new(config.in_flight_max)),
            timeout: Duration::from_millis(config.request_timeout_ms),
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts links until shutdown, then drains them.
    pub async fn run(self, listener: Arc<dyn Listener>, shutdown: Shutdown) -> anyhow::Result<()> {
        self.follow_offers(shutdown.clone());
        loop {
            let link = tokio::select! {
                () = shutdown.cancelled() => break,
                link = listener.accept() => match link {
                    Some(link) => link,
                    None => anyhow::bail!("the uplink listener ended by itself"),
                },
            };
            let (door, shutdown) = (self.clone(), shutdown.clone());
            self.tasks.spawn(async move { door.hold(link, shutdown).await });
        }
        listener.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
        Ok(())
    }

    /// Shows what is offered in the metrics.
    fn follow_offers(&self, shutdown: Shutdown) {
        let (mut offers, metrics) = (self.registry.offers(), self.metrics.rollouts.clone());
        self.tasks.spawn(async move {
            loop {
                metrics.show(&offers.borrow_and_update());
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = offers.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    /// The life of one link. It goes on through a shutdown, until the listener closes it: a request that came before is
    /// answered.
    async fn hold(&self, link: Arc<dyn Link>, shutdown: Shutdown) {
        let Some(Identity::Node { pop, node }) = link.remote().identity.clone() else {
            // The listener admits nodes only; should it ever not, nothing is done for anybody else.
            tracing::error!(remote = %link.remote().address, "a link without a node's certificate");
            return link.close("only nodes are admitted");
        };
        let caller = Caller { pop, node, names: link.remote().public_names.clone() };
        let span = tracing::info_span!("uplink", pop = %caller.pop, node = %caller.node);
        let subscriptions = Arc::new(Semaphore::new(SUBSCRIPTIONS_MAX));
        self.identities.met(&caller.pop, caller.node);
        self.metrics.links.inc();
        span.in_scope(|| tracing::info!(remote = %link.remote().address, "node connected"));
        if let Err(error) = self.registry.arrived(&caller.pop, now_ms()).await {
            let error = &error as &dyn std::error::Error;
            span.in_scope(|| tracing::error!(error, "the arrival of a PoP is not written down"));
        }
        let reason = loop {
            let stream = match link.accept().await {
                Ok(stream) => stream,
                Err(reason) => break reason,
            };
            let (door, link, caller) = (self.clone(), Arc::clone(&link), caller.clone());
            let (shutdown, subscriptions) = (shutdown.clone(), Arc::clone(&subscriptions));
            let serving = async move { door.serve(stream, link, caller, &subscriptions, shutdown).await };
            self.tasks.spawn(serving.instrument(span.clone()));
        };
        self.metrics.links.dec();
        span.in_scope(|| tracing::info!(%reason, "node disconnected"));
    }

    /// One stream: receive → admit → answer.
    async fn serve(
        &self,
        mut stream: Stream,
        link: Arc<dyn Link>,
        caller: Caller,
        subscriptions: &Arc<Semaphore>,
        shutdown: Shutdown,
    ) {
        // 1. Receive, within a bound.
        let request = match tokio::time::timeout(self.timeout, stream.recv::<UplinkRequest>()).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => return self.unreadable(stream, &error).await,
            Err(_) => return stream.reset(Code::DeadlineExceeded),
        };
        let name = answer::name(&request);
        // 2. A subscription lasts as long as its stream; it has places of its own.
        if request == UplinkRequest::Subscribe {
            let Ok(_place) = Arc::clone(subscriptions).try_acquire_owned() else {
                let message = format!("at most {SUBSCRIPTIONS_MAX} subscriptions a connection");
                return self.reply(stream, name, error(Code::RateLimited, message)).await;
            };
            self.metrics.request(name, "ok");
            let news = subscribe::News { pop: caller.pop, offers: self.registry.offers() };
            return subscribe::push(stream, link, news, self.timeout, shutdown).await;
        }
        // 3. Everything else takes a place among the requests in flight.
        let Ok(_place) = self.in_flight.try_acquire() else {
            return self.reply(stream, name, error(Code::Overloaded, "too many requests in flight")).await;
        };
        let reply = self.answer(&caller, request).await;
        self.reply(stream, name, reply).await;
    }

    async fn reply(&self, mut stream: Stream, name: &str, reply: UplinkReply) {
        let outcome = if let UplinkReply::Error(error) = &reply { error.code.as_str() } else { "ok" };
        self.metrics.request(name, outcome);
        match tokio::time::timeout(self.timeout, stream.send(&reply)).await {
            Ok(Ok(())) => stream.finish(),
            Ok(Err(error)) => tracing::debug!(%error, name, "the reply did not go out"),
            Err(_) => stream.reset(Code::DeadlineExceeded),
        }
    }

    async fn unreadable(&self, stream: Stream, error: &LinkError) {
        tracing::debug!(%error, "no request came");
        if matches!(error.kind, LinkErrorKind::Protocol(_) | LinkErrorKind::Truncated { .. }) {
            self.reply(stream, "unreadable", UplinkReply::Error(ErrorReply::from(error))).await;
        }
    }
}

fn error(code: Code, message: impl Into<String>) -> UplinkReply {
    UplinkReply::Error(ErrorReply::new(code, message).retry_after_ms(RETRY_AFTER_MS))
}

#[cfg(test)]
mod tests;
