//! What a run's nodes are started with: which binary, where, on which disk, with which bug.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proto::NodeId;
use rockpool::local::{Hosts, Launch};

use super::namespaces::Namespaces;
use crate::driver::built;

/// What the nodes of a run have.
#[derive(Debug, Clone, Default)]
pub struct Gear {
    /// The binary with which nodes start, until they are upgraded to the one beside this program. None: it is that one too.
    pub previous: Option<PathBuf>,
    /// Each node is in a network namespace of its own; none: all are on loopback.
    pub namespaces: Option<Namespaces>,
    /// A bug that all nodes have (`edge-node`'s feature `planted`).
    pub planted: Option<String>,
}

impl Gear {
    /// What runs say of their upgrades.
    pub fn upgrade(&self) -> String {
        match &self.previous {
            Some(path) => format!("upgrades: from {} to the edge-node beside this program", path.display()),
            None => "upgrades: from the present edge-node to itself, for no --previous was given".to_owned(),
        }
    }

    /// On which addresses a deployment's processes listen.
    pub fn hosts(&self) -> Hosts {
        self.namespaces.as_ref().map(Namespaces::hosts).unwrap_or_default()
    }

    /// The address of this program itself.
    pub fn own_address(&self) -> IpAddr {
        self.namespaces.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |namespaces| namespaces.own())
    }

    /// Whether there is room for a node.
    pub fn holds(&self, node: u64) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| namespaces.hosts().nodes.contains_key(&NodeId(node)))
    }

    /// How a node is started, on a disk that can be broken.
    ///
    /// # Errors
    /// Where the library for that was not built.
    pub fn launch(&self, node_dir: &Path, node: u64, upgraded: bool) -> anyhow::Result<Launch> {
        let variable = |name: &str, value: OsString| (name.to_owned(), value);
        let mut environment = vec![
            variable("LD_PRELOAD", built("libfaulty_disk.so")?.into()),
            variable("FAULTY_DISK_ROOT", node_dir.into()),
            // What is watched here are promises, not the disk.
            variable("FAULTY_DISK_TRACE", "/dev/null".into()),
            variable("FAULTY_DISK_CONTROL", control(node_dir)?.into()),
        ];
        if let Some(bug) = &self.planted {
            environment.push(variable("FAILPOINTS", format!("{bug}=return").into()));
        }
        let program = self.previous.clone().filter(|_| !upgraded);
        let through = self.namespaces.as_ref().map(|namespaces| namespaces.through(node)).unwrap_or_default();
        Ok(Launch { program, through, environment })
    }
}

/// The file that says which calls of a node fail (`disk/src/control.rs`): beside its folder.
///
/// # Errors
/// Where the folder has no name.
pub fn control(node_dir: &Path) -> anyhow::Result<PathBuf> {
    let name = node_dir.file_name().context("a node's folder has a name")?.to_string_lossy();
    Ok(node_dir.with_file_name(format!("{name}.disk")))
}
