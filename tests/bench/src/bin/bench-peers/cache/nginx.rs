//! nginx with `proxy_cache`, a worker a core. Its files are in the benchmark's folder, and from the system's page cache in memory.

use std::ffi::OsString;
use std::path::Path;

use crate::child::{Child, Program};
use bench::http::{self, Server};

use super::origin::Origin;
use super::{Identity, Side, port};

/// Starts it in a folder of its own.
pub(super) async fn start(dir: &Path, identity: &Identity, origin: &Origin) -> anyhow::Result<Side> {
    let dir = dir.join("nginx");
    std::fs::create_dir_all(&dir)?;
    let port = port()?;
    std::fs::write(dir.join("nginx.conf"), settings(&dir, identity, origin, &port))?;
    let words = [OsString::from("nginx"), "-p".into(), dir.clone().into(), "-c".into(), "nginx.conf".into()];
    let words = words.into_iter().chain(["-e".into(), "error.log".into()]).collect();
    let mut nginx = Child::spawn(Program { name: "nginx", dir: &dir, words, environment: Vec::new() })?;
    let address = format!("127.0.0.1:{port}");
    nginx.until_listening(&address).await?;
    let (server, roots) = (Server { address, tls: Some(http::tls(&identity.ca)?) }, vec![nginx.id()]);
    Ok(Side { name: "nginx", server, prefix: String::new(), roots, _children: vec![nginx] })
}

fn settings(dir: &Path, identity: &Identity, origin: &Origin, port: &str) -> String {
    let (dir, origin) = (dir.display(), origin.address());
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    format!(
        "user root;
worker_processes auto;
daemon off;
pid {dir}/nginx.pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=1h;
    open_file_cache_valid 1h;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    proxy_cache_path {dir}/cache levels=1:2 keys_zone=bench:10m max_size=1g inactive=1h use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 16; }}
    server {{
        # A socket for each worker, so that both have as many connections.
        listen 127.0.0.1:{port} ssl reuseport backlog=1024;
        server_name localhost;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_cache bench;
            proxy_cache_lock on;
        }}
    }}
}}
"
    )
}
