//! A visitor's past, and answers with what is known of their items.

use std::time::Duration;

use client_sdk::{Code, Degraded, Event, EventId, EventKind, SdkError, TraceId};
use proto::ErrorReply;

use crate::pop::{Manner, MemoryPop, PATIENCE, home, preferred, visitor};

/// Of the year 2019.
const LONG_AGO: u64 = 1_560_000_000_000;

fn past(count: u16) -> Vec<Event> {
    let event = |n: u16| {
        let id = uuid::Builder::from_unix_timestamp_millis(LONG_AGO + u64::from(n), &[7; 10]).into_uuid();
        let kind = EventKind::Rating { item: format!("item-{n}").parse().unwrap(), stars: 4.0 };
        Event { id: EventId(id), visitor: visitor("ada"), at_ms: LONG_AGO, trace: TraceId(0), kind }
    };
    (0..count).map(event).collect()
}

#[tokio::test]
async fn a_past_keeps_its_ids_and_times_and_comes_twice_as_one() {
    let memory = MemoryPop::new(2);
    let client = memory.client(&[1, 2]).await;
    memory.pop.set(preferred(&client), Manner::LoseReplies(1));
    let taken = client.import(past(20), PATIENCE).await.unwrap();
    assert_eq!(taken.accepted + taken.duplicates, 20);
    let again = client.import(past(20), PATIENCE).await.unwrap();
    assert_eq!((again.accepted, again.duplicates), (0, 20));
    assert_eq!(memory.pop.events(), past(20));
    assert_eq!(client.pending(), 0, "it goes past the queue");
}

#[tokio::test]
async fn what_no_node_takes_is_said_at_once_and_what_one_may_take_later_is_tried_again() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    memory.pop.set(1, Manner::Refuse(ErrorReply::new(Code::Forbidden, "this key may not track")));
    let error = client.import(past(1), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(&error, SdkError::Refused { reply, .. } if reply.code == Code::Forbidden), "{error}");
    let overloaded = ErrorReply::new(Code::Overloaded, "busy").retry_after_ms(1);
    memory.pop.set(1, Manner::RefuseTimes(2, overloaded.clone()));
    assert_eq!(client.import(past(1), PATIENCE).await.unwrap().accepted, 1);
    memory.pop.set(1, Manner::Refuse(overloaded));
    let error = client.import(past(2), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(&error, SdkError::Refused { reply, .. } if reply.code == Code::Overloaded), "{error}");
    for wrong in [0, 501] {
        assert!(client.import(past(wrong), PATIENCE).await.is_err(), "{wrong} events");
    }
}

#[tokio::test]
async fn an_answer_has_the_fields_that_were_asked_for_and_says_why_it_is_degraded() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    let answer = client.recommend_detailed(home(&visitor("ada")).fields(["title"])).await.unwrap();
    assert_eq!((answer.answer.items.len(), answer.details.len()), (3, 3));
    assert_eq!(answer.details[0].title.as_deref(), Some("The item-0"));
    assert_eq!(answer.degraded, [Degraded::Shed]);
    let without = client.recommend_detailed(home(&visitor("ada"))).await.unwrap();
    assert!(without.details.iter().all(|details| details.title.is_none()));
    let too_many = (0..33).map(|n| format!("field-{n}"));
    assert!(client.recommend_detailed(home(&visitor("ada")).fields(too_many)).await.is_err());
}
