//! Both ends of an in-memory network: who listens and who dials.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::link::MemoryLink;
use super::wire::{Side, Wire};
use super::{Network, Settings, host_of};
use crate::error::{LinkError, LinkErrorKind};
use crate::identity::{Identity, edge_name};
use crate::link::{Dialer, Door, Link, Listener, Peer, Remote};

/// Links that may wait to be accepted.
const READY_LINKS_MAX: usize = 64;

/// What the network knows of a listener.
#[derive(Debug)]
pub(super) struct Entrance {
    address: String,
    identity: Identity,
    door: Door,
    settings: Settings,
    state: Mutex<EntranceState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct EntranceState {
    ready: VecDeque<Arc<dyn Link>>,
    wires: Vec<Weak<Wire>>,
    ended: bool,
}

impl Entrance {
    pub(super) fn new(address: &str, identity: Identity, door: Door, settings: Settings) -> Self {
        Self {
            address: address.to_owned(),
            identity,
            door,
            settings,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn host(&self) -> &str {
        host_of(&self.address)
    }

    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.ready.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, EntranceState> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its certificate would carry the name that a dialer expects.
    fn check_name(&self, expect: &Peer) -> Result<(), LinkErrorKind> {
        let address = |e: crate::IdentityError| LinkErrorKind::Address(e.to_string().into());
        let expected = expect.server_name().map_err(address)?;
        let mut names = vec![self.identity.dns_name().map_err(address)?, self.host().to_owned()];
        if let Some(pop) = self.identity.pop() {
            names.push(edge_name(pop).map_err(address)?);
        }
        if names.contains(&expected) {
            return Ok(());
        }
        Err(LinkErrorKind::Tls(format!("{} is not {expected:?}", self.identity).into()))
    }

    /// Whether the dialer may come in.
    fn check_dialer(&self, identity: Option<&Identity>) -> Result<(), LinkErrorKind> {
        let refused = |reason: String| match identity {
            Some(_) => LinkErrorKind::Forbidden(reason.into()),
            None => LinkErrorKind::Tls(reason.into()),
        };
        self.door.admits(identity).map_err(refused)
    }

    fn live_wires(&self) -> Vec<Arc<Wire>> {
        let mut state = self.lock();
        state.wires.retain(|wire| wire.strong_count() > 0);
        state.wires.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Accepts in-memory links. Dropping it closes its address and its links.
#[derive(Debug)]
pub struct MemoryListener {
    network: Network,
    entrance: Arc<Entrance>,
}

impl MemoryListener {
    pub(super) fn new(network: Network, entrance: Arc<Entrance>) -> Self {
        Self { network, entrance }
    }

    /// Takes the address back from the network, unless a next life of the host has it already.
    fn leave(&self) {
        let mut state = self.network.shared.lock();
        let own = state.entrances.get(&self.entrance.address);
        if own.is_some_and(|entrance| Arc::ptr_eq(entrance, &self.entrance)) {
            state.entrances.remove(&self.entrance.address);
        }
        drop(state);
        self.entrance.end();
    }
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&self) -> Option<Arc<dyn Link>> {
        loop {
            let changed = self.entrance.changed.notified();
            {
                let mut state = self.entrance.lock();
                if let Some(link) = state.ready.pop_front() {
                    drop(state);
                    self.entrance.changed.notify_waiters();
                    return Some(link);
                }
                if state.ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    fn local_address(&self) -> String {
        self.entrance.address.clone()
    }

    async fn shutdown(&self) {
        self.leave();
        let wires = self.entrance.live_wires();
        for wire in &wires {
            wire.change(|state, now| state.start_drain(now));
        }
        for wire in wires {
            // Whoever tends it ends it within `drain_ms`.
            wire.ended(Side::Listener).await;
        }
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.leave();
        for wire in self.entrance.live_wires() {
            wire.change(|state, now| state.end(Some(Side::Listener), "the listener is gone", now));
        }
    }
}

/// Makes in-memory links from one host.
#[derive(Debug)]
pub struct MemoryDialer {
    network: Network,
    host: String,
    identity: Option<Identity>,
    /// The life of the host that this dialer belongs to.
    deaths: u64,
}

impl MemoryDialer {
    pub(super) fn new(network: Network, host: String, identity: Option<Identity>, deaths: u64) -> Self {
        Self { network, host, identity, deaths }
    }

    /// Waits until somebody listens at `address`, both paths are open, and there is room.
    async fn reach(&self, address: &str) -> Result<Arc<Entrance>, LinkErrorKind> {
        loop {
            let changed = self.network.shared.changed.notified();
            let reached = {
                let state = self.network.shared.lock();
                if state.deaths(&self.host) != self.deaths {
                    return Err(LinkErrorKind::Closed("this host was killed".into()));
                }
                let host = host_of(address);
                let open = !state.is_blocked(&self.host, host) && !state.is_blocked(host, &self.host);
                state.entrances.get(address).filter(|_| open).cloned()
            };
            match reached {
                Some(entrance) => return Ok(entrance),
                None => changed.await,
            }
        }
    }

    async fn connect(&self, address: &str, expect: &Peer) -> Result<Arc<dyn Link>, LinkErrorKind> {
        // A name that cannot be is refused before anything is sent.
        expect.server_name().map_err(|e| LinkErrorKind::Address(e.to_string().into()))?;
        let entrance = self.reach(address).await?;
        let settings = &entrance.settings;
        // There and back again.
        tokio::time::sleep(Duration::from_millis(2 * settings.latency_ms)).await;
        let entrance = self.reach(address).await?;
        entrance.check_name(expect)?;
        entrance.check_dialer(self.identity.as_ref())?;
        loop {
            let changed = entrance.changed.notified();
            if let Some(link) = self.enter(&entrance)? {
                return Ok(link);
            }
            changed.await;
        }
    }

    /// Makes the link, unless too many wait to be accepted.
    fn enter(&self, entrance: &Arc<Entrance>) -> Result<Option<Arc<dyn Link>>, LinkErrorKind> {
        let live = entrance.live_wires().len();
        let mut network = self.network.shared.lock();
        let mut state = entrance.lock();
        if state.ended || live >= entrance.settings.max_connections {
            return Err(LinkErrorKind::Refused("the other side takes no more connections".into()));
        }
        if state.ready.len() >= READY_LINKS_MAX {
            return Ok(None);
        }
        network.links_made += 1;
        let seed = self.network.shared.seed ^ network.links_made.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let hosts = [self.host.clone(), entrance.host().to_owned()];
        let wire = Wire::new(hosts, entrance.settings.clone(), seed);
        network.wires.push(Arc::downgrade(&wire));
        state.wires.push(Arc::downgrade(&wire));
        let budget = || Arc::clone(&self.network.shared.budget);
        let (ours, theirs) = self.remotes(entrance);
        state.ready.push_back(Arc::new(MemoryLink::new(Arc::clone(&wire), Side::Listener, ours, budget())));
        drop((network, state));
        entrance.changed.notify_waiters();
        tokio::spawn(Arc::clone(&wire).tend());
        Ok(Some(Arc::new(MemoryLink::new(wire, Side::Dialer, theirs, budget()))))
    }

    /// How each side sees the other: this dialer as the listener sees it, and the listener.
    fn remotes(&self, entrance: &Entrance) -> (Remote, Remote) {
        // Clients are not asked for a certificate.
        let shown = self.identity.clone().filter(|_| entrance.door.is_mutual());
        let ours = Remote { address: self.host.clone(), identity: shown, public_names: Vec::new() };
        let theirs = Remote {
            address: entrance.address.clone(),
            identity: Some(entrance.identity.clone()),
            public_names: Vec::new(),
        };
        (ours, theirs)
    }
}

#[async_trait]
impl Dialer for MemoryDialer {
    async fn dial(
        &self,
        address: &str,
        expect: &Peer,
        timeout: Duration,
    ) -> Result<Arc<dyn Link>, LinkError> {
        let deadline = Instant::now() + timeout;
        match tokio::time::timeout_at(deadline, self.connect(address, expect)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(kind)) => Err(kind.at("dial", address)),
            Err(_) => Err(LinkErrorKind::Timeout.at("dial", address)),
        }
    }
}
