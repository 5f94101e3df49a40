//! Why storage failed, and which code of the wire that is.

use std::path::{Path, PathBuf};

use proto::codec::CodecError;
use proto::{Code, Digest, ErrorReply, NodeId, Offset, PopId};

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A setting is out of its range.
    #[error("storage setting: {0}")]
    Config(String),
    /// The database refused.
    #[error("cannot {operation}: the database failed")]
    Database {
        /// What was to be done.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The tables could not be brought to the present version.
    #[error("cannot bring {path} to the present version")]
    Migration {
        /// The database's file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was to be done.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Bytes in the database are not what they should be.
    #[error("{what} in the database cannot be decoded")]
    Undecodable {
        /// Which row.
        what: String,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// JSON in the database is not what it should be.
    #[error("{what} in the database cannot be read")]
    Unreadable {
        /// Which row.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An artifact's file does not have the bytes that its name promises.
    #[error("artifact {digest} is damaged on disk: its bytes have digest {found}; upload it again")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// What its bytes hash to.
        found: Digest,
    },
    /// An uploaded artifact does not have the digest that its sender announced.
    #[error("the artifact was announced as {announced}, its bytes have digest {found}")]
    WrongDigest {
        /// What its sender said.
        announced: Digest,
        /// What its bytes hash to.
        found: Digest,
    },
    /// There is no such artifact.
    #[error("no artifact {0}: upload it first")]
    NoArtifact(Digest),
    /// More was sent than is allowed.
    #[error("the artifact is larger than {max} bytes")]
    TooLarge {
        /// What is allowed.
        max: u64,
    },
    /// A part was asked for that lies behind the artifact's end.
    #[error("artifact {digest} has {size} bytes, none at offset {offset}")]
    BeyondEnd {
        /// Which artifact.
        digest: Digest,
        /// Its length.
        size: u64,
        /// What was asked for.
        offset: u64,
    },
    /// All artifacts together have reached their limit.
    #[error(
        "the artifacts take {used} bytes and may take {max}: remove old ones or raise artifacts_bytes_max"
    )]
    Full {
        /// What they take.
        used: u64,
        /// What they may take.
        max: u64,
    },
}

impl StorageError {
    pub(crate) fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { operation, source }
    }

    pub(crate) fn file(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { operation, path: path.to_owned(), source }
    }

    /// The code that says whose fault it is and whether to try again.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(_) => Code::Invalid,
            Self::Database { source, .. } => database_code(source),
            Self::Migration { .. } => Code::Internal,
            Self::File { .. } | Self::Full { .. } => Code::Unavailable,
            Self::Undecodable { .. } | Self::Unreadable { .. } | Self::Damaged { .. } => Code::Corrupt,
            Self::WrongDigest { .. } | Self::BeyondEnd { .. } => Code::Invalid,
            Self::NoArtifact(_) => Code::NotFound,
            Self::TooLarge { .. } => Code::TooLarge,
        }
    }

    /// The error as it is said on the wire: without paths and SQL, which are for the log.
    pub fn reply(&self) -> ErrorReply {
        let message = match self {
            Self::Database { operation, .. } | Self::File { operation, .. } => {
                format!("the cloud could not {operation}: its storage is not available; try again")
            }
            other => other.to_string(),
        };
        ErrorReply::new(self.code(), message)
    }
}

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>) are the low byte of the extended ones.
fn database_code(error: &sqlx::Error) -> Code {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const READONLY: u32 = 8;
    const IOERR: u32 = 10;
    const CORRUPT: u32 = 11;
    const FULL: u32 = 13;
    const CANTOPEN: u32 = 14;
    const NOTADB: u32 = 26;
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => Code::Unavailable,
        sqlx::Error::WorkerCrashed => Code::Unavailable,
        sqlx::Error::Database(e) => match e.code().and_then(|c| c.parse::<u32>().ok()).map(|c| c & 0xff) {
            Some(BUSY | LOCKED | READONLY | IOERR | FULL | CANTOPEN) => Code::Unavailable,
            Some(CORRUPT | NOTADB) => Code::Corrupt,
            _ => Code::Internal,
        },
        _ => Code::Internal,
    }
}

/// Why a node was not enrolled or revoked.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// One message for all that can be wrong with a token: who guesses learns nothing.
    #[error("the token is unknown, used, has ended, or is another node's: make a new one")]
    Token,
    /// The node was revoked.
    #[error("node {node} of {pop} was revoked: a node comes back under an id that was never used")]
    Revoked {
        /// Its PoP.
        pop: PopId,
        /// Which.
        node: NodeId,
    },
    /// No more are kept.
    #[error("there are {0} already, and no more are kept")]
    TooMany(u64),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl EnrolError {
    /// The code that says whose fault it is and whether to try again.
    pub fn code(&self) -> Code {
        match self {
            Self::Token => Code::Unauthenticated,
            Self::Revoked { .. } => Code::Forbidden,
            Self::TooMany(_) => Code::Conflict,
            Self::Storage(e) => e.code(),
        }
    }

    /// The error as it is said on the wire.
    pub fn reply(&self) -> ErrorReply {
        match self {
            Self::Storage(e) => e.reply(),
            other => ErrorReply::new(self.code(), other.to_string()),
        }
    }
}

/// Why events were not appended. Nothing of the batch is stored then.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Events between the last durable one and the batch's first are missing.
    #[error("the batch starts at offset {first}, but the next one due is {expected}")]
    Gap {
        /// Where the batch starts.
        first: Offset,
        /// Where it must start, or before.
        expected: Offset,
    },
    /// Offsets start at 1 and end below 2^63.
    #[error("a batch of {events} events cannot start at offset {first}")]
    Impossible {
        /// Where the batch starts.
        first: Offset,
        /// Its length.
        events: usize,
    },
    /// Offsets that are durable already came again with other events: the PoP's log began anew under its old name. Taking
    /// them as known would lose them without a word.
    #[error(
        "offsets {first} to {last} are durable here with other events: this PoP's log was restarted; \
         give the PoP a new name"
    )]
    Rewritten {
        /// First offset that came again.
        first: Offset,
        /// Last offset that came again.
        last: Offset,
    },
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AppendError {
    /// The code that says whose fault it is and whether to try again.
    pub fn code(&self) -> Code {
        match self {
            Self::Gap { .. } => Code::OutOfOrder,
            Self::Impossible { .. } => Code::Invalid,
            Self::Rewritten { .. } => Code::Conflict,
            Self::Storage(e) => e.code(),
        }
    }

    /// The error as it is said on the wire.
    pub fn reply(&self) -> ErrorReply {
        match self {
            Self::Storage(e) => e.reply(),
            other => ErrorReply::new(self.code(), other.to_string()),
        }
    }
}
