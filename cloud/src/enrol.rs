//! The door for nodes that have no certificate yet. Whoever can reach it may knock, so everything is small: one request a
//! stream, few streams, short connections, and so many attempts a second over all callers. A token has 256 random bits; what
//! is bounded is work, not guessing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::enrol::{EnrolReply, EnrolRequest};
use proto::{Code, ErrorReply, Fault};
use service::shutdown::Shutdown;
use tokio_util::task::TaskTracker;
use transport::quic::Settings;
use transport::{Link, Listener, Stream};

use crate::clock::now_ms;
use crate::identities::Identities;

/// Attempts a second, over all callers.
const ATTEMPTS_PER_SECOND: u32 = 50;
/// How long a request may take to come, and its reply to go.
const WITHIN: Duration = Duration::from_secs(5);
/// When to come back after too many attempts.
const RETRY_AFTER_MS: u32 = 1_000;

/// The door's limits.
pub fn settings() -> Settings {
    Settings {
        max_connections: 256,
        max_incoming: 64,
        max_bidi_streams: 2,
        connection_age_max_ms: 20_000,
        drain_ms: 2_000,
        ..Settings::peers()
    }
}

/// The door. Clones are the same.
#[derive(Debug, Clone)]
pub struct EnrolDoor {
    identities: Identities,
    /// Attempts that are left in this second.
    left: Arc<AtomicU32>,
    tasks: TaskTracker,
}

impl EnrolDoor {
    /// A door that opens once [`EnrolDoor::run`] runs.
    pub fn new(identities: Identities) -> Self {
        Self { identities, left: Arc::new(AtomicU32::new(ATTEMPTS_PER_SECOND)), tasks: TaskTracker::new() }
    }

    /// Accepts links until shutdown, then drains them.
    pub async fn run(self, listener: Arc<dyn Listener>, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = seconds.tick() => self.left.store(ATTEMPTS_PER_SECOND, Ordering::Relaxed),
                link = listener.accept() => match link {
                    Some(link) => drop(self.tasks.spawn(self.clone().hold(link))),
                    None => anyhow::bail!("the enrolment listener ended by itself"),
                },
            }
        }
        listener.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
        Ok(())
    }

    async fn hold(self, link: Arc<dyn Link>) {
        // One after the other: a node needs one.
        while let Ok(stream) = link.accept().await {
            self.serve(stream, &link.remote().address).await;
        }
    }

    async fn serve(&self, mut stream: Stream, from: &str) {
        let request = match tokio::time::timeout(WITHIN, stream.recv::<EnrolRequest>()).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => return tracing::debug!(%error, from, "no request came"),
            Err(_) => return stream.reset(Code::DeadlineExceeded),
        };
        let reply = match self.take_turn() {
            true => self.answer(&request, from).await,
            false => {
                let error = ErrorReply::new(Code::RateLimited, "too many enrolments at once; come back");
                Err(error.retry_after_ms(RETRY_AFTER_MS))
            }
        };
        self.identities.answered(reply.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok"));
        let reply = reply.map_or_else(EnrolReply::Error, EnrolReply::Issued);
        match tokio::time::timeout(WITHIN, stream.send(&reply)).await {
            Ok(Ok(())) => stream.finish(),
            Ok(Err(error)) => tracing::debug!(%error, from, "the reply did not go out"),
            Err(_) => stream.reset(Code::DeadlineExceeded),
        }
    }

    fn take_turn(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Errors are logged here, once, with their chain. The audit log has those who got in: who only knocks must not fill it.
    async fn answer(&self, request: &EnrolRequest, from: &str) -> Result<String, ErrorReply> {
        self.identities.enrol(request, from, now_ms()).await.map_err(|error| {
            let (reply, pop, node) = (error.reply(), &request.pop, request.node);
            let error = &error as &(dyn std::error::Error + 'static);
            match reply.code.fault() {
                Fault::System => tracing::error!(error, %pop, %node, from, "an enrolment failed"),
                _ => tracing::warn!(error, %pop, %node, from, "an enrolment was refused"),
            }
            reply
        })
    }
}
