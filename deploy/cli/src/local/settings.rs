//! The settings files of a local deployment: only what differs from the commented defaults.

use std::path::Path;

use anyhow::Context as _;
use proto::{Digest, NodeId};
use toml::{Table, Value};

use super::Deployment;

/// Settings that differ from the defaults.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// For every node: `("store.snapshot_every", 100.into())`.
    pub node: Vec<(String, Value)>,
    /// For the cloud.
    pub cloud: Vec<(String, Value)>,
}

/// Writes a settings file, in a folder that is made if it is missing.
pub fn write(path: &Path, settings: &Table) -> anyhow::Result<()> {
    std::fs::create_dir_all(path.parent().context("a settings file lies in a folder")?)?;
    std::fs::write(path, toml::to_string(settings)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The cloud's settings.
pub fn cloud(deployment: &Deployment) -> Table {
    let (dir, ports) = (deployment.dir(), &deployment.cloud_ports);
    let mut settings = Table::new();
    let pki = |name: &str| text(dir.join("pki").join(name).display());
    set(&mut settings, "dir", text("."));
    set(&mut settings, "tls.ca", pki("ca.pem"));
    set(&mut settings, "tls.certificate", pki("cloud.pem"));
    set(&mut settings, "tls.key", pki("cloud.key"));
    set(&mut settings, "identity.issuer", pki("ca.pem"));
    set(&mut settings, "identity.issuer_key", pki("ca.key"));
    set(&mut settings, "identity.listen", text(&ports.enrol));
    set(&mut settings, "uplink.listen", text(&ports.uplink));
    set(&mut settings, "api.listen", text(&ports.api));
    set(&mut settings, "admin.listen", text(&ports.admin));
    for (path, value) in &deployment.options.overrides.cloud {
        set(&mut settings, path, value.clone());
    }
    settings
}

/// One node's settings.
pub fn node(deployment: &Deployment, node: NodeId) -> anyhow::Result<Table> {
    let (dir, ports) = (deployment.dir(), &deployment.ports);
    let own = ports.get(&node).with_context(|| format!("there is no node {node}"))?;
    let pop = deployment.pop_of(node);
    let of_pop = || ports.iter().filter(|(id, _)| deployment.pop_of(**id) == pop);
    let founds = |id: &NodeId| pop != &deployment.pop || id.0 <= deployment.options.nodes;
    let (founders, is_founder) = (of_pop().filter(|(id, _)| founds(id)), founds(&node));
    let mut settings = Table::new();
    let pki = |name: String| text(dir.join("pki").join(name).display());
    set(&mut settings, "dir", text("."));
    set(&mut settings, "node.pop", text(pop));
    set(&mut settings, "node.id", Value::Integer(i64::try_from(node.0)?));
    set(&mut settings, "members", Value::Table(Table::new()));
    for (id, member) in founders.filter(|_| is_founder) {
        let address = deployment.peer_address(*id).unwrap_or(&member.peers);
        set(&mut settings, &format!("members.{id}"), text(address));
    }
    set(&mut settings, "tls.ca", pki("ca.pem".into()));
    set(&mut settings, "tls.certificate", pki(format!("node-{node}.{pop}.pem")));
    set(&mut settings, "tls.key", pki(format!("node-{node}.{pop}.key")));
    set(&mut settings, "identity.enrol", text(&deployment.cloud_ports.enrol));
    set(&mut settings, "clients.listen", text(&own.clients));
    set(&mut settings, "clients.public", Value::Array(of_pop().map(|(_, p)| text(&p.clients)).collect()));
    set(&mut settings, "clients.apps", Value::Array(vec![Value::Table(app(deployment.app_key()))]));
    set(&mut settings, "peers.listen", text(&own.peers));
    if let Some(address) = deployment.announced.get(&node) {
        set(&mut settings, "peers.public", text(address));
    }
    set(&mut settings, "admin.listen", text(&own.admin));
    set(&mut settings, "uplink.cloud", text(&deployment.cloud_ports.uplink));
    let signing_key = std::fs::read_to_string(dir.join("cloud/signing.pub"))
        .context("the cloud has not written its public key yet: start it before the nodes")?;
    set(&mut settings, "bundles.trusted_keys", Value::Array(vec![text(signing_key.trim())]));
    let of_this = deployment.own.get(&node).into_iter().flatten();
    for (path, value) in deployment.options.overrides.node.iter().chain(of_this) {
        set(&mut settings, path, value.clone());
    }
    Ok(settings)
}

fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

fn set(settings: &mut Table, path: &str, value: Value) {
    let mut keys: Vec<&str> = path.split('.').collect();
    let Some(last) = keys.pop() else { return };
    let mut table = settings;
    for key in keys {
        let inner = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else { return };
        table = inner;
    }
    table.insert(last.to_owned(), value);
}

/// The app that its key opens everything to.
fn app(key: &str) -> Table {
    let scopes = ["recommend", "track", "infer", "purge"].map(Value::from).to_vec();
    let key_sha256 = Digest::of(key.as_bytes()).to_string();
    let fields =
        [("name", Value::from("local")), ("key_sha256", key_sha256.into()), ("scopes", scopes.into())];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
