//! etcd: three members on loopback with their default settings, and gRPC clients that put.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rockpool::local::free_port;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::load::{VALUE_BYTES, Writer, key};
use crate::system::{Counts, MEMBERS, System, metric};

const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// The messages of etcd's API that are used here, with the fields that are used; numbers as in etcd's `rpc.proto`.
mod messages {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResponseHeader {
        #[prost(uint64, tag = "2")]
        pub member_id: u64,
        #[prost(int64, tag = "3")]
        pub revision: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PutRequest {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PutResponse {
        #[prost(message, optional, tag = "1")]
        pub header: Option<ResponseHeader>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusResponse {
        #[prost(message, optional, tag = "1")]
        pub header: Option<ResponseHeader>,
        #[prost(uint64, tag = "4")]
        pub leader: u64,
    }
}
use messages::{PutRequest, PutResponse, StatusRequest, StatusResponse};

/// A cluster.
pub struct Etcd {
    members: Vec<Member>,
    /// Place of the leader among the members.
    leader: usize,
}

struct Member {
    process: Child,
    id: u32,
    address: String,
}

impl System for Etcd {
    type Writer = Client;

    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut peers = Vec::new();
        for _ in 0..MEMBERS {
            peers.push(free_port()?);
        }
        let named = peers.iter().enumerate().map(|(at, peer)| format!("m{at}=http://{peer}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let members = peers.iter().enumerate().map(|(at, peer)| spawn(dir, at, peer, &cluster));
        let members = members.collect::<anyhow::Result<Vec<_>>>()?;
        let leader = leader(&members).await?;
        Ok(Self { members, leader })
    }

    async fn writers(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let mut writers = Vec::with_capacity(count);
        for number in 0..count {
            let member = &self.members[(self.leader + number) % self.members.len()];
            writers.push(Client { grpc: connect(&member.address).await? });
        }
        Ok(writers)
    }

    fn process_ids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.id).collect()
    }

    async fn counts(&self) -> anyhow::Result<Counts> {
        let address = &self.members[self.leader].address;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let page = http.get(format!("http://{address}/metrics")).send().await?.text().await?;
        let header = status(address).await?.header.context("a status without header")?;
        // An empty store is at revision 1.
        let writes = u64::try_from(header.revision - 1)?;
        Ok(Counts {
            syncs: metric(&page, "etcd_disk_wal_fsync_duration_seconds_count")? as u64,
            sync_s: metric(&page, "etcd_disk_wal_fsync_duration_seconds_sum")?,
            writes,
        })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.process.kill().await?;
        }
        Ok(())
    }
}

fn spawn(dir: &Path, at: usize, peer: &str, cluster: &str) -> anyhow::Result<Member> {
    let address = free_port()?;
    let log = std::fs::File::create(dir.join(format!("m{at}.log")))?;
    let (clients, peers) = (format!("http://{address}"), format!("http://{peer}"));
    let process = Command::new("etcd")
        .args(["--name", &format!("m{at}")])
        .arg("--data-dir")
        .arg(dir.join(format!("m{at}")))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", cluster, "--initial-cluster-state", "new"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start etcd: apt-get install etcd-server")?;
    let id = process.id().context("etcd ended at once")?;
    Ok(Member { process, id, address })
}

/// Waits until every member knows the leader.
async fn leader(members: &[Member]) -> anyhow::Result<usize> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        match agreed(members).await {
            Ok(leader) => return Ok(leader),
            Err(error) if Instant::now() >= until => return Err(error.context("etcd has no leader")),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn agreed(members: &[Member]) -> anyhow::Result<usize> {
    let mut found = None;
    for (at, member) in members.iter().enumerate() {
        let status = status(&member.address).await?;
        anyhow::ensure!(status.leader != 0, "{} knows no leader", member.address);
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            found = Some(at);
        }
    }
    found.context("the leader does not know yet that it leads")
}

async fn connect(address: &str) -> anyhow::Result<Grpc<Channel>> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.timeout(WRITE_WITHIN).tcp_nodelay(true);
    Ok(Grpc::new(endpoint.connect().await?))
}

async fn status(address: &str) -> anyhow::Result<StatusResponse> {
    let mut grpc = connect(address).await?;
    call(&mut grpc, StatusRequest {}, "/etcdserverpb.Maintenance/Status").await
}

async fn call<Q, R>(grpc: &mut Grpc<Channel>, request: Q, path: &'static str) -> anyhow::Result<R>
where
    Q: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    grpc.ready().await?;
    let codec = ProstCodec::<Q, R>::default();
    let reply = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(reply.into_inner())
}

/// A gRPC client.
pub struct Client {
    grpc: Grpc<Channel>,
}

impl Writer for Client {
    async fn write(&mut self, number: u64) -> anyhow::Result<()> {
        let put = PutRequest { key: key(number).into_bytes(), value: vec![b'v'; VALUE_BYTES] };
        let reply: PutResponse = call(&mut self.grpc, put, "/etcdserverpb.KV/Put").await?;
        anyhow::ensure!(reply.header.is_some_and(|header| header.revision > 1), "a put without revision");
        Ok(())
    }
}
