//! Where this node stands: towards its PoP, and the PoP towards the cloud. The cloud is told, and so is whoever asks whether the node
//! is ready.

use std::sync::Arc;

use edge_store::{Member, Store};
use edge_uplink::CloudLink;
use proto::control::{Membership, Standing};
use proto::{Digest, codec};
use tokio::sync::watch;

use crate::bundles::ActiveBundle;

/// Says where a node stands.
#[derive(Clone)]
pub struct Standings {
    /// The replicated truth.
    pub store: Store,
    /// What is served from.
    pub active: ActiveBundle,
    /// True while this node leads and has caught up.
    pub leader: watch::Receiver<bool>,
}

impl Standings {
    /// Now. Whether the uplink stands still is the uplink's to say.
    pub fn now(&self) -> Standing {
        let status = self.store.status();
        let manifest = |serving: &Arc<crate::bundles::Serving>| {
            // Encoding has one form, so these are the bytes that were signed.
            Digest::of(&codec::encode(&serving.prepared.bundle().manifest))
        };
        Standing {
            membership: self.store.membership(),
            term: status.term,
            leads: *self.leader.borrow(),
            members: status.members.iter().map(|member: &Member| member.node).collect(),
            serves: self.active.load().as_ref().map(manifest),
            active: status.revision,
            active_manifest: self.store.active_manifest().map(|signed| Digest::of(&signed.manifest)),
            acknowledged: status.acknowledged,
            last_offset: status.last_offset,
            diverged: None,
        }
    }
}

/// Why a node cannot serve for its PoP, if its place there is why.
pub fn outside(store: &Store) -> Option<String> {
    match store.membership() {
        Membership::Left => Some("this node is no member of its PoP any more: end it".to_owned()),
        Membership::Waiting => Some("this node waits to be joined (`rockpool node join`)".to_owned()),
        _ => None,
    }
}

/// What a node that is ready has to say all the same.
pub fn remarks(cloud: &CloudLink) -> service::admin::Remarks {
    let cloud = cloud.clone();
    Arc::new(move || {
        cloud.diverged().map(|why| format!("the uplink stands still: {why}")).into_iter().collect()
    })
}
