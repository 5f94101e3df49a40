//! Who a certificate names. Identities are DNS names of the subject alternative name (RFC 6125) in a zone that nobody
//! else can own: `node-<id>.<pop>.rockpool.internal` and `cloud.rockpool.internal`.

use std::fmt;

use proto::{NodeId, PopId};

/// The zone of all identities. `.internal` is reserved for private use (ICANN, 2024).
pub const ZONE: &str = "rockpool.internal";

const LABEL_BYTES_MAX: usize = 63;

/// Who a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// One edge node.
    Node {
        /// Its PoP.
        pop: PopId,
        /// Its id within the PoP.
        node: NodeId,
    },
    /// The control plane.
    Cloud,
}

/// Why something is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The PoP's id cannot be a label of a DNS name (RFC 1123, 2.1).
    #[error("PoP id {0:?} must be 1 to {LABEL_BYTES_MAX} lower-case letters, digits and inner hyphens")]
    Label(String),
    /// A name in [`ZONE`] that is neither a node's nor the cloud's.
    #[error("{0:?} names neither a node nor the cloud")]
    Unknown(String),
    /// The names do not agree on one identity.
    #[error("the certificate names more than one identity: {0:?} and {1:?}")]
    Several(Identity, Identity),
    /// No name in [`ZONE`].
    #[error("the certificate names no identity in {ZONE}")]
    None,
    /// The certificate cannot be read.
    #[error("unreadable certificate: {0}")]
    Certificate(String),
}

impl Identity {
    /// The DNS name that stands for it in a certificate.
    ///
    /// # Errors
    /// [`IdentityError::Label`] where the PoP's id cannot be part of a DNS name.
    pub fn dns_name(&self) -> Result<String, IdentityError> {
        match self {
            Identity::Node { pop, node } => Ok(format!("node-{node}.{}.{ZONE}", label(pop)?)),
            Identity::Cloud => Ok(format!("cloud.{ZONE}")),
        }
    }

    /// The PoP, if it is a node.
    pub fn pop(&self) -> Option<&PopId> {
        match self {
            Identity::Node { pop, .. } => Some(pop),
            Identity::Cloud => None,
        }
    }

    /// The one identity that a certificate's DNS names stand for. Names outside of [`ZONE`] are for clients and say
    /// nothing; inside of it, all must agree.
    pub(crate) fn of_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, IdentityError> {
        let mut found: Option<Identity> = None;
        let mut alias: Option<PopId> = None;
        for name in names {
            let name = name.to_ascii_lowercase();
            let Some(inner) = name.strip_suffix(ZONE).and_then(|inner| inner.strip_suffix('.')) else {
                continue;
            };
            if let Some(pop) = inner.strip_prefix("edge.") {
                alias = Some(PopId::new(pop).map_err(|_| IdentityError::Unknown(name.clone()))?);
                continue;
            }
            let identity = Self::of_inner(inner).ok_or_else(|| IdentityError::Unknown(name.clone()))?;
            match found.replace(identity.clone()) {
                Some(other) if other != identity => return Err(IdentityError::Several(other, identity)),
                _ => {}
            }
        }
        let identity = found.ok_or(IdentityError::None)?;
        match alias {
            Some(pop) if identity.pop() != Some(&pop) => Err(IdentityError::Unknown(edge_name(&pop)?)),
            _ => Ok(identity),
        }
    }

    /// Reads what stands before the zone: `cloud` or `node-<id>.<pop>`.
    fn of_inner(inner: &str) -> Option<Self> {
        if inner == "cloud" {
            return Some(Identity::Cloud);
        }
        let (node, pop) = inner.strip_prefix("node-")?.split_once('.')?;
        let id: u64 = node.parse().ok()?;
        // Only the one spelling that `dns_name` writes: no sign, no leading zero.
        let pop = PopId::new(pop).ok().filter(|pop| label(pop).is_ok() && id.to_string() == node)?;
        Some(Identity::Node { pop, node: NodeId(id) })
    }

    /// The identity a certificate names. The chain must have been verified before: this only reads.
    ///
    /// # Errors
    /// Where the certificate cannot be read, or names no or more than one identity.
    pub(crate) fn of_certificate(der: &rustls_pki_types::CertificateDer<'_>) -> Result<Self, IdentityError> {
        let certificate =
            webpki::EndEntityCert::try_from(der).map_err(|e| IdentityError::Certificate(format!("{e:?}")))?;
        Self::of_names(certificate.valid_dns_names())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Node { pop, node } => write!(f, "node {node} of {pop}"),
            Identity::Cloud => f.write_str("the cloud"),
        }
    }
}

/// The DNS name that every node of a PoP carries besides its own: what apps verify.
///
/// # Errors
/// [`IdentityError::Label`] where the PoP's id cannot be part of a DNS name.
pub fn edge_name(pop: &PopId) -> Result<String, IdentityError> {
    Ok(format!("edge.{}.{ZONE}", label(pop)?))
}

fn label(pop: &PopId) -> Result<&str, IdentityError> {
    let text = pop.as_str();
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits { Ok(text) } else { Err(IdentityError::Label(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pop: &str, node: u64) -> Identity {
        Identity::Node { pop: PopId::new(pop).unwrap(), node: NodeId(node) }
    }

    fn of(names: &[&str]) -> Result<Identity, IdentityError> {
        Identity::of_names(names.iter().copied())
    }

    #[test]
    fn names_go_there_and_back() {
        for identity in [node("pop-a", 1), node("9", u64::MAX), Identity::Cloud] {
            let name = identity.dns_name().unwrap();
            assert_eq!(of(&[&name]), Ok(identity.clone()), "{name}");
            assert_eq!(of(&[&name.to_uppercase()]), Ok(identity), "DNS names know no case");
        }
    }

    #[test]
    fn foreign_names_say_nothing() {
        let names = ["app.example.com", "node-1.pop-a.rockpool.internal", "rockpool.internal.example.com"];
        assert_eq!(of(&names), Ok(node("pop-a", 1)));
        assert_eq!(of(&["app.example.com"]), Err(IdentityError::None));
        assert_eq!(of(&["node-1.pop-a.notrockpool.internal"]), Err(IdentityError::None));
        assert_eq!(of(&[]), Err(IdentityError::None));
    }

    #[test]
    fn one_certificate_names_one_identity() {
        let two = ["node-1.pop-a.rockpool.internal", "node-1.pop-b.rockpool.internal"];
        assert_eq!(of(&two), Err(IdentityError::Several(node("pop-a", 1), node("pop-b", 1))));
        let both = ["cloud.rockpool.internal", "node-1.pop-b.rockpool.internal"];
        assert!(matches!(of(&both), Err(IdentityError::Several(..))));
        let alias = ["node-1.pop-a.rockpool.internal", "edge.pop-b.rockpool.internal"];
        assert!(matches!(of(&alias), Err(IdentityError::Unknown(_))), "an alias of another PoP");
        let own = ["edge.pop-a.rockpool.internal", "node-1.pop-a.rockpool.internal"];
        assert_eq!(of(&own), Ok(node("pop-a", 1)));
    }

    #[test]
    fn odd_spellings_are_refused() {
        for inner in [
            "*.pop-a",
            "node-*.pop-a",
            "node-01.pop-a",
            "node-+1.pop-a",
            "node-1",
            "node-.a",
            "node-1.a.b",
            "x",
        ] {
            let name = format!("{inner}.{ZONE}");
            assert_eq!(of(&[&name]), Err(IdentityError::Unknown(name.clone())));
        }
    }

    #[test]
    fn a_pop_must_be_a_label() {
        for pop in ["Pop", "a.b", "-a", "a-", "a b", "*", &"a".repeat(64)] {
            assert!(matches!(node(pop, 1).dns_name(), Err(IdentityError::Label(_))), "{pop}");
        }
    }
}
