//! What can be wrong with a model, a card or a bundle, and which of the closed error codes says so.

use proto::bundle::ArtifactKind;
use proto::{Code, Digest, ErrorReply};

/// Why a model or its card was refused, or could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Larger than its limit; nothing was allocated for it.
    #[error("{what} is too large: {len}, at most {max} are allowed")]
    TooLarge {
        /// What, and in which unit.
        what: String,
        /// Its size.
        len: u64,
        /// Its limit.
        max: u64,
    },
    /// The bytes are not what they should be.
    #[error("{what} cannot be read: {reason}")]
    Malformed {
        /// What.
        what: &'static str,
        /// Why, for a person.
        reason: String,
    },
    /// The file is well formed, but says something that is not allowed.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// What.
        what: &'static str,
        /// Why, for a person.
        reason: String,
    },
    /// The model's bytes are not those that the card speaks of.
    #[error("the model's SHA-256 is {got}, its card says {wanted}")]
    Digest {
        /// What the card says.
        wanted: Digest,
        /// What the bytes have.
        got: Digest,
    },
    /// The card was made for another feature encoder.
    #[error("the model was trained on feature schema {wanted}, this encoder makes {got}")]
    Schema {
        /// What the card says.
        wanted: String,
        /// What this encoder makes of the card's description.
        got: String,
    },
    /// The model does not give the answers that its card promises.
    #[error("golden input {index}, output {at}: the card says {wanted}, {engine} gives {got}")]
    Golden {
        /// Which golden input.
        index: usize,
        /// Position in the flattened output.
        at: usize,
        /// What the card says.
        wanted: f32,
        /// What came.
        got: f32,
        /// Which engine.
        engine: &'static str,
    },
    /// An engine could not be started, or it failed.
    #[error("{engine} failed to {action}: {reason}")]
    Engine {
        /// Which.
        engine: &'static str,
        /// What it should have done.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// The caller handed over something that does not fit the model.
    #[error("wrong input: {0}")]
    Input(String),
    /// The model answered with NaN or infinity.
    #[error("output {0} is not a finite number")]
    NotFinite(usize),
}

impl ModelError {
    pub(crate) fn malformed(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Malformed { what, reason: reason.to_string() }
    }

    pub(crate) fn refused(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Refused { what, reason: reason.into() }
    }

    pub(crate) fn too_large(what: impl Into<String>, len: u64, max: u64) -> Self {
        Self::TooLarge { what: what.into(), len, max }
    }

    /// The stable code for it.
    pub fn code(&self) -> Code {
        match self {
            ModelError::TooLarge { .. } => Code::TooLarge,
            ModelError::Malformed { .. } => Code::Malformed,
            ModelError::Refused { .. } | ModelError::Schema { .. } | ModelError::Input(_) => Code::Invalid,
            ModelError::Digest { .. } => Code::Corrupt,
            ModelError::Golden { .. } | ModelError::NotFinite(_) => Code::Invalid,
            ModelError::Engine { .. } => Code::Internal,
        }
    }
}

impl From<ModelError> for ErrorReply {
    fn from(error: ModelError) -> Self {
        ErrorReply::new(error.code(), error.to_string())
    }
}

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No trusted key made the signature.
    #[error("the manifest's signature is by none of the {0} trusted keys")]
    Signature(usize),
    /// The manifest is signed, but cannot be read or contradicts itself.
    #[error("the manifest is refused: {0}")]
    Manifest(String),
    /// Larger than its limit.
    #[error("{what} is too large: {len}, at most {max} are allowed")]
    TooLarge {
        /// What, and in which unit.
        what: String,
        /// Its size.
        len: u64,
        /// Its limit.
        max: u64,
    },
    /// The manifest names an artifact that was not handed over.
    #[error("artifact {0:?} is missing")]
    Missing(ArtifactKind),
    /// The bytes are not those that the manifest names.
    #[error("artifact {kind:?} is corrupt: {reason}")]
    Corrupt {
        /// Which.
        kind: ArtifactKind,
        /// What differs.
        reason: String,
    },
    /// Catalog or rules are not allowed as they are.
    #[error("artifact {kind:?} is refused: {reason}")]
    Contents {
        /// Which.
        kind: ArtifactKind,
        /// Why, for a person.
        reason: String,
    },
    /// A model was refused.
    #[error("artifact {kind:?}: {error}")]
    Model {
        /// Which.
        kind: ArtifactKind,
        /// Why.
        #[source]
        error: ModelError,
    },
    /// A key file cannot be used.
    #[error("key file {path}: {reason}")]
    Key {
        /// Which.
        path: String,
        /// Why. Never the key.
        reason: String,
    },
}

impl BundleError {
    /// The stable code for it.
    pub fn code(&self) -> Code {
        match self {
            BundleError::Signature(_) => Code::Unauthenticated,
            BundleError::Manifest(_) | BundleError::Contents { .. } => Code::Invalid,
            BundleError::TooLarge { .. } => Code::TooLarge,
            BundleError::Missing(_) => Code::NotFound,
            BundleError::Corrupt { .. } => Code::Corrupt,
            BundleError::Model { error, .. } => error.code(),
            BundleError::Key { .. } => Code::Internal,
        }
    }
}

impl From<BundleError> for ErrorReply {
    fn from(error: BundleError) -> Self {
        ErrorReply::new(error.code(), error.to_string())
    }
}
