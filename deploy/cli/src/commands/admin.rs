//! `rockpool bundle …`, `rockpool node …`: administration over the control API and the admin ports.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use dataset::Source;
use dataset::arguments::MODELS;
use proto::control::{AcceptLoss, BundleView, EnrolNode, RevokeNode};
use proto::peer::MemberChange;
use proto::{NodeId, PopId};

use super::verdict::{self, Patience};
use super::{parse_duration, rules, say, utc};
use crate::control::{Control, DEFAULT_API, NodeAdmin};
use crate::publish;
use crate::table::{table, thousands};

/// Which cloud, and who asks.
#[derive(Debug, Args)]
pub struct Cloud {
    /// The cloud's control API.
    #[arg(long, default_value = DEFAULT_API, env = "ROCKPOOL_API")]
    api: String,
    /// A file with the admin token (mode 0600). Without it: ROCKPOOL_ADMIN_TOKEN.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

impl Cloud {
    /// A client.
    pub fn control(&self) -> anyhow::Result<Control> {
        Control::with_token_from(&self.api, self.token_file.as_deref())
    }
}

/// Bundles: catalog, rules and models, signed and numbered.
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Publish a data set's catalog and rules with the models of a folder.
    ///
    /// Takes the data that `rockpool train` took, with the same options. Items that were taken out of the items file since
    /// then are no longer served; items that are new in it are.
    #[command(after_long_help = publish_help())]
    Publish {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// Which data.
        #[command(flatten)]
        source: Box<Source>,
        /// The models' folder; `none`: no models, so that everybody gets popular items.
        #[arg(long, value_name = "FOLDER|none", default_value = MODELS)]
        models: PathBuf,
        /// A JSON file of rules: block list, caps, diversity … Without it, those in force stay.
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        note: String,
        /// Whether to wait for the verdict.
        #[command(flatten)]
        patience: Patience,
    },
    /// List what was published.
    List {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
    },
    /// Publish an older bundle's contents under a newer revision.
    RollBack {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// The older revision.
        revision: u64,
        /// Whether to wait for the verdict.
        #[command(flatten)]
        patience: Patience,
    },
}

/// What a cloud that was restored from a backup lost.
#[derive(Debug, Subcommand)]
pub enum Recovery {
    /// Give up what this cloud, restored from a backup, has lost of a PoP that is ahead of it (see `rockpool status`): its events
    /// come again from there on, and bundles are numbered above what it has.
    AcceptLoss {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// Of which PoP. Without it: of every PoP that is ahead.
        #[arg(long)]
        pop: Option<PopId>,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Nodes of a PoP: their identities at the cloud, their membership by the admin port of any of them.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Make a one-time token with which a new node gets its certificate: its `identity.token` file.
    EnrolToken {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// The node's PoP.
        #[arg(long)]
        pop: PopId,
        /// Its id, a number from 1 that was never used in this PoP.
        #[arg(long)]
        node: u64,
        /// DNS name or IP address that apps dial; may be given several times.
        #[arg(long)]
        name: Vec<String>,
        /// For how long the token holds, such as 30m.
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        lifetime: Duration,
        /// The token's file; it must not exist, and gets mode 0600.
        #[arg(long, default_value = "identity.token")]
        out: PathBuf,
    },
    /// Revoke a node's identity, for ever: it is cut off within a minute. Then let it leave.
    Revoke {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// The node's PoP.
        #[arg(long)]
        pop: PopId,
        /// Its id, which is never used again.
        #[arg(long)]
        node: u64,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        reason: String,
        /// Revoke a node that never spoke to this cloud, too: its certificate was made by hand, and never used.
        #[arg(long)]
        unheard: bool,
    },
    /// Let a running, empty node join: it is reached, catches up, and then votes. One at a time.
    Join {
        /// By whom.
        #[command(flatten)]
        via: Via,
        /// Its id, never used before in this PoP.
        #[arg(long)]
        node: u64,
        /// Its peer address, host:port.
        #[arg(long)]
        address: String,
    },
    /// Let a node leave, whether it runs or not. One at a time.
    Leave {
        /// By whom.
        #[command(flatten)]
        via: Via,
        /// Its id.
        #[arg(long)]
        node: u64,
    },
    /// Tell the PoP that a member is reached elsewhere from now on; it must run there already.
    Move {
        /// By whom.
        #[command(flatten)]
        via: Via,
        /// Its id.
        #[arg(long)]
        node: u64,
        /// Its new peer address, host:port.
        #[arg(long)]
        address: String,
    },
    /// Make a node hand leadership over, if it leads: before it is upgraded. --admin is its own admin port.
    Transfer {
        /// By whom.
        #[command(flatten)]
        via: Via,
    },
}

/// A node's admin port, and its token.
#[derive(Debug, Args)]
pub struct Via {
    /// The admin port of any node of the PoP, host:port.
    #[arg(long)]
    admin: String,
    /// A file with that node's admin token (mode 0600).
    #[arg(long)]
    token_file: PathBuf,
}

fn publish_help() -> String {
    format!("{}\n\n{}", dataset::arguments::schema(), rules::FORM)
}

/// Runs `rockpool bundle …`.
pub async fn bundle(command: Bundle) -> anyhow::Result<()> {
    match command {
        Bundle::Publish { cloud, source, models, rules, note, patience } => {
            // What is wrong with the data is said whether a cloud can be reached or not.
            let data = publish::read(&source)?;
            let mut artifacts = publish::artifacts(&data, &models)?;
            let control = cloud.control()?;
            let settings = match rules {
                Some(file) => Some(rules::read(&file)?),
                None => publish::rules_in_force(&control).await?,
            };
            if let Some(settings) = settings {
                publish::decided(&mut artifacts, settings)?;
            }
            let contents = publish::contents(&data, &artifacts)?;
            let published = publish::publish(&control, artifacts, &note).await?;
            say(&format!("published revision {}: {contents}", published.revision));
            verdict::follow(&control, published.revision, &patience).await?;
        }
        Bundle::List { cloud } => {
            let rows: Vec<_> = cloud.control()?.bundles().await?.iter().map(row).collect();
            say(&table(&["revision", "published (UTC)", "repeats", "bytes", "note"], &rows));
        }
        Bundle::RollBack { cloud, revision, patience } => {
            let control = cloud.control()?;
            let published = control.roll_back(revision).await?;
            say(&format!("published revision {} with the contents of {revision}", published.revision));
            verdict::follow(&control, published.revision, &patience).await?;
        }
    }
    Ok(())
}

fn row(bundle: &BundleView) -> Vec<String> {
    let bytes = bundle.artifacts.iter().map(|artifact| artifact.size).sum();
    vec![
        bundle.revision.to_string(),
        utc(bundle.published_at_ms),
        bundle.rollback_of.map(|revision| revision.to_string()).unwrap_or_default(),
        thousands(bytes),
        bundle.note.clone(),
    ]
}

/// Runs `rockpool cloud …`.
pub async fn recovery(command: Recovery) -> anyhow::Result<()> {
    let Recovery::AcceptLoss { cloud, pop, reason } = command;
    let control = cloud.control()?;
    let pops = control.pops().await?;
    if let Some(pop) = &pop {
        anyhow::ensure!(pops.iter().any(|view| view.pop == *pop), "no PoP {pop} ever spoke to this cloud");
    }
    let wanted = pops.into_iter().filter(|view| pop.as_ref().is_none_or(|pop| view.pop == *pop));
    let ahead: Vec<_> = wanted.filter_map(|view| Some((view.pop, view.ahead?))).collect();
    anyhow::ensure!(
        !ahead.is_empty(),
        "no PoP is ahead of this cloud: nothing is lost (a PoP says so within seconds after it connects)"
    );
    for (pop, ahead) in ahead {
        say(&format!("{pop}: {ahead}"));
        let accepted = control.accept_loss(&pop, &AcceptLoss { ahead, reason: reason.clone() }).await?;
        if let (Some(first), Some(last)) = (accepted.first, accepted.last) {
            say(&format!(
                "{pop}: {} events (offsets {first} to {last}) are given up; those after them come now",
                thousands(accepted.events)
            ));
        }
        if let Some(published) = accepted.published {
            say(&format!("{pop}: what is offered was published anew, as revision {published}"));
        }
    }
    Ok(())
}

/// Runs `rockpool node …`.
pub async fn node(command: Node) -> anyhow::Result<()> {
    let change = async |via: &Via, change: MemberChange| {
        let token = service::secrets::read(&via.token_file)?;
        NodeAdmin::new(&via.admin)?.member(&change, &token).await.context("the members were not changed")
    };
    match command {
        Node::EnrolToken { cloud, pop, node, name, lifetime, out } => {
            // Before a token is made that could not be kept.
            anyhow::ensure!(!out.exists(), "{} exists already", out.display());
            let lifetime_s = Some(lifetime.as_secs());
            let asked = EnrolNode { pop, node: NodeId(node), names: name, lifetime_s };
            let made = cloud.control()?.enrolment_token(&asked).await?;
            service::secrets::write_new(&out, &made.token)?;
            say(&format!(
                "made {}: node {} of {} enrols with it once, until {}",
                out.display(),
                made.node,
                made.pop,
                utc(made.expires_at_ms)
            ));
            if made.new_pop {
                say(&format!("no node of {} ever spoke to this cloud: it begins a new PoP", made.pop));
            }
        }
        Node::Revoke { cloud, pop, node, reason, unheard } => {
            let revoked =
                cloud.control()?.revoke(&pop, NodeId(node), &RevokeNode { reason, unheard }).await?;
            say(&format!(
                "node {node} of {pop} was revoked at {}; now let it leave",
                utc(revoked.revoked_at_ms)
            ));
        }
        Node::Join { via, node, address } => {
            change(&via, MemberChange::Join { node: NodeId(node), address }).await?;
            say(&format!("node {node} has joined: it holds what the others hold, and votes"));
        }
        Node::Move { via, node, address } => {
            change(&via, MemberChange::Move { node: NodeId(node), address: address.clone() }).await?;
            say(&format!("node {node} is reached at {address} from now on"));
        }
        Node::Leave { via, node } => {
            change(&via, MemberChange::Leave { node: NodeId(node) }).await?;
            say(&format!("node {node} has left; its id is never used again"));
        }
        Node::Transfer { via } => {
            NodeAdmin::new(&via.admin)?.transfer(&service::secrets::read(&via.token_file)?).await?;
            say("the node does not lead any more");
        }
    }
    Ok(())
}
