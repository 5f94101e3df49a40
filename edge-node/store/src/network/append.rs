//! Appends to one follower, one at a time.
//!
//! Raft sends an append of its own for each advance of the committed index. One that carries nothing else waits a moment for
//! entries that it can go with: while writes come one after the other, that is half of all messages between the nodes.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use tokio::time::{Instant, timeout_at};

use crate::types::Types;

/// How long an append without entries waits for some. A follower applies later by as much, and whoever reads his own write
/// there waits for it.
const WAIT: Duration = Duration::from_millis(1);

/// What a follower says to an append.
pub type Answer = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// Sends requests with `send`, and gives an answer to each, in order. Ends with the requests, or with the first that failed.
pub fn answers<S, F, R>(requests: S, send: F) -> impl Stream<Item = Answer>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
    F: FnMut(AppendEntriesRequest<Types>) -> R,
    R: Future<Output = Result<AppendEntriesResponse<Types>, RPCError<Types>>>,
{
    let appends = Appends { requests, send, due: VecDeque::new(), more: true };
    futures::stream::unfold(appends, |mut appends| async move { Some((appends.next().await?, appends)) })
}

struct Appends<S, F> {
    requests: S,
    send: F,
    /// Answers to requests that went with the last one.
    due: VecDeque<Answer>,
    more: bool,
}

impl<S, F, R> Appends<S, F>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
    F: FnMut(AppendEntriesRequest<Types>) -> R,
    R: Future<Output = Result<AppendEntriesResponse<Types>, RPCError<Types>>>,
{
    async fn next(&mut self) -> Option<Answer> {
        if let Some(answer) = self.due.pop_front() {
            return Some(answer);
        }
        if !self.more {
            return None;
        }
        let mut request = self.requests.next().await?;
        let until = Instant::now() + WAIT;
        while request.entries.is_empty() {
            match timeout_at(until, self.requests.next()).await {
                // It says all that this one says: whoever agrees to it holds what this one refers to.
                Ok(Some(newer)) => {
                    self.due.push_back(Ok(Ok(request.prev_log_id)));
                    request = newer;
                }
                Ok(None) => {
                    self.more = false;
                    break;
                }
                Err(_) => break,
            }
        }
        let before = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(before);
        let answer = (self.send)(request).await.map(|response| response.into_stream_result(before, last));
        if !matches!(answer, Ok(Ok(_))) {
            self.more = false;
            self.due.clear();
        }
        self.due.push_back(answer);
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests;
