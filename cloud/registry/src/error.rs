//! Why a bundle was not published, and which code of the wire that is.

use cloud_storage::StorageError;
use inference::BundleError;
use proto::bundle::ArtifactKind;
use proto::{Code, Digest, ErrorReply, Revision};

use crate::NOTE_BYTES_MAX;

/// Why a bundle was not published. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A setting is out of its range.
    #[error("registry setting: {0}")]
    Config(String),
    /// The note is too long.
    #[error("a note or reason has at most {NOTE_BYTES_MAX} bytes, this one has {0}")]
    NoteTooLong(usize),
    /// There is no such revision.
    #[error("there is no revision {0}")]
    NoRevision(Revision),
    /// A roll-back to what is newest already.
    #[error("revision {0} is the newest already")]
    IsNewest(Revision),
    /// A roll-back to contents that are offered already.
    #[error("the contents of revision {to} are offered already, as revision {serving}")]
    IsOffered {
        /// Where to.
        to: Revision,
        /// Under which number they are offered.
        serving: Revision,
    },
    /// A roll-back to what was stopped.
    #[error(
        "revision {0} was stopped at its canaries: it is never offered again; publish its artifacts anew to try them anew"
    )]
    WasStopped(Revision),
    /// A verdict over what is not on trial.
    #[error("revision {0} is not on trial; to go back from what was promoted, roll back")]
    NotOnTrial(Revision),
    /// Something else was published while this was validated.
    #[error("another bundle was published meanwhile")]
    Overtaken,
    /// Rules are a bundle's, and there is none.
    #[error("nothing was published yet: publish a bundle first")]
    NothingPublished,
    /// What people decided of the rules cannot be.
    #[error("rules: {0}")]
    Rules(String),
    /// An artifact was never uploaded.
    #[error("{kind:?} {digest} was not uploaded: upload it first")]
    NotUploaded {
        /// What it is for.
        kind: ArtifactKind,
        /// Its digest.
        digest: Digest,
    },
    /// An artifact has another length than the request says.
    #[error("{kind:?} {digest} has {stored} bytes, the request says {said}")]
    WrongSize {
        /// What it is for.
        kind: ArtifactKind,
        /// Its digest.
        digest: Digest,
        /// Its length.
        stored: u64,
        /// What the request says.
        said: u64,
    },
    /// An edge would refuse the bundle.
    #[error("refused ({engine}): {error}")]
    Refused {
        /// The runtime in which it was opened, or `manifest`.
        engine: String,
        /// Why.
        #[source]
        error: BundleError,
    },
    /// The validation itself broke off.
    #[error("validation did not end: {0}")]
    Interrupted(String),
    /// The signing key cannot be used.
    #[error("the signing key cannot be used")]
    Key(#[source] BundleError),
    /// Bundles were published, but the key that signed them is gone.
    #[error(
        "bundles were published, but the signing key {0} is not there: restore it, or move the storage folder away \
         to start anew"
    )]
    KeyLost(String),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl RegistryError {
    /// The code that says whose fault it is and whether to try again.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(_) | Self::WrongSize { .. } | Self::Rules(_) => Code::Invalid,
            Self::NoteTooLong(_) => Code::TooLarge,
            Self::NoRevision(_) | Self::NothingPublished | Self::NotUploaded { .. } => Code::NotFound,
            Self::IsNewest(_)
            | Self::IsOffered { .. }
            | Self::WasStopped(_)
            | Self::NotOnTrial(_)
            | Self::Overtaken => Code::Conflict,
            // Whatever the reason: what the caller wants published is not fit for it. `Corrupt` would say that the
            // system's disk is.
            Self::Refused { error, .. } => match error.code() {
                Code::TooLarge => Code::TooLarge,
                Code::Malformed => Code::Malformed,
                _ => Code::Invalid,
            },
            Self::Interrupted(_) | Self::Key(_) | Self::KeyLost(_) => Code::Internal,
            Self::Storage(e) => e.code(),
        }
    }

    /// The error as it is said on the wire.
    pub fn reply(&self) -> ErrorReply {
        match self {
            Self::Storage(e) => e.reply(),
            other => ErrorReply::new(other.code(), other.to_string()),
        }
    }
}
