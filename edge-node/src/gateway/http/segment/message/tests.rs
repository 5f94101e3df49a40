use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000_000;

fn events(message: Value) -> Result<Vec<Event>, ErrorReply> {
    let received = Received { at_ms: NOW, sent_at: None, trace: TraceId(7) };
    serde_json::from_value::<Message>(message).unwrap().events(&received)
}

fn kind(message: Value) -> EventKind {
    let mut events = events(message).unwrap();
    assert_eq!(events.len(), 1);
    events[0].check(NOW).unwrap();
    events.remove(0).kind
}

/// The example of Segment's page on `track`, but for what is let alone.
#[test]
fn a_message_keeps_its_id_and_its_time() {
    let message = json!({
        "messageId": "022bb90c-bbac-11e4-8dfc-aa07a5b093db", "type": "track", "userId": "5136633649",
        "event": "User Registered", "properties": {"plan": "Pro Annual", "accountType": "Facebook"},
        "timestamp": "2015-02-23T22:28:55.387Z", "context": {"ip": "8.8.8.8"}, "integrations": {"All": true},
    });
    let (first, again) = (events(message.clone()).unwrap(), events(message).unwrap());
    assert_eq!(first, again, "sent twice, counted once");
    assert_eq!(first[0].at_ms, 1_424_730_535_387);
    assert_eq!(first[0].visitor, VisitorId::User(UserId::new("5136633649").unwrap()));
    let EventKind::Custom { name, attributes } = &first[0].kind else { panic!("{first:?}") };
    assert_eq!(name, "User Registered");
    assert_eq!(attributes[1], ("plan".to_owned(), "Pro Annual".to_owned()));
}

#[test]
fn a_wrong_clock_is_corrected_by_when_it_was_sent() {
    let at = |message: Value| events(message).unwrap()[0].at_ms;
    let mut message = json!({
        "type": "page", "anonymousId": "a", "messageId": "m",
        "originalTimestamp": "1999-12-31T23:59:50.000Z", "sentAt": "2000-01-01T00:00:00.000Z",
    });
    assert_eq!(at(message.clone()), NOW - 10_000);
    let id = |message: &Value| events(message.clone()).unwrap()[0].id;
    let first = id(&message);
    message["sentAt"] = json!("2000-01-01T00:05:00.000Z");
    assert_eq!(id(&message), first, "sent again later, it is the same event");
    message["sentAt"] = json!("1999-12-31T23:59:40.000Z");
    assert_eq!(at(message), NOW, "sent before it happened: no later than now");
}

#[test]
fn a_page_is_understood_as_far_as_it_goes() {
    let page = json!({
        "type": "page", "userId": "u", "name": "Home", "category": "x".repeat(10_000),
        "properties": {"name": "another", "path": "/"},
    });
    let EventKind::Custom { name, attributes } = kind(page) else { panic!("a page is no event of ours") };
    let pairs: Vec<String> = attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!((name.as_str(), pairs.join(" ")), ("page", "name=Home path=/ _left_out=1".to_owned()));
}

#[test]
fn what_shops_say_teaches_the_models() {
    let viewed =
        json!({"type": "track", "userId": 7, "event": "Product Viewed", "properties": {"product_id": 42}});
    assert!(matches!(kind(viewed), EventKind::Click { item, .. } if item.as_str() == "42"));
    let nothing = json!({"type": "track", "userId": "u", "event": "Product Viewed", "properties": {}});
    assert!(matches!(kind(nothing), EventKind::Custom { name, .. } if name == "Product Viewed"));
    let order = json!({"type": "track", "userId": "u", "messageId": "m", "event": "Order Completed", "properties": {
        "currency": "eur", "products": [{"product_id": "a", "price": 18.99, "quantity": 2}, {"sku": "b", "price": "3"}, {}],
    }});
    let bought = events(order).unwrap();
    let worth: Vec<_> = bought
        .iter()
        .map(|event| match &event.kind {
            EventKind::Conversion { item, value_micros, currency, .. } => {
                (item.as_str(), *value_micros, *currency)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(worth, [("a", 37_980_000, *b"EUR"), ("b", 3_000_000, *b"EUR")]);
    assert_ne!(bought[0].id, bought[1].id);
    let list = json!({"type": "track", "userId": "u", "event": "Product List Viewed", "properties": {
        "list_id": "hot", "products": [{"product_id": "a"}, {"product_id": "b", "position": 5}],
    }});
    let seen: Vec<_> = events(list).unwrap().into_iter().map(|event| event.kind).collect();
    assert!(
        matches!(&seen[1], EventKind::Impression { slot, position: 5, .. } if slot.as_str() == "hot"),
        "{seen:?}"
    );
}

#[test]
fn traits_are_the_profiles() {
    let identify = json!({"type": "identify", "userId": "u", "traits": {"age": 30, "plan": "gold"}});
    let EventKind::Custom { name, attributes } = kind(identify) else { panic!() };
    assert_eq!(name, "identify", "the name by which a profile takes traits");
    assert_eq!(attributes, [("age".to_owned(), "30".to_owned()), ("plan".to_owned(), "gold".to_owned())]);
}

#[test]
fn what_is_wrong_is_said() {
    for (message, says) in [
        (json!({"userId": "u"}), "type"),
        (json!({"type": "track", "event": "e"}), "userId or anonymousId"),
        (json!({"type": "track", "userId": "u"}), "event"),
        (json!({"type": "page", "userId": "u", "timestamp": "yesterday"}), "RFC 3339"),
        (json!({"type": "page", "userId": "x".repeat(200)}), "bytes"),
    ] {
        let error = events(message.clone()).unwrap_err();
        assert!(error.message.contains(says), "{message}: {error}");
    }
}
