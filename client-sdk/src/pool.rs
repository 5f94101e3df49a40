//! Connections to nodes, each opened with a session. One a node, few in all; the least used goes first.
//!
//! A connection is dialled by a task of its own, for everybody who waits for it: a request that gives up at its
//! deadline does not take the connection along, and the next request finds it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::client::{Ask, ClientReply, ClientRequest, OpenSession, SessionOpened};
use proto::codec::CodecError;
use proto::{ErrorReply, TraceId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transport::{Dialer, Link, LinkError, LinkErrorKind, Peer, call};

use crate::config::Config;
use crate::error::SdkError;
use crate::ids::new_trace;
use crate::session::{Address, Failure};

/// Connections of one client. One is used; others are being left or being measured.
const CONNECTIONS_MAX: usize = 4;

/// A question on a connection that had reached its maximum age fails at once. One that fails later was lost with its
/// node.
const ENDED_WITHIN: Duration = Duration::from_millis(100);

/// How clients present themselves.
const AGENT: &str = concat!("rockpool-rust/", env!("CARGO_PKG_VERSION"));

/// Why a question got no answer.
#[derive(Debug, Clone)]
pub(crate) struct AskError {
    /// What it means for the next step.
    pub(crate) failure: Failure,
    /// What it means for people. Shared by all who waited for the same connection.
    pub(crate) error: Arc<SdkError>,
}

impl AskError {
    fn new(failure: Failure, error: SdkError) -> Self {
        Self { failure, error: Arc::new(error) }
    }
}

/// A link on which a session is open.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Arc<dyn Link>,
    address: Address,
    session: SessionOpened,
    started: Instant,
    /// When something came from the node last, in milliseconds since the client began.
    heard_ms: AtomicU64,
    /// Replies since the session was opened.
    replies: AtomicU64,
}

impl Connection {
    /// Asks, and waits for the reply.
    pub(crate) async fn ask(
        &self,
        trace: TraceId,
        ask: Ask,
        timeout: Duration,
    ) -> Result<ClientReply, AskError> {
        let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let request = ClientRequest { trace, deadline_ms, ask };
        let asked_at = Instant::now();
        let reply = call::<_, ClientReply>(&*self.link, &request, timeout).await;
        let reply = reply.map_err(|error| {
            if matches!(error.kind, LinkErrorKind::Timeout) {
                return AskError::new(
                    Failure::Silent,
                    SdkError::Link { node: self.address.to_string(), source: error },
                );
            }
            let worked = self.replies.load(Ordering::Relaxed) > 0;
            let ended = worked && self.link.is_closed() && asked_at.elapsed() < ENDED_WITHIN;
            link_error(&self.address, error, ended)
        })?;
        self.heard_ms.store(now_ms(self.started), Ordering::Relaxed);
        match reply {
            ClientReply::Error(reply) => Err(refusal(&self.address, reply)),
            reply => {
                self.replies.fetch_add(1, Ordering::Relaxed);
                Ok(reply)
            }
        }
    }

    /// What the node said when the session was opened.
    pub(crate) fn session(&self) -> &SessionOpened {
        &self.session
    }

    /// The error for a reply that does not belong to its request.
    pub(crate) fn unexpected(&self) -> AskError {
        AskError::new(Failure::Unreachable, SdkError::Unexpected { node: self.address.to_string() })
    }
}

type Dialled = Option<Result<Arc<Connection>, AskError>>;

#[derive(Debug)]
struct Slot {
    address: Address,
    /// `None` while it is being dialled.
    dialled: watch::Receiver<Dialled>,
    used: u64,
}

#[derive(Debug)]
struct Slots {
    slots: Vec<Slot>,
    uses: u64,
}

/// What a dialling task needs.
#[derive(Debug)]
struct Opener {
    dialer: Arc<dyn Dialer>,
    peer: Peer,
    app_key: crate::config::AppKey,
    timeout: Duration,
    started: Instant,
}

/// The connections of one client.
#[derive(Debug)]
pub(crate) struct Pool {
    opener: Arc<Opener>,
    slots: Mutex<Slots>,
    closing: CancellationToken,
}

impl Pool {
    /// No connection yet.
    pub(crate) fn new(
        dialer: Arc<dyn Dialer>,
        config: &Config,
        started: Instant,
        closing: CancellationToken,
    ) -> Self {
        let opener = Opener {
            dialer,
            peer: Peer::Named(config.server_name.clone()),
            app_key: config.app_key.clone(),
            timeout: Duration::from_millis(config.timing.connect_timeout_ms),
            started,
        };
        Self { opener: Arc::new(opener), slots: Mutex::new(Slots { slots: Vec::new(), uses: 0 }), closing }
    }

    /// The connection to a node; dials if there is none. True: this call found it open or waited for it to be;
    /// false: this call had it dialled.
    pub(crate) async fn connection(&self, address: &Address) -> Result<(Arc<Connection>, bool), AskError> {
        let (mut dialled, found) = self.slot(address);
        let result = dialled.wait_for(Option::is_some).await.map(|dialled| (*dialled).clone());
        match result {
            Ok(Some(result)) => result.map(|connection| (connection, found)),
            // The dialling task ended without a result: the client is closing.
            Ok(None) | Err(_) => Err(AskError::new(Failure::Unreachable, SdkError::Closed)),
        }
    }

    /// Lets go of a connection on which nothing was heard since `asked_at_ms`; what is in flight on it goes on.
    pub(crate) fn forget_silent(&self, address: &Address, asked_at_ms: u64) {
        let silent = |slot: &Slot| match &*slot.dialled.borrow() {
            Some(Ok(connection)) => connection.heard_ms.load(Ordering::Relaxed) <= asked_at_ms,
            Some(Err(_)) | None => false,
        };
        self.lock().slots.retain(|slot| slot.address != *address || !silent(slot));
    }

    /// Lets go of all connections but this one; what is in flight on them goes on.
    pub(crate) fn keep_only(&self, address: &Address) {
        self.lock().slots.retain(|slot| slot.address == *address);
    }

    /// Closes every connection at once.
    pub(crate) fn close(&self) {
        for slot in std::mem::take(&mut self.lock().slots) {
            if let Some(Ok(connection)) = &*slot.dialled.borrow() {
                connection.link.close("the client is closing");
            }
        }
    }

    /// The slot of a node, dialling if it is not open, and whether it was there.
    fn slot(&self, address: &Address) -> (watch::Receiver<Dialled>, bool) {
        let mut slots = self.lock();
        slots.uses += 1;
        let uses = slots.uses;
        let usable = |dialled: &Dialled| match dialled {
            None => true,
            Some(Ok(connection)) => !connection.link.is_closed(),
            Some(Err(_)) => false,
        };
        if let Some(at) = slots.slots.iter().position(|slot| slot.address == *address) {
            let slot = &mut slots.slots[at];
            if usable(&slot.dialled.borrow()) {
                slot.used = uses;
                return (slot.dialled.clone(), true);
            }
            slots.slots.swap_remove(at);
        }
        if slots.slots.len() >= CONNECTIONS_MAX
            && let Some(at) = (0..slots.slots.len()).min_by_key(|at| slots.slots[*at].used)
        {
            slots.slots.swap_remove(at);
        }
        let dialled = self.dial(address);
        slots.slots.push(Slot { address: address.clone(), dialled: dialled.clone(), used: uses });
        (dialled, false)
    }

    fn dial(&self, address: &Address) -> watch::Receiver<Dialled> {
        let (sender, receiver) = watch::channel(None);
        let (opener, address, closing) = (Arc::clone(&self.opener), address.clone(), self.closing.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                result = opener.open(&address) => {
                    sender.send_replace(Some(result));
                }
            }
        });
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it holds the lock.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opener {
    /// Dials, and opens a session as the first thing said.
    async fn open(&self, address: &Address) -> Result<Arc<Connection>, AskError> {
        let failed = |error| link_error(address, error, false);
        let dialled_at = Instant::now();
        let link = self.dialer.dial(address, &self.peer, self.timeout).await.map_err(failed)?;
        let left = self.timeout.saturating_sub(dialled_at.elapsed()).max(Duration::from_millis(1));
        let open = OpenSession { app_key: self.app_key.reveal().to_owned(), agent: AGENT.to_owned() };
        let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let request = ClientRequest { trace: new_trace(), deadline_ms, ask: Ask::Session(open) };
        let reply = call::<_, ClientReply>(&*link, &request, left).await.map_err(failed)?;
        let session = match reply {
            ClientReply::Session(session) => session,
            ClientReply::Error(reply) => return Err(refusal(address, reply)),
            _ => {
                let error = SdkError::Unexpected { node: address.to_string() };
                return Err(AskError::new(Failure::Unreachable, error));
            }
        };
        tracing::debug!(node = %address, pop = %session.pop, "session opened");
        Ok(Arc::new(Connection {
            link,
            address: address.clone(),
            session,
            started: self.started,
            heard_ms: AtomicU64::new(now_ms(self.started)),
            replies: AtomicU64::new(0),
        }))
    }
}

/// Milliseconds since the client began, by a clock that never steps back.
pub(crate) fn now_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn refusal(address: &Address, reply: ErrorReply) -> AskError {
    let error = SdkError::Refused { node: Some(address.to_string()), reply: reply.clone() };
    AskError::new(Failure::Refused(reply), error)
}

fn link_error(address: &Address, error: LinkError, ended: bool) -> AskError {
    let failure = match &error.kind {
        // Our own message is too large for its frame: no node will ever hear it.
        LinkErrorKind::Protocol(CodecError::TooLarge { .. }) if error.operation == "send" => {
            Failure::Refused(ErrorReply::from(&error))
        }
        _ if ended => Failure::Ended,
        _ => Failure::Unreachable,
    };
    AskError::new(failure, SdkError::Link { node: address.to_string(), source: error })
}
