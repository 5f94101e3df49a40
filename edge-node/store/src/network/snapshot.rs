//! Snapshots on their way: the sender reads its file part by part, the receiver writes one, checks it, and hands it to
//! Raft. Neither holds more than a part in memory.

use std::sync::Arc;

use openraft::errors::{NetworkError, RPCError, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::SnapshotResponse;
use proto::Digest;
use proto::NodeId;
use proto::peer::RaftCall;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Client, Lane};
use crate::error::StoreError;
use crate::runtime;
use crate::snapshot::{Incoming, SnapshotFile, Snapshots};
use crate::types::{Snapshot, SnapshotMeta, Types, Vote};

/// Bytes in one part.
pub const PART_BYTES: usize = 1024 * 1024;

/// A part of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// The leader's vote.
    pub vote: Vote,
    /// What the snapshot is of.
    pub meta: SnapshotMeta,
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// Length of the whole file.
    pub len: u64,
    /// Where this part begins.
    pub offset: u64,
    /// The bytes.
    pub bytes: bytes::Bytes,
}

/// The receiver's answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Go on from here.
    More(u64),
    /// It is installed, or refused because of a higher vote.
    Done(SnapshotResponse<Types>),
}

/// Sends a whole snapshot.
pub async fn send(
    client: &Client,
    vote: Vote,
    snapshot: Snapshot,
    option: RPCOption,
) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
    let file = snapshot.snapshot;
    let digest = on_disk_thread(&file, |file| file.digest()).await?;
    let mut offset = 0;
    loop {
        let bytes = on_disk_thread(&file, move |file| file.part(offset, PART_BYTES)).await?;
        let end = offset + bytes.len() as u64;
        let part =
            Part { vote, meta: snapshot.meta.clone(), digest, len: file.len(), offset, bytes: bytes.into() };
        let answer: Result<Answer, RPCError<Types>> =
            client.call(Lane::Snapshot, RaftCall::Snapshot, &part, option.soft_ttl()).await;
        match answer? {
            Answer::Done(response) => return Ok(response),
            Answer::More(next) if next == end && end > offset => offset = end,
            Answer::More(next) => {
                let message = format!("the receiver of a snapshot is at {next}, not at {end}");
                return Err(StreamingError::Network(NetworkError::from_string(message)));
            }
        }
    }
}

async fn on_disk_thread<T: Send + 'static>(
    file: &SnapshotFile,
    read: impl FnOnce(SnapshotFile) -> std::io::Result<T> + Send + 'static,
) -> Result<T, StreamingError<Types>> {
    let file = file.clone();
    let failed = |reason: String| StreamingError::Network(NetworkError::from_string(reason));
    match runtime::blocking(move || read(file)).await {
        Ok(read) => read.map_err(|error| failed(format!("cannot read the snapshot: {error}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Receives one snapshot at a time; another one takes its place.
#[derive(Debug)]
pub struct Inbox {
    snapshots: Arc<Snapshots>,
    bytes_max: u64,
    transfer: Mutex<Option<Transfer>>,
}

#[derive(Debug)]
struct Transfer {
    from: NodeId,
    digest: Digest,
    incoming: Incoming,
}

impl Inbox {
    /// Takes snapshots of at most `bytes_max` bytes.
    pub fn new(snapshots: Arc<Snapshots>, bytes_max: u64) -> Self {
        Self { snapshots, bytes_max, transfer: Mutex::default() }
    }

    /// Takes in a part. The whole file, once it is complete and checked; else where to go on.
    pub async fn take(&self, from: NodeId, part: Part) -> Result<Taken, StoreError> {
        if part.len > self.bytes_max {
            return Err(StoreError::Invalid(format!("a snapshot of {} bytes is too large", part.len)));
        }
        let mut transfer = self.transfer.lock().await;
        let present = transfer.take();
        let snapshots = Arc::clone(&self.snapshots);
        let write = move || Transfer::take(present, &snapshots, from, &part);
        match runtime::blocking(write).await?? {
            Written::Whole(file) => Ok(Taken::Whole(file)),
            Written::Part(part) => {
                let received = part.incoming.received();
                *transfer = Some(part);
                Ok(Taken::Part(received))
            }
        }
    }
}

/// What came of a part.
#[derive(Debug)]
pub enum Taken {
    /// The snapshot is complete and its checksum right.
    Whole(SnapshotFile),
    /// So many bytes are here.
    Part(u64),
}

enum Written {
    Whole(SnapshotFile),
    Part(Transfer),
}

impl Transfer {
    /// Writes a part to its transfer, or to a new one if it is a first part. A part out of order ends the transfer.
    fn take(
        present: Option<Transfer>,
        snapshots: &Snapshots,
        from: NodeId,
        part: &Part,
    ) -> Result<Written, StoreError> {
        let mut transfer = match present {
            Some(transfer) if part.offset > 0 && transfer.continues(from, part) => transfer,
            _ if part.offset == 0 => {
                Transfer { from, digest: part.digest, incoming: snapshots.receive(from.0, part.len)? }
            }
            _ => return Err(StoreError::Invalid("a part of a snapshot out of its order".into())),
        };
        transfer.incoming.push(&part.bytes)?;
        if transfer.incoming.received() == transfer.incoming.len() {
            transfer.incoming.finish(transfer.digest).map(Written::Whole)
        } else {
            Ok(Written::Part(transfer))
        }
    }

    fn continues(&self, from: NodeId, part: &Part) -> bool {
        let place = (self.incoming.received(), self.incoming.len());
        (self.from, self.digest) == (from, part.digest) && place == (part.offset, part.len)
    }
}
