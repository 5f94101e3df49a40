use serde_json::json;

use super::super::notes::{Note, Told};
use super::*;

const NOW: u64 = 1_800_000_000_000;

/// With what was changed and skipped.
fn read(message: &Value) -> (Result<Vec<Event>, Unusable>, Notes) {
    let received = Received { at_ms: NOW, sent_at: Value::Null, trace: TraceId(7), nonce: 1 };
    let mut notes = Notes::default();
    (super::events(message.as_object().unwrap(), None, &received, &mut notes), notes)
}

fn events(message: Value) -> Result<Vec<Event>, Unusable> {
    read(&message).0
}

fn reasons(told: &Told) -> Vec<(&str, Reason)> {
    told.notes.iter().map(|Note { at, reason, .. }| (at.as_str(), *reason)).collect()
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
    for (message, reason) in [
        (json!({"userId": "u"}), Reason::Type),
        (json!({"userId": "u", "type": 7}), Reason::Type),
        (json!({"type": "track", "event": "e"}), Reason::Visitor),
        (json!({"type": "track", "userId": "", "event": "e"}), Reason::Visitor),
        (json!({"type": "track", "userId": "u"}), Reason::Event),
        (json!({"type": "track", "userId": "u", "event": {}}), Reason::Event),
        (json!({"type": "page", "userId": "x".repeat(200)}), Reason::UserId),
        (json!({"type": "page", "anonymousId": "a\nb"}), Reason::AnonymousId),
    ] {
        assert_eq!(events(message.clone()).unwrap_err().reason, reason, "{message}");
    }
}

/// None of these costs the message: what cannot be used is left out, and said.
#[test]
fn what_cannot_be_used_is_left_out_and_said() {
    let long = "x".repeat(600);
    for (more, at, reason) in [
        (json!({"timestamp": "yesterday"}), "timestamp", Reason::Timestamp),
        (json!({"timestamp": true}), "timestamp", Reason::Timestamp),
        (json!({"timestamp": "2099-01-01T00:00:00Z"}), "timestamp", Reason::Timestamp),
        (json!({"timestamp": "0001-01-01T00:00:00Z"}), "timestamp", Reason::Timestamp),
        (json!({"originalTimestamp": {}}), "originalTimestamp", Reason::Timestamp),
        (json!({"timestamp": "2024-01-01T00:00:00Z", "sentAt": "now"}), "sentAt", Reason::SentAt),
        (
            json!({"timestamp": "2024-01-01T00:00:00Z", "sentAt": "9999-01-01T00:00:00Z"}),
            "sentAt",
            Reason::SentAt,
        ),
        (json!({"anonymousId": "a", "userId": "x".repeat(200)}), "userId", Reason::UserId),
        (json!({"anonymousId": "a", "userId": ["u"]}), "userId", Reason::UserId),
        (json!({"messageId": {"a": 1}}), "messageId", Reason::MessageId),
        (json!({"properties": "{}"}), "properties", Reason::Properties),
        (json!({"properties": [1]}), "properties", Reason::Properties),
        (json!({"properties": {"a": long}}), "properties", Reason::Attributes),
        (json!({"name": {"en": "Home"}}), "name", Reason::Name),
        (json!({"type": "identify", "traits": 7}), "traits", Reason::Traits),
        (json!({"type": "group", "groupId": false}), "groupId", Reason::GroupId),
        (json!({"type": "alias", "previousId": []}), "previousId", Reason::PreviousId),
        (json!({"type": "track", "event": long}), "event", Reason::Event),
    ] {
        let mut message = json!({"type": "page", "userId": "u"});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (events, notes) = read(&message);
        let events = events.unwrap_or_else(|why| panic!("{message}: {why:?}"));
        assert_eq!(events.len(), 1, "{message}");
        events[0].check(NOW).unwrap();
        assert_eq!(reasons(&notes.changed), [(at, reason)], "{message}");
        assert_eq!(notes.skipped.count(), 0);
    }
}

#[test]
fn a_time_is_used_where_it_can_be_and_arrival_counts_otherwise() {
    const DAY: u64 = 1_704_067_200_000;
    for (message, at_ms, noted) in [
        (json!({"timestamp": "2024-01-01T00:00:00Z"}), DAY, 0),
        (json!({"timestamp": "2024-01-01T01:00:00+0100"}), DAY, 0),
        (json!({"timestamp": "2024-01-01T00:00:00"}), DAY, 1),
        (json!({"timestamp": DAY}), DAY, 1),
        (json!({"timestamp": DAY / 1_000}), DAY, 1),
        (json!({"timestamp": 1_704_067_200.25}), DAY + 250, 1),
        (json!({"timestamp": "never"}), NOW, 1),
        (json!({"timestamp": -1}), NOW, 1),
        (json!({"originalTimestamp": "never", "timestamp": "2024-01-01T00:00:00Z"}), DAY, 1),
        (json!({"timestamp": NOW + 60_000}), NOW, 1),
        (json!({}), NOW, 0),
        // The clock was set back in between.
        (json!({"timestamp": "2024-06-04T11:36:12.799Z", "sentAt": "2024-05-21T00:08:54.551Z"}), NOW, 1),
        // Of two without a zone, the difference has one.
        (json!({"timestamp": "2024-01-01T00:00:00", "sentAt": "2024-01-01T00:00:10"}), NOW - 10_000, 2),
    ] {
        let mut whole = json!({"type": "page", "userId": "u"});
        whole.as_object_mut().unwrap().extend(message.as_object().unwrap().clone());
        let (events, notes) = read(&whole);
        assert_eq!((events.unwrap()[0].at_ms, notes.changed.count()), (at_ms, noted), "{message}");
    }
}

#[test]
fn a_message_counts_once_for_its_visitor_whenever_it_says_it_happened() {
    let id = |more: Value| {
        let mut message = json!({"type": "page", "userId": "u", "messageId": "m"});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        events(message).unwrap()[0].id
    };
    let first = id(json!({"timestamp": "2024-01-01T00:00:00.000Z"}));
    assert_eq!(id(json!({"timestamp": "2024-01-01T00:00:00.001Z"})), first);
    assert_eq!(id(json!({})), first);
    assert_ne!(id(json!({"userId": "v"})), first, "a counter of another's");
    assert_ne!(id(json!({"userId": null, "anonymousId": "u"})), first);
    assert_ne!(id(json!({"messageId": "n"})), first);
    assert_eq!(id(json!({"messageId": 7})), id(json!({"messageId": "7"})));
    assert_eq!(first.0.get_version_num(), 7);
    assert_ne!(id(json!({"messageId": "x".repeat(5_000)})), first);
}

fn order(properties: Value) -> (Vec<(String, i64, String)>, Notes) {
    let message = json!({"type": "track", "userId": "u", "messageId": "m", "event": "Order Completed", "properties": properties});
    let (events, notes) = read(&message);
    let worth = |event: Event| match event.kind {
        EventKind::Conversion { item, value_micros, currency, .. } => {
            (item.as_str().to_owned(), value_micros, String::from_utf8_lossy(&currency).into_owned())
        }
        other => panic!("{other:?}"),
    };
    (events.unwrap().into_iter().map(worth).collect(), notes)
}

#[test]
fn an_order_is_kept_whatever_one_of_its_prices_is() {
    for (price, micros) in [
        (json!("12,50"), 12_500_000),
        (json!("1.234,56"), 1_234_560_000),
        (json!("€12.50"), 12_500_000),
        (json!("12.50 EUR"), 12_500_000),
        (json!("NaN"), 0),
        (json!("1e400"), 0),
        (json!(1e300), 0),
        (json!("free"), 0),
        (json!("1,234"), 0),
        (json!(null), 0),
        (json!({"amount": 3}), 0),
    ] {
        let (sold, notes) = order(json!({"currency": "EUR", "products": [
            {"product_id": "a", "price": price}, {"product_id": "b", "price": -3},
        ]}));
        let expected =
            [("a".to_owned(), micros, "EUR".to_owned()), ("b".to_owned(), -3_000_000, "EUR".to_owned())];
        assert_eq!(sold, expected, "{price}");
        assert_eq!(reasons(&notes.changed), [("properties.products[0].price", Reason::Price)], "{price}");
    }
}

#[test]
fn what_else_is_wrong_of_an_order_is_said() {
    let one = |more: Value| {
        let mut product = json!({"product_id": "a", "price": 2});
        product.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order(json!({"currency": "EUR", "products": [product]}))
    };
    for (more, micros, noted) in [
        (json!({"quantity": "3"}), 6_000_000, 0),
        (json!({"quantity": "1,5"}), 3_000_000, 1),
        (json!({"quantity": "some"}), 2_000_000, 1),
        (json!({"quantity": []}), 2_000_000, 1),
    ] {
        let (sold, notes) = one(more.clone());
        assert_eq!((sold[0].1, notes.changed.count()), (micros, noted), "{more}");
    }
    let (sold, notes) = order(json!({"currency": "EURO", "products": {"sku": 7, "price": "2"}}));
    // ISO 4217's code for no currency.
    assert_eq!(sold, [("7".to_owned(), 2_000_000, "X".repeat(3))]);
    let changed = [("properties.products", Reason::Products), ("properties.currency", Reason::Currency)];
    assert_eq!(reasons(&notes.changed), changed);
    let (sold, notes) = order(json!({"products": [
        "a", {"price": 1}, {"product_id": "x".repeat(200), "sku": "s", "price": 1}, {"product_id": ["b"], "price": 1},
    ]}));
    assert_eq!(sold, [("s".to_owned(), 1_000_000, "USD".to_owned())]);
    let at = |at: usize| format!("properties.products[{at}]");
    let skipped = [(&*at(0), Reason::Product), (&*at(1), Reason::ProductId), (&*at(3), Reason::ProductId)];
    assert_eq!(reasons(&notes.skipped), skipped);
    assert_eq!(notes.changed.count(), 2, "and which ids were not used");
}

#[test]
fn shops_words_without_a_product_are_events_of_their_own() {
    for (event, properties, reason) in [
        ("Product Viewed", json!({"product_id": "x".repeat(200)}), Reason::ProductId),
        ("Order Completed", json!({"products": "a,b"}), Reason::Products),
    ] {
        let message = json!({"type": "track", "userId": "u", "event": event, "properties": properties});
        let (events, notes) = read(&message);
        assert!(matches!(&events.unwrap()[0].kind, EventKind::Custom { name, .. } if name == event));
        assert!(
            reasons(&notes.changed).iter().chain(&reasons(&notes.skipped)).any(|(_, said)| *said == reason)
        );
    }
    let many: Vec<Value> = (0..150).map(|n| json!({"product_id": n, "position": n - 1})).collect();
    let message = json!({"type": "track", "userId": "u", "event": "Product List Viewed",
        "properties": {"list_id": "y".repeat(200), "category": "hot", "products": many, "answer_id": "?"}});
    let (events, notes) = read(&message);
    let events = events.unwrap();
    assert_eq!(events.len(), 100);
    assert!(
        matches!(&events[0].kind, EventKind::Impression { slot, position: 0, .. } if slot.as_str() == "hot")
    );
    assert!(matches!(&events[2].kind, EventKind::Impression { position: 1, .. }));
    assert_eq!(reasons(&notes.skipped), [("properties.products", Reason::Products)]);
    let changed = [
        ("properties.list_id", Reason::List),
        ("properties.answer_id", Reason::AnswerId),
        ("properties.products[0].position", Reason::Position),
    ];
    assert_eq!(reasons(&notes.changed), changed);
}
