//! A deployment for a test: an authority, identities, and a UDP relay that can go silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proto::{NodeId, PopId};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use transport::Identity;
use transport::pki::{Authority, Credentials, Issued, Trust, Validity};

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority in a folder that goes away with it.
pub struct Deployment {
    pub authority: Authority,
    folder: TempDir,
}

impl Deployment {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), Validity::starting_now(DAY)).unwrap();
        Self { authority, folder }
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn trust(&self) -> Trust {
        self.authority.trust().unwrap()
    }

    pub fn issue(&self, identity: &Identity, validity: Validity) -> Issued {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        match identity {
            Identity::Node { pop, node } => self.authority.issue_node(pop, *node, &names, validity).unwrap(),
            Identity::Cloud => self.authority.issue_cloud(&names, validity).unwrap(),
        }
    }

    pub fn credentials(&self, identity: &Identity) -> Credentials {
        self.issue(identity, Validity::starting_now(DAY)).credentials().unwrap()
    }
}

pub fn pop(name: &str) -> PopId {
    PopId::new(name).unwrap()
}

pub fn node(name: &str, id: u64) -> Identity {
    Identity::Node { pop: pop(name), node: NodeId(id) }
}

pub fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Most dialers that one relay carries.
const FLOWS_MAX: usize = 16;

/// Passes datagrams on to a listener and back, until told to stop.
pub struct Relay {
    pub address: SocketAddr,
    silent: Arc<AtomicBool>,
    /// How long the way back takes, in milliseconds.
    late_ms: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub async fn new(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
        let address = front.local_addr().unwrap();
        let (silent, late_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(relay(front, target, Arc::clone(&silent), Arc::clone(&late_ms)));
        Self { address, silent, late_ms, task }
    }

    pub fn delay(&self, by: Duration) {
        self.late_ms.store(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    pub fn cut(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(front: Arc<UdpSocket>, target: SocketAddr, silent: Arc<AtomicBool>, late_ms: Arc<AtomicU64>) {
    let flows: Mutex<Vec<(SocketAddr, Arc<UdpSocket>)>> = Mutex::new(Vec::new());
    let mut backward = tokio::task::JoinSet::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((len, from)) = front.recv_from(&mut buffer).await else { continue };
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        let mut flows = flows.lock().await;
        let known = flows.iter().find(|(address, _)| *address == from).map(|(_, back)| Arc::clone(back));
        let back = match known {
            Some(back) => back,
            None => {
                assert!(flows.len() < FLOWS_MAX);
                let back = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
                back.connect(target).await.unwrap();
                flows.push((from, Arc::clone(&back)));
                let (front, silent, late_ms) =
                    (Arc::clone(&front), Arc::clone(&silent), Arc::clone(&late_ms));
                backward.spawn({
                    let back = Arc::clone(&back);
                    async move {
                        let mut buffer = vec![0; 65_536];
                        loop {
                            // An ICMP error is as good as silence.
                            let Ok(len) = back.recv(&mut buffer).await else { continue };
                            let late = Duration::from_millis(late_ms.load(Ordering::SeqCst));
                            let (front, bytes) = (Arc::clone(&front), buffer[..len].to_vec());
                            if !silent.load(Ordering::SeqCst) {
                                tokio::spawn(async move {
                                    tokio::time::sleep(late).await;
                                    let _ = front.send_to(&bytes, from).await;
                                });
                            }
                        }
                    }
                });
                back
            }
        };
        let _ = back.send(&buffer[..len]).await;
    }
}
