//! The door over the in-memory form of a link, where its places can be held.

use inference::Engine;
use proto::Offset;
use transport::memory::Network;
use transport::{Dialer, Door, Peer, call};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_has_no_place_is_told_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path(), &cloud_storage::Config::default()).await.unwrap();
    let key = folder.path().join("signing.key");
    let (engines, rollout) = (vec![Engine::tract()], Default::default());
    let registry =
        Registry::open(storage.clone(), &key, engines, Default::default(), rollout, now_ms()).await.unwrap();
    let mut config = crate::config::Config::from_sources(None, std::iter::empty()).unwrap().uplink;
    config.in_flight_max = 1;
    let metrics = UplinkMetrics::new(&prometheus::Registry::new()).unwrap();
    let identities = crate::metrics::IdentityMetrics::new(&prometheus::Registry::new()).unwrap();
    let identities = Identities::open(storage.clone(), None, identities).await.unwrap();
    let pops = Pops::new(storage.clone(), registry.clone(), identities.revoked().clone());
    let door = UplinkDoor::new(&config, storage, registry, identities, pops, metrics);

    let network = Network::new(1);
    let listener = network.listener("cloud:1", Identity::Cloud, Door::Uplink).unwrap();
    let node = Identity::Node { pop: PopId::new("fra").unwrap(), node: NodeId(1) };
    let shutdown = Shutdown::new();
    let running = tokio::spawn(door.clone().run(Arc::new(listener), shutdown.clone()));
    let link = network.dialer("node", Some(node)).dial("cloud:1", &Peer::Cloud, PATIENCE).await.unwrap();

    let place = door.in_flight.acquire().await.unwrap();
    match call(&*link, &UplinkRequest::Position, PATIENCE).await.unwrap() {
        UplinkReply::Error(error) => {
            assert_eq!((error.code, error.retry_after_ms), (Code::Overloaded, Some(RETRY_AFTER_MS)));
        }
        other => panic!("{other:?}"),
    }
    // A subscription has a place of its own.
    let mut subscription = link.open().await.unwrap();
    subscription.send(&UplinkRequest::Subscribe).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, subscription.recv::<UplinkReply>()).await.unwrap().unwrap();
    assert_eq!(heard, UplinkReply::Newer(proto::Revision(0)));
    drop(place);
    match call(&*link, &UplinkRequest::Position, PATIENCE).await.unwrap() {
        UplinkReply::Ack { upto, .. } => assert_eq!(upto, Offset(0)),
        other => panic!("{other:?}"),
    }
    shutdown.cancel();
    drop(subscription);
    link.close("done");
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
}
