//! Ours: a PoP of three `edge-node` processes. A write is one event of the size of etcd's key and value, tracked in a request of
//! its own through the apps' door (QUIC, TLS 1.3), without the SDK, which would sync its own queue first.
//!
//! The cloud runs until the nodes know its key, and is away then: a PoP takes writes all the same, and the cloud would not be on a
//! PoP's machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::client::{Ask, ClientReply, ClientRequest, OpenSession, Track};
use proto::{Event, EventId, EventKind, NodeId, TraceId, UserId, VisitorId};
use rockpool::local::{Deployment, Options, Overrides};
use serde::Deserialize;
use transport::{Dialer as _, Link, Peer, call};

use crate::load::{VALUE_BYTES, Writer, key};
use crate::system::{Counts, MEMBERS, System, metric};

const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// A PoP.
pub struct Pop {
    deployment: Deployment,
}

impl System for Pop {
    type Writer = Client;

    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let options = Options { dir: dir.to_owned(), nodes: MEMBERS, overrides: Overrides::default() };
        let mut deployment = Deployment::start(options).await?;
        deployment
            .until("the PoP has a leader", READY_WITHIN, async |this: &Deployment| {
                this.leader().await.map(drop)
            })
            .await?;
        deployment.kill_cloud().await?;
        Ok(Self { deployment })
    }

    async fn writers(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let leader = self.deployment.leader().await?;
        let dialer = self.deployment.app_dialer()?;
        let expect = Peer::Named(self.deployment.server_name()?);
        let mut writers = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let node = NodeId((leader.0 - 1 + number) % MEMBERS + 1);
            let address = &self.deployment.ports()[&node].clients;
            let link = dialer.dial(address, &expect, WRITE_WITHIN).await?;
            let open =
                OpenSession { app_key: self.deployment.app_key().to_owned(), agent: "bench-raft".into() };
            match ask(&*link, Ask::Session(open)).await? {
                ClientReply::Session(_) => writers.push(Client { link }),
                other => anyhow::bail!("no session: {other:?}"),
            }
        }
        Ok(writers)
    }

    fn process_ids(&self) -> Vec<u32> {
        self.deployment.running().into_iter().filter_map(|node| self.deployment.process_id(node)).collect()
    }

    async fn counts(&self) -> anyhow::Result<Counts> {
        #[derive(Deserialize)]
        struct Status {
            last_offset: u64,
        }
        let admin = self.deployment.admin(self.deployment.leader().await?)?;
        let page = admin.metrics().await?;
        Ok(Counts {
            syncs: metric(&page, "rockpool_store_fsync_seconds_count")? as u64,
            sync_s: metric(&page, "rockpool_store_fsync_seconds_sum")?,
            writes: admin.status::<Status>().await?.last_offset,
        })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        for node in self.deployment.running() {
            self.deployment.kill_node(node).await?;
        }
        Ok(())
    }
}

/// An app.
pub struct Client {
    link: Arc<dyn Link>,
}

impl Writer for Client {
    async fn write(&mut self, number: u64) -> anyhow::Result<()> {
        let track = Track { events: vec![event(number)?] };
        match ask(&*self.link, Ask::Track(track)).await? {
            ClientReply::Tracked(tracked) if tracked.accepted == 1 => Ok(()),
            other => anyhow::bail!("not tracked: {other:?}"),
        }
    }
}

async fn ask(link: &dyn Link, ask: Ask) -> anyhow::Result<ClientReply> {
    let deadline_ms = u32::try_from(WRITE_WITHIN.as_millis())?;
    let request = ClientRequest { trace: TraceId::default(), deadline_ms, ask };
    Ok(call(link, &request, WRITE_WITHIN).await?)
}

/// An event that carries the key as its name and the value in its attributes.
fn event(number: u64) -> anyhow::Result<Event> {
    let id = EventId(uuid::Uuid::now_v7());
    let at_ms = id.0.get_timestamp().map_or(0, |at| at.to_unix().0 * 1_000);
    let visitor = VisitorId::User(UserId::new(format!("visitor-{number}"))?);
    // Two attributes, as one holds 512 bytes at the most; their names are of the value as well.
    let text = "v".repeat(VALUE_BYTES / 2 - 1);
    let attributes = vec![("a".to_owned(), text.clone()), ("b".to_owned(), text)];
    let kind = EventKind::Custom { name: key(number), attributes };
    Ok(Event { id, visitor, at_ms, trace: TraceId::default(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_carries_as_much_as_etcds_write() {
        let event = event(42).unwrap();
        event.check(event.at_ms).unwrap();
        let EventKind::Custom { name, attributes } = &event.kind else { panic!("{event:?}") };
        let value: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert_eq!((name.len(), value), (256, 1024));
    }
}
