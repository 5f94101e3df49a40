use std::cell::RefCell;
use std::pin::pin;

use futures::stream;
use openraft::EntryPayload;
use openraft::raft::StreamAppendError;

use super::*;
use crate::types::{Entry, LogId, Vote};

fn id(index: u64) -> LogId {
    LogId::new_term_index(1, index)
}

/// An append of the entries after `before`, that says that all up to `committed` is.
fn request(before: u64, len: u64, committed: u64) -> AppendEntriesRequest<Types> {
    let entries = (before + 1..=before + len)
        .map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank })
        .collect();
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(id(before)),
        leader_commit: Some(id(committed)),
        entries,
    }
}

/// What is sent, as (entries, committed), and what is answered, where the follower says `says`.
async fn run(
    requests: impl Stream<Item = AppendEntriesRequest<Types>>,
    says: AppendEntriesResponse<Types>,
) -> (Vec<(usize, u64)>, Vec<Answer>) {
    let sent = RefCell::new(Vec::new());
    let send = |request: AppendEntriesRequest<Types>| {
        let committed = request.leader_commit.map_or(0, |id| id.index);
        sent.borrow_mut().push((request.entries.len(), committed));
        let says = says.clone();
        async move { Ok(says) }
    };
    let answered = answers(pin!(requests), send).collect().await;
    (sent.into_inner(), answered)
}

fn agreed(answers: &[Answer]) -> Vec<u64> {
    answers.iter().map(|answer| answer.as_ref().unwrap().as_ref().unwrap().unwrap().index).collect()
}

#[tokio::test(start_paused = true)]
async fn a_commit_goes_with_the_entries_that_follow_at_once() {
    let requests = stream::iter([request(4, 1, 4), request(5, 0, 5), request(5, 2, 5), request(7, 0, 7)]);
    let (sent, answers) = run(requests, AppendEntriesResponse::Success).await;
    assert_eq!(sent, [(1, 4), (2, 5), (0, 7)], "three messages for four requests");
    assert_eq!(agreed(&answers), [5, 5, 7, 7], "an answer to each, in order");
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_nothing_follows_goes_alone() {
    let start = Instant::now();
    let late = stream::once(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        request(5, 1, 5)
    });
    let requests = stream::iter([request(5, 0, 5)]).chain(late);
    let sent = RefCell::new(Vec::new());
    let send = |request: AppendEntriesRequest<Types>| {
        sent.borrow_mut().push((request.entries.len(), start.elapsed()));
        async { Ok(AppendEntriesResponse::Success) }
    };
    let answers: Vec<_> = answers(pin!(requests), send).collect().await;
    assert_eq!(agreed(&answers), [5, 6]);
    assert_eq!(sent.into_inner(), [(0, WAIT), (1, Duration::from_secs(1))]);
}

/// Else commits that follow each other would hold each other up for good.
#[tokio::test(start_paused = true)]
async fn commits_do_not_wait_longer_because_there_are_more() {
    let start = Instant::now();
    let step = WAIT / 4;
    let requests = stream::unfold(5, |index| async move {
        tokio::time::sleep(step).await;
        (index < 10).then(|| (request(5, 0, index), index + 1))
    });
    let first = RefCell::new(None);
    let send = |request: AppendEntriesRequest<Types>| {
        first.borrow_mut().get_or_insert((request.leader_commit, start.elapsed()));
        async { Ok(AppendEntriesResponse::Success) }
    };
    let answers: Vec<_> = answers(pin!(requests), send).collect().await;
    assert_eq!(agreed(&answers), [5; 5]);
    let (committed, after) = first.into_inner().unwrap();
    assert!(committed < Some(id(9)) && after <= 2 * WAIT, "{committed:?} after {after:?}");
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_the_last_answer() {
    let requests = stream::iter([request(5, 0, 5), request(5, 2, 5), request(7, 1, 5)]);
    let (sent, answers) = run(requests, AppendEntriesResponse::Conflict).await;
    assert_eq!(sent, [(2, 5)]);
    assert!(
        matches!(&answers[..], [Ok(Err(StreamAppendError::Conflict(at)))] if *at == id(5)),
        "what went with it is not agreed to: {answers:?}"
    );
}
