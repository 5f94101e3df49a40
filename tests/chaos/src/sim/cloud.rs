//! The simulated cloud: what `cloud-storage` promises of appends, in memory. What it has taken it never loses; it can be away, and
//! it can take a batch whose acknowledgement is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::bundle::SignedManifest;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, Digest, ErrorReply, Event, EventId, Offset, Revision, codec};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use tokio::sync::watch;
use transport::memory::Network;
use transport::{Door, Identity, Link, Listener, Stream};

use super::world::Watch;
use crate::invariants::Fact;

/// Where nodes find it.
pub const ADDRESS: &str = "cloud:uplink";
/// Its host name.
pub const HOST: &str = "cloud";

/// The cloud. Clones are the same one.
#[derive(Clone)]
pub struct Cloud {
    shared: Arc<Shared>,
}

struct Shared {
    watch: Watch,
    network: Network,
    state: Mutex<State>,
    newest: watch::Sender<Revision>,
}

struct State {
    events: BTreeMap<u64, EventId>,
    manifest: Option<SignedManifest>,
    /// One in so many acknowledgements is lost with its link; 0: none.
    lose_every: u32,
    lost: u64,
    random: SmallRng,
}

impl Cloud {
    /// A cloud that holds nothing.
    pub fn new(seed: u64, network: Network, watch: Watch) -> Self {
        let state = State {
            events: BTreeMap::new(),
            manifest: None,
            lose_every: 0,
            lost: 0,
            random: SmallRng::seed_from_u64(seed),
        };
        let newest = watch::Sender::new(Revision(0));
        Self { shared: Arc::new(Shared { watch, network, state: Mutex::new(state), newest }) }
    }

    /// Starts, or starts again after it was killed.
    pub fn start(&self) -> Result<(), transport::LinkError> {
        let listener = self.shared.network.listener(ADDRESS, Identity::Cloud, Door::Uplink)?;
        let cloud = self.clone();
        tokio::spawn(async move {
            while let Some(link) = listener.accept().await {
                tokio::spawn(cloud.clone().connection(link));
            }
        });
        Ok(())
    }

    /// Loses one in so many acknowledgements, with its link.
    pub fn lose_acknowledgements(&self, every: u32) {
        self.lock().lose_every = every;
    }

    /// Acknowledgements lost so far.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Publishes the next bundle.
    pub fn publish(&self) {
        let revision = Revision(self.shared.newest.borrow().0 + 1);
        let manifest = manifest(revision);
        self.shared.watch.observe(&Fact::Published { revision, manifest: digest(&manifest) });
        self.lock().manifest = Some(manifest);
        self.shared.newest.send_replace(revision);
    }

    /// A manifest of a newer revision than any, that the cloud did not sign.
    pub fn forge(&self) -> SignedManifest {
        let forged = manifest(Revision(self.shared.newest.borrow().0 + 1));
        SignedManifest { signature: vec![0; forged.signature.len()], ..forged }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self, link: Arc<dyn Link>) {
        while let Ok(stream) = link.accept().await {
            tokio::spawn(self.clone().stream(Arc::clone(&link), stream));
        }
    }

    async fn stream(self, link: Arc<dyn Link>, mut stream: Stream) {
        let Ok(request) = stream.recv::<UplinkRequest>().await else { return };
        if request == UplinkRequest::Subscribe {
            return self.subscription(stream).await;
        }
        let appended = matches!(request, UplinkRequest::Append { .. });
        let reply = self.answer(request);
        if appended && self.loses() {
            link.close("the cloud loses this link");
            return;
        }
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }

    async fn subscription(self, mut stream: Stream) {
        let mut newest = self.shared.newest.subscribe();
        loop {
            let revision = *newest.borrow_and_update();
            if stream.send(&UplinkReply::Newer(revision)).await.is_err() || newest.changed().await.is_err() {
                return;
            }
        }
    }

    fn loses(&self) -> bool {
        let mut state = self.lock();
        let every = state.lose_every;
        let loses = every > 0 && state.random.random_range(0..every) == 0;
        state.lost += u64::from(loses);
        loses
    }

    fn answer(&self, request: UplinkRequest) -> UplinkReply {
        match request {
            UplinkRequest::Position => self.ack(),
            UplinkRequest::Append { first, events } => match self.append(first, &events) {
                Ok(()) => self.ack(),
                Err(error) => UplinkReply::Error(error),
            },
            UplinkRequest::Manifest => UplinkReply::Manifest(self.lock().manifest.clone()),
            UplinkRequest::Report(_) | UplinkRequest::Standing(_) => UplinkReply::Noted,
            _ => UplinkReply::Error(ErrorReply::new(Code::NotFound, "not simulated")),
        }
    }

    fn ack(&self) -> UplinkReply {
        UplinkReply::Ack {
            upto: Offset(self.lock().events.len() as u64),
            control_revision: *self.shared.newest.borrow(),
        }
    }

    /// As `cloud_storage::Storage::append`: what is there already must be the same, and there are no holes.
    fn append(&self, first: Offset, events: &[Event]) -> Result<(), ErrorReply> {
        let mut taken = Vec::new();
        {
            let mut state = self.lock();
            let held = state.events.len() as u64;
            if first.0 == 0 || first.0 > held + 1 {
                return Err(ErrorReply::new(
                    Code::Conflict,
                    format!("offset {first} leaves a hole after {held}"),
                ));
            }
            for (offset, event) in (first.0..).zip(events) {
                match state.events.get(&offset) {
                    Some(known) if *known == event.id => {}
                    Some(_) => {
                        return Err(ErrorReply::new(
                            Code::Conflict,
                            format!("another event is at offset {offset}"),
                        ));
                    }
                    None => {
                        state.events.insert(offset, event.id);
                        taken.push((Offset(offset), event.id));
                    }
                }
            }
        }
        taken.into_iter().for_each(|(offset, id)| self.shared.watch.observe(&Fact::Taken { offset, id }));
        Ok(())
    }
}

fn manifest(revision: Revision) -> SignedManifest {
    let manifest = proto::bundle::Manifest {
        revision,
        published_at_ms: revision.0,
        expires_at_ms: u64::MAX,
        artifacts: Vec::new(),
    };
    let manifest = codec::encode_any(&manifest);
    let signature = signature(&manifest);
    SignedManifest { manifest, signature }
}

/// Stands for the cloud's signature: who does not know the word cannot make it.
fn signature(manifest: &[u8]) -> Vec<u8> {
    let half = Digest::of(&[b"the simulated cloud", manifest].concat()).0;
    [half, half].concat()
}

/// Whether the cloud signed it.
pub fn is_signed(manifest: &SignedManifest) -> bool {
    manifest.signature == signature(&manifest.manifest)
}

/// What names a signed manifest.
pub fn digest(manifest: &SignedManifest) -> Digest {
    Digest::of(&[manifest.manifest.as_slice(), &manifest.signature].concat())
}
