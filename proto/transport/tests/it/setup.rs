//! A deployment for a test: an authority, identities, and a UDP relay that can go silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub async fn new(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
        let address = front.local_addr().unwrap();
        let silent = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(relay(front, target, Arc::clone(&silent)));
        Self { address, silent, task }
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

async fn relay(front: Arc<UdpSocket>, target: SocketAddr, silent: Arc<AtomicBool>) {
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
                let (front, back, silent) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&silent));
                backward.spawn({
                    let back = Arc::clone(&back);
                    async move {
                        let mut buffer = vec![0; 65_536];
                        loop {
                            // An ICMP error is as good as silence.
                            let Ok(len) = back.recv(&mut buffer).await else { continue };
                            if !silent.load(Ordering::SeqCst) {
                                let _ = front.send_to(&buffer[..len], from).await;
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
