//! Varnish, all in memory, behind hitch, which ends TLS and says over the PROXY protocol who came.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use tokio::net::UnixStream;

use crate::child::{Child, Program};
use bench::http::{self, Server};

use super::origin::Origin;
use super::{Identity, Side, port};

/// Starts both in a folder of their own.
pub(super) async fn start(dir: &Path, identity: &Identity, origin: &Origin) -> anyhow::Result<Side> {
    let dir = dir.join("varnish");
    std::fs::create_dir_all(&dir)?;
    let (socket, port) = (dir.join("varnish.sock"), port()?);
    let varnish = varnish(&dir, &socket, origin).await?;
    let hitch = hitch(&dir, &socket, identity, &port).await?;
    let server = Server { address: format!("127.0.0.1:{port}"), tls: Some(http::tls(&identity.ca)?) };
    let roots = vec![varnish.id(), hitch.id()];
    Ok(Side { name: "varnish", server, prefix: String::new(), roots, _children: vec![hitch, varnish] })
}

async fn varnish(dir: &Path, socket: &Path, origin: &Origin) -> anyhow::Result<Child> {
    let (host, port) = origin.address().split_once(':').context("the origin has no port")?;
    let vcl = format!("vcl 4.1;\nbackend default {{ .host = \"{host}\"; .port = \"{port}\"; }}\n");
    std::fs::write(dir.join("bench.vcl"), vcl)?;
    let mut words: Vec<OsString> =
        ["varnishd", "-F", "-j", "none", "-s", "malloc,256m"].map(OsString::from).into();
    words.extend(["-f".into(), dir.join("bench.vcl").into(), "-n".into(), dir.join("work").into()]);
    words.extend(["-a".into(), format!("{},PROXY,mode=666", socket.display()).into()]);
    // Connections stay open through pauses, too.
    words.extend(["-p", "timeout_idle=3600", "-p", "thread_pool_min=100"].map(OsString::from));
    let mut varnish = Child::spawn(Program { name: "varnishd", dir, words, environment: Vec::new() })?;
    varnish.until(async || UnixStream::connect(socket).await.is_ok()).await?;
    Ok(varnish)
}

async fn hitch(dir: &Path, socket: &Path, identity: &Identity, port: &str) -> anyhow::Result<Child> {
    // It takes key and certificate in one file.
    let pem = dir.join("hitch.pem");
    let together = [std::fs::read(&identity.key)?, std::fs::read(&identity.certificate)?].concat();
    std::fs::write(&pem, together)?;
    let workers = std::thread::available_parallelism()?;
    // It refuses to work as root; then the folders above the socket must let nobody through, too.
    let is_root = std::fs::metadata(dir)?.uid() == 0;
    let user = if is_root { "user = \"nobody\"\n" } else { "" };
    let settings = format!(
        "{user}frontend = \"[127.0.0.1]:{port}\"
backend = \"{}\"
pem-file = \"{}\"
workers = {workers}
backlog = 1024
write-proxy-v2 = on
tls-protos = TLSv1.3
ciphersuites = \"TLS_AES_128_GCM_SHA256\"
daemon = off
",
        socket.display(),
        pem.display()
    );
    std::fs::write(dir.join("hitch.conf"), settings)?;
    let config = format!("--config={}", dir.join("hitch.conf").display());
    let words = vec!["hitch".into(), config.into()];
    let mut hitch = Child::spawn(Program { name: "hitch", dir, words, environment: Vec::new() })?;
    hitch.until_listening(&format!("127.0.0.1:{port}")).await?;
    Ok(hitch)
}
