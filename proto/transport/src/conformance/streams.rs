//! Promises about streams and frames.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::Code;
use proto::client::{Ask, ClientRequest};
use proto::codec::{self, CodecError, FrameKind, HEADER_BYTES};
use proto::peer::{PeerReply, PeerRequest};

use super::{Form, Limits, Pair, ask, assert_pending, echo, failure, request};
use crate::{LinkErrorKind, call};

const CONCURRENT: usize = 50;

pub(super) async fn a_reply_follows_its_request(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    echo(Arc::clone(&pair.far));
    for body in [&b""[..], b"one", &[7; 10_000]] {
        assert_eq!(ask(&*pair.near, body).await.expect("an echo"), body);
    }
}

pub(super) async fn replies_find_their_requests(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let asked = (0..CONCURRENT).map(|i| {
        let link = Arc::clone(&pair.near);
        tokio::spawn(async move { (i, ask(&*link, &i.to_be_bytes()).await.expect("an echo")) })
    });
    let asked: Vec<_> = asked.collect();
    // All are taken before any is answered, and then the last first: none waits for another.
    let mut taken = Vec::new();
    while taken.len() < CONCURRENT {
        let mut stream = pair.far.accept().await.expect("a stream arrives");
        let PeerRequest::Raft { body, .. } = stream.recv().await.expect("its request arrives") else {
            panic!("another request than was sent");
        };
        taken.push((stream, body));
    }
    for (mut stream, body) in taken.into_iter().rev() {
        stream.send(&PeerReply::Raft(body)).await.expect("the reply is sent");
        stream.finish();
    }
    for task in asked {
        let (i, reply) = task.await.expect("the task ends");
        assert_eq!(reply, i.to_be_bytes(), "a reply of another request");
    }
}

pub(super) async fn a_large_frame_passes_a_small_window(form: &dyn Form) {
    let limits = Limits { stream_window_bytes: 16 * 1024, ..Limits::default() };
    let pair = Pair::new(form, limits).await;
    echo(Arc::clone(&pair.far));
    let body: Vec<u8> = (0..3_000_000u32).map(|i| i.wrapping_mul(0x9E37_79B9).to_be_bytes()[0]).collect();
    assert_eq!(ask(&*pair.near, &body).await.expect("an echo"), body);
}

pub(super) async fn several_messages_share_a_stream(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let mut near = pair.near.open().await.expect("a stream opens");
    let writing = async {
        for i in 0..100u8 {
            near.send(&request(&vec![i; usize::from(i) * 100])).await.expect("a request is sent");
        }
        near.finish();
    };
    let reading = async {
        let mut far = pair.far.accept().await.expect("the stream arrives");
        for i in 0..100u8 {
            let got: PeerRequest = far.recv().await.expect("a request arrives");
            assert_eq!(got, request(&vec![i; usize::from(i) * 100]));
        }
        assert!(matches!(failure(far.recv::<PeerRequest>().await), LinkErrorKind::Finished));
    };
    tokio::join!(writing, reading);
}

pub(super) async fn a_slow_reader_slows_its_writer(form: &dyn Form) {
    const PART: usize = 64 * 1024;
    let limits = Limits { stream_window_bytes: 4 * PART as u32, ..Limits::default() };
    let pair = Pair::new(form, limits).await;
    let (mut near, mut far) = pair.stream().await;
    let mut writing = Box::pin(async move {
        for _ in 0..100 {
            near.send(&request(&[1; PART])).await.expect("a part is sent");
        }
        near.finish();
    });
    assert_pending(writing.as_mut(), "a reader that reads nothing must stop its writer").await;
    let reading = async {
        for _ in 0..100 {
            far.recv::<PeerRequest>().await.expect("a part arrives");
        }
    };
    tokio::join!(writing, reading);
}

pub(super) async fn an_oversized_frame_is_not_sent(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    echo(Arc::clone(&pair.far));
    let max = FrameKind::PeerRequest.body_bytes_max();
    let mut stream = pair.near.open().await.expect("a stream opens");
    let refused = failure(stream.send(&request(&vec![0; max + 1])).await);
    assert!(matches!(refused, LinkErrorKind::Protocol(CodecError::TooLarge { .. })), "{refused:?}");
    // Nothing of it was sent: the stream goes on.
    stream.send(&request(b"small")).await.expect("a small one is sent");
    let reply: PeerReply = stream.recv().await.expect("and answered");
    assert_eq!(reply, PeerReply::Raft(b"small".to_vec()));
}

pub(super) async fn an_oversized_frame_is_not_received(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    for kind in [FrameKind::PeerRequest, FrameKind::PeerReply] {
        let mut near = pair.near.open().await.expect("a stream opens");
        let header = [&(kind.body_bytes_max() as u32 + 1).to_be_bytes()[..], &[kind as u8]].concat();
        near.send_bytes(Bytes::from(header)).await.expect("bytes are sent");
        let mut far = pair.far.accept().await.expect("the stream arrives");
        let refused = match kind {
            FrameKind::PeerRequest => failure(far.recv::<PeerRequest>().await),
            _ => failure(far.recv::<PeerReply>().await),
        };
        assert!(matches!(refused, LinkErrorKind::Protocol(CodecError::TooLarge { .. })), "{refused:?}");
    }
    // The link is none the worse for it.
    echo(Arc::clone(&pair.far));
    assert_eq!(ask(&*pair.near, b"still here").await.expect("an echo"), b"still here");
}

pub(super) async fn other_frames_than_due_are_refused(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let ping = ClientRequest { trace: proto::TraceId(0), deadline_ms: 0, ask: Ask::Ping };
    let other = codec::frame(&ping).expect("a frame");
    let trailing = [&[0, 0, 0, 2, FrameKind::PeerRequest as u8][..], &[2, 2]].concat();
    for bytes in [other, vec![0, 0, 0, 0, 99], vec![0; HEADER_BYTES], trailing] {
        let mut near = pair.near.open().await.expect("a stream opens");
        near.send_bytes(Bytes::from(bytes)).await.expect("bytes are sent");
        let mut far = pair.far.accept().await.expect("the stream arrives");
        let refused = failure(far.recv::<PeerRequest>().await);
        assert!(matches!(refused, LinkErrorKind::Protocol(_)), "{refused:?}");
        // The receiver may still say so.
        let reply = proto::ErrorReply::from(CodecError::Trailing(1));
        far.send(&PeerReply::Error(reply)).await.expect("an error reply is sent");
        far.finish();
        let told: PeerReply = near.recv().await.expect("an error reply arrives");
        assert!(matches!(told, PeerReply::Error(e) if e.code == Code::Malformed));
    }
}

pub(super) async fn half_a_frame_is_not_a_frame(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let frame = codec::frame(&request(&[5; 1000])).expect("a frame");
    for len in [1, HEADER_BYTES - 1, HEADER_BYTES, frame.len() - 1] {
        let mut near = pair.near.open().await.expect("a stream opens");
        near.send_bytes(Bytes::copy_from_slice(&frame[..len])).await.expect("bytes are sent");
        near.finish();
        let mut far = pair.far.accept().await.expect("the stream arrives");
        let got = failure(far.recv::<PeerRequest>().await);
        assert!(matches!(got, LinkErrorKind::Truncated { got } if got == len), "{got:?} after {len} bytes");
    }
    let (mut near, mut far) = pair.stream().await;
    near.send_bytes(Bytes::copy_from_slice(&frame[..100])).await.expect("bytes are sent");
    pair.near.close("in the middle");
    let got = failure(far.recv::<PeerRequest>().await);
    assert!(matches!(got, LinkErrorKind::Closed(_)), "{got:?}");
}

pub(super) async fn a_cancelled_receive_loses_nothing(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let (mut near, mut far) = pair.stream().await;
    let frame = Bytes::from(codec::frame(&request(&[9; 1000])).expect("a frame"));
    near.send_bytes(frame.slice(..300)).await.expect("bytes are sent");
    assert_pending(pin!(far.recv::<PeerRequest>()), "half a frame is no message").await;
    near.send_bytes(frame.slice(300..)).await.expect("bytes are sent");
    assert_eq!(far.recv::<PeerRequest>().await.expect("the whole arrives"), request(&[9; 1000]));
}

pub(super) async fn a_stream_given_up_says_why(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let (mut near, mut far) = pair.stream().await;
    far.reset(Code::Overloaded);
    let got = failure(near.recv::<PeerReply>().await);
    assert!(matches!(got, LinkErrorKind::Reset(Some(Code::Overloaded))), "{got:?}");

    let (mut near, far) = pair.stream().await;
    drop(far);
    let got = failure(near.recv::<PeerReply>().await);
    assert!(matches!(got, LinkErrorKind::Finished), "a handler that drops its stream: {got:?}");
    echo(Arc::clone(&pair.far));
    assert_eq!(ask(&*pair.near, b"still here").await.expect("an echo"), b"still here");
}

pub(super) async fn a_call_ends_in_time(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let question = request(b"?");
    let asking = call::<PeerRequest, PeerReply>(&*pair.near, &question, Duration::from_millis(200));
    let serving = async {
        let mut stream = pair.far.accept().await.expect("the stream arrives");
        stream.recv::<PeerRequest>().await.expect("the request arrives");
        stream
    };
    let (asked, mut stream) = tokio::join!(asking, serving);
    let error = asked.expect_err("no answer comes");
    assert!(matches!(error.kind, LinkErrorKind::Timeout), "{error}");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    // Whoever works on it hears that nobody waits any more.
    let stopped = stream.given_up().await.kind;
    assert!(matches!(stopped, LinkErrorKind::Reset(Some(Code::DeadlineExceeded))), "{stopped:?}");
    assert!(stream.send(&PeerReply::Done).await.is_err(), "and nothing more is taken from it");
}

pub(super) async fn streams_are_capped(form: &dyn Form) {
    let pair = Pair::new(form, Limits { max_bidi_streams: 2, ..Limits::default() }).await;
    let (mut first_near, mut first_far) = pair.stream().await;
    let _second = pair.stream().await;
    {
        let mut third = Box::pin(pair.near.open());
        assert_pending(third.as_mut(), "a third stream where two may be open").await;
        first_far.send(&PeerReply::Done).await.expect("the reply is sent");
        drop(first_far);
        first_near.recv::<PeerReply>().await.expect("the reply arrives");
        drop(first_near);
        third.await.expect("there is room again");
    }
}
