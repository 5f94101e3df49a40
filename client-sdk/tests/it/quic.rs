//! Over real QUIC, with certificates of a real authority.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client_sdk::{Client, Config, EventKind, Trust};
use proto::NodeId;
use tempfile::TempDir;
use transport::pki::{Authority, Validity};
use transport::quic::{QuicListener, Settings};
use transport::{Door, Listener};

use crate::pop::{APP_KEY, PATIENCE, Pop, home, pop_id, visitor};

/// A PoP over QUIC on this machine.
pub struct QuicPop {
    pub pop: Pop,
    pub addresses: Vec<String>,
    pub ca: PathBuf,
    listeners: Vec<Arc<QuicListener>>,
    _folder: TempDir,
}

impl QuicPop {
    pub fn new(nodes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let validity = Validity::starting_now(Duration::from_secs(3_600));
        let authority = Authority::create(folder.path(), validity).unwrap();
        let (pop, trust) = (Pop::default(), authority.trust().unwrap());
        let mut listeners = Vec::new();
        for node in 1..=nodes {
            let issued = authority.issue_node(&pop_id(), NodeId(node), &[], validity).unwrap();
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let credentials = issued.credentials().unwrap();
            let settings = Settings::clients();
            let listener =
                QuicListener::bind(any_port, Door::Clients, &credentials, &trust, &settings).unwrap();
            let listener = Arc::new(listener);
            tokio::spawn(pop.clone().serve(node, Arc::clone(&listener) as Arc<dyn Listener>));
            listeners.push(listener);
        }
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_address()).collect();
        pop.announce(addresses.clone());
        Self { pop, addresses, ca: authority.certificate_path(), listeners, _folder: folder }
    }

    pub fn config(&self) -> Config {
        let trust = Trust::CaFile(self.ca.clone());
        Config::new(self.addresses.clone(), "edge.pop-a.rockpool.internal", trust, APP_KEY)
    }
}

#[tokio::test]
async fn recommend_track_and_fail_over() {
    let quic = QuicPop::new(3);
    let client = Client::connect(quic.config()).await.unwrap();
    let answer = client.recommend(home(&visitor("ada"))).await.unwrap();
    assert_eq!(answer.items.len(), 3);
    let (item, slot) = (answer.items[0].item.clone(), "home".parse().unwrap());
    let id = client
        .track(&visitor("ada"), EventKind::Click { item, slot, answer: Some(answer.id) })
        .await
        .unwrap();
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(quic.pop.event_ids(), [id]);
    // The preferred node goes away in an orderly way, as at a deployment.
    let gone = quic.addresses.iter().position(|address| Some(address) == client.node().as_ref()).unwrap();
    quic.listeners[gone].shutdown().await;
    client.recommend(home(&visitor("ada")).deadline(Duration::from_secs(10))).await.unwrap();
    assert_ne!(client.node().as_ref(), Some(&quic.addresses[gone]));
    assert_eq!(quic.pop.unannounced(), 0);
    client.close().await;
}

#[tokio::test]
async fn a_node_of_another_name_or_authority_is_not_talked_to() {
    let (quic, foreign) = (QuicPop::new(1), QuicPop::new(1));
    let mut other_name = quic.config();
    other_name.server_name = "edge.pop-b.rockpool.internal".into();
    let mut other_authority = quic.config();
    other_authority.trust = Trust::CaFile(foreign.ca.clone());
    for config in [other_name, other_authority] {
        let error = Client::connect(config).await.unwrap_err();
        assert_eq!(error.code(), client_sdk::Code::Unauthenticated, "{error}");
    }
    assert!(quic.pop.sessions().is_empty());
}
