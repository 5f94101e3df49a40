//! Somebody with a certificate that is good for another PoP tries the peers' doors: nothing that it says may count.

use std::time::Duration;

use proto::command::Command;
use proto::peer::{PeerReply, PeerRequest};
use proto::{NodeId, PopId};
use transport::{Dialer as _, Identity, Peer};

use crate::sim::machine::{address, pop};
use crate::sim::world::World;

/// How long each door may take to answer.
const WITHIN: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn stranger(&mut self) -> Option<String> {
        let elsewhere = PopId::new("elsewhere").ok()?;
        let manifest = self.cloud.forge();
        for (node, _) in self.running() {
            let identity = Identity::Node { pop: elsewhere.clone(), node: NodeId(node) };
            let dialer = self.setting.network.dialer("stranger", Some(identity));
            let request = PeerRequest::Propose(vec![Command::Activate { manifest: manifest.clone() }]);
            let expect = Peer::Node { pop: pop(), node: NodeId(node) };
            tokio::spawn(async move {
                let link = dialer.dial(&address(node), &expect, WITHIN).await?;
                transport::call::<_, PeerReply>(&*link, &request, WITHIN).await
            });
        }
        Some("at all that run".to_owned())
    }
}
