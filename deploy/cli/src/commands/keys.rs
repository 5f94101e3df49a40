//! `rockpool pki …` and `rockpool app-key`: what a deployment's trust rests on.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use proto::{Digest, NodeId, PopId};
use transport::pki::{Authority, Validity};

use super::say;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The deployment's certificate authority.
#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Make an authority: ca.pem and ca.key (mode 0600).
    Init(Where),
    /// Give the authority a newer certificate for the key that it has: before ca.pem ends, and without a gap.
    ///
    /// What it issued is believed as before, by those who have the older ca.pem and by those who have the newer. Put the new ca.pem
    /// where the nodes, the cloud and the apps have the old one, and start them again one after the other; then renew the
    /// intermediate (`rockpool pki issuer`) and what was issued by hand (`rockpool pki cloud`, `rockpool pki node`), whose keys
    /// stay, too.
    ///
    /// For a new key, make an authority in another folder, and put both certificates into every ca.pem, one after the other
    /// in the file: both are believed. Once all are issued anew by the new one, take the old one out.
    Renew(Where),
    /// Make an intermediate for the cloud to issue certificates with: issuer.pem and issuer.key (mode 0600). The authority's own
    /// key can then go offline. Where it is there, its certificate is renewed, and its key kept.
    Issuer(Where),
    /// Issue a node's certificate by hand: node-<id>.<pop>.pem and .key, or a newer one for the key that is there. Where the cloud issues certificates, let nodes enrol
    /// instead (`rockpool node enrol-token`): their keys then never travel.
    Node {
        /// Where.
        #[command(flatten)]
        place: Where,
        /// The PoP.
        #[arg(long)]
        pop: PopId,
        /// The node's id, a number from 1.
        #[arg(long)]
        node: u64,
        /// DNS name or IP address that apps dial; may be given several times.
        #[arg(long)]
        name: Vec<String>,
    },
    /// Issue the cloud's certificate: cloud.pem and cloud.key, or a newer one for the key that is there.
    Cloud {
        /// Where.
        #[command(flatten)]
        place: Where,
        /// DNS name or IP address of the cloud; may be given several times.
        #[arg(long)]
        name: Vec<String>,
    },
}

/// Where the authority lies, and for how long what it issues holds.
#[derive(Debug, Args)]
pub struct Where {
    /// The authority's folder.
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// Days for which the certificate holds.
    #[arg(long, default_value_t = 90)]
    days: u32,
}

/// Where a new app key is written.
#[derive(Debug, Args)]
pub struct AppKey {
    /// The key's file; it must not exist, and gets mode 0600.
    #[arg(long, default_value = "app.key")]
    out: PathBuf,
    /// The app's name, for people and metrics.
    #[arg(long, default_value = "app")]
    name: String,
}

/// Runs `rockpool pki …`.
pub fn pki(command: Pki) -> anyhow::Result<()> {
    match command {
        Pki::Init(place) => {
            let authority = Authority::create(&place.dir, place.validity())?;
            say(&format!(
                "made {} (give it to every node, the cloud and the apps)",
                authority.certificate_path().display()
            ));
        }
        Pki::Renew(place) => {
            let authority = Authority::renew(&place.dir, place.validity())?;
            say(&format!(
                "made {} anew, for the same key: put it where the nodes, the cloud and the apps have the one before",
                authority.certificate_path().display()
            ));
        }
        Pki::Issuer(place) => {
            let issued = Authority::open(&place.dir)?.issue_intermediate(place.validity())?;
            say(&format!(
                "made {} and {} (the cloud's identity.issuer and identity.issuer_key)",
                issued.certificate.display(),
                issued.key.display()
            ));
        }
        Pki::Node { place, pop, node, name } => {
            let authority = Authority::open(&place.dir)?;
            let issued = authority.issue_node(&pop, NodeId(node), &name, place.validity())?;
            say(&format!("made {} and {}", issued.certificate.display(), issued.key.display()));
        }
        Pki::Cloud { place, name } => {
            let issued = Authority::open(&place.dir)?.issue_cloud(&name, place.validity())?;
            say(&format!("made {} and {}", issued.certificate.display(), issued.key.display()));
        }
    }
    Ok(())
}

/// Runs `rockpool app-key`.
pub fn app_key(command: AppKey) -> anyhow::Result<()> {
    let key = service::secrets::generate();
    service::secrets::write_new(&command.out, &key)?;
    say(&format!("made {} (give it to the app)", command.out.display()));
    let sha256 = Digest::of(key.as_bytes());
    say(&format!(
        "in the settings of every node:\n\n[[clients.apps]]\nname = \"{}\"\nkey_sha256 = \"{sha256}\"",
        command.name
    ));
    say("scopes = [\"recommend\", \"track\"]");
    Ok(())
}

impl Where {
    fn validity(&self) -> Validity {
        Validity::starting_now(DAY * self.days)
    }
}
