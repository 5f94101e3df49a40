//! Whom a process believes.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use tokio::sync::watch;

use super::{PkiError, certificates, files};
use crate::identity::Identity;

/// Whom a process believes: the deployment's authority (during a change of authority, the old and the new one), for how
/// long after the end of a certificate, and whom not.
#[derive(Debug, Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    grace: Duration,
    revoked: Revoked,
}

impl Trust {
    /// Reads a PEM file of one or more authorities.
    ///
    /// # Errors
    /// Where it cannot be read or holds no certificate of an authority.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        Self::from_pem(&files::read(path)?)
    }

    /// Takes a PEM text of one or more authorities.
    ///
    /// # Errors
    /// Where it holds no certificate of an authority.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(text)? {
            roots
                .add(certificate)
                .map_err(|e| PkiError::Pem { what: "authority".into(), reason: e.to_string() })?;
        }
        Ok(Self { roots: Arc::new(roots), grace: Duration::ZERO, revoked: Revoked::default() })
    }

    /// The same, and certificates that ended no longer than `grace` ago are believed too: while the cloud, which renews
    /// them, is away.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The same, but nobody on this list is believed, whatever they show.
    pub fn with_revoked(mut self, revoked: Revoked) -> Self {
        self.revoked = revoked;
        self
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    pub(crate) fn revoked(&self) -> &Revoked {
        &self.revoked
    }
}

/// Identities that were revoked. Clones are the same list; nobody is ever taken off it. Who is put on it is not let in any
/// more, and links to and from them are closed at once.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    list: Arc<watch::Sender<HashSet<Identity>>>,
}

impl Revoked {
    /// Puts identities on the list. Returns how many were not on it.
    pub fn add(&self, identities: impl IntoIterator<Item = Identity>) -> usize {
        let mut added = 0;
        self.list.send_if_modified(|list| {
            let before = list.len();
            list.extend(identities);
            added = list.len() - before;
            added > 0
        });
        added
    }

    /// Whether an identity is on the list.
    pub fn contains(&self, identity: &Identity) -> bool {
        self.list.borrow().contains(identity)
    }

    /// Returns once the identity is on the list: for ever waiting, if there is none.
    pub(crate) async fn until(&self, identity: Option<&Identity>) {
        match identity {
            // The sender lives in `self`, so waiting cannot fail.
            Some(identity) => {
                drop(self.list.subscribe().wait_for(|list| list.contains(identity)).await);
            }
            None => std::future::pending().await,
        }
    }
}
