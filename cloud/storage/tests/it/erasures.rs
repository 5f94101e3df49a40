//! A visitor is erased, and stays so whatever comes late.

use cloud_storage::Filter;
use proto::{Event, Offset, UserId, VisitorId};

use crate::{NOW_MS, event, events, open, pop};

fn visitor(name: &str) -> VisitorId {
    VisitorId::User(UserId::new(name).unwrap())
}

fn of(visitor: &VisitorId, n: u64, at_ms: u64) -> Event {
    Event { visitor: visitor.clone(), at_ms, ..event(n) }
}

#[tokio::test]
async fn nothing_of_an_erased_visitor_is_left_and_nothing_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (fra, ada, bob) = (pop("fra"), visitor("ada-lovelace@example.org"), visitor("bob"));
    let batch: Vec<Event> =
        (0..20).map(|n| of(if n % 2 == 0 { &ada } else { &bob }, n, NOW_MS - 100 + n)).collect();
    storage.append(&fra, Offset(1), &batch, NOW_MS).await.unwrap();
    // A clock that runs ahead hides nothing.
    storage.append(&fra, Offset(21), &[of(&ada, 50, NOW_MS + 200_000)], NOW_MS).await.unwrap();
    let erased = storage.erase(&ada, "admin", NOW_MS).await.unwrap();
    assert_eq!((erased.number, erased.events, &erased.waiting[..]), (1, 11, std::slice::from_ref(&fra)));
    let known = async |visitor: &VisitorId| {
        let filter = Filter { visitor: Some(visitor.to_string()), trace: None };
        storage.events_recent(&filter, 100).await.unwrap().len()
    };
    assert_eq!((known(&ada).await, known(&bob).await), (0, 10));
    // What was under way comes late, what the cloud has comes again: neither brings anything back, and offsets go on.
    let again = storage.append(&fra, Offset(1), &batch, NOW_MS).await.unwrap();
    assert_eq!((again.upto, again.known), (Offset(21), 20));
    let late = [of(&ada, 100, NOW_MS), of(&bob, 101, NOW_MS), of(&ada, 102, NOW_MS + 1)];
    let appended = storage.append(&fra, Offset(22), &late, NOW_MS + 5).await.unwrap();
    assert_eq!(appended.upto, Offset(24));
    assert_eq!((known(&ada).await, known(&bob).await), (1, 11), "what was done after it is taken in");
    // The export has what is left, and no row of what is not.
    let page = storage.events_page(0, None, 1_000).await.unwrap();
    assert_eq!((page.events.len(), page.next, page.last), (12, 24, 24));
    let counts = storage.event_counts().await.unwrap();
    assert_eq!((counts.total, counts.by_kind["erased"], counts.by_pop["fra"]), (24, 12, 24));
    // The audit log says what was done, and not to whom.
    let audit = storage.audit_recent(10).await.unwrap();
    assert_eq!((&audit[0].what[..], &audit[0].who[..]), ("visitor.erase", "admin"));
    assert!(audit[0].detail.contains("11 events") && !audit[0].detail.contains("ada"), "{}", audit[0].detail);
}

#[tokio::test]
async fn erasing_again_erases_what_came_since() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (fra, ada) = (pop("fra"), visitor("ada"));
    assert_eq!(storage.erasure(&ada).await.unwrap(), None);
    // A visitor whom nobody has seen can be erased: events may be under way.
    let first = storage.erase(&ada, "admin", NOW_MS).await.unwrap();
    assert_eq!((first.events, storage.erasure(&ada).await.unwrap()), (0, Some(first.clone())));
    storage.append(&fra, Offset(1), &[of(&ada, 1, NOW_MS), of(&ada, 2, NOW_MS + 9)], NOW_MS).await.unwrap();
    let second = storage.erase(&ada, "admin", NOW_MS + 10).await.unwrap();
    assert_eq!((second.events, second.number > first.number), (1, true));
    let third = storage.erase(&ada, "admin", NOW_MS + 10).await.unwrap();
    assert_eq!(third.events, 0);
    assert!(storage.events_page(0, None, 10).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn pops_hear_of_erasures_until_they_carried_them_out_and_then_the_id_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (fra, sin, new) = (pop("fra"), pop("sin"), pop("new"));
    let (ada, bob) = (visitor("ada"), visitor("bob"));
    storage.append(&fra, Offset(1), &events(0..2), NOW_MS).await.unwrap();
    storage.append(&sin, Offset(1), &events(2..4), NOW_MS).await.unwrap();
    let first = storage.erase(&ada, "admin", NOW_MS).await.unwrap();
    let second = storage.erase(&bob, "admin", NOW_MS + 1).await.unwrap();
    let numbers = async |pop, after| {
        let asked = storage.erasures_after(pop, after, NOW_MS).await.unwrap();
        asked
            .into_iter()
            .map(|erasure| (erasure.number, erasure.visitor.to_string(), erasure.at_ms))
            .collect::<Vec<_>>()
    };
    let both = vec![(first.number, "u:ada".into(), NOW_MS), (second.number, "u:bob".into(), NOW_MS + 1)];
    assert_eq!(numbers(&fra, 0).await, both);
    // Asking is no confirming; asking for what comes after it is.
    assert_eq!(storage.erasure(&ada).await.unwrap().unwrap().waiting, [fra.clone(), sin.clone()]);
    assert_eq!(numbers(&fra, first.number).await, both[1..]);
    assert_eq!(storage.erasure(&ada).await.unwrap().unwrap().waiting, std::slice::from_ref(&sin));
    assert_eq!(numbers(&fra, second.number).await, []);
    assert_eq!(numbers(&sin, 0).await, both, "until the last PoP has it, the id is known");
    assert_eq!(numbers(&sin, second.number).await, []);
    for visitor in [&ada, &bob] {
        assert!(storage.erasure(visitor).await.unwrap().unwrap().waiting.is_empty());
    }
    // Nobody can be told the ids any more: the storage has only hashes. A PoP that comes later has nothing to erase, and keeps nobody
    // waiting.
    assert_eq!(numbers(&new, 0).await, []);
    let third = storage.erase(&ada, "admin", NOW_MS + 2).await.unwrap();
    assert_eq!(third.waiting.len(), 3);
    assert_eq!(numbers(&new, 0).await.len(), 1);
    // A PoP that says more than there is does not get ahead of what comes.
    assert_eq!(numbers(&fra, u64::MAX).await, []);
    let fourth = storage.erase(&bob, "admin", NOW_MS + 3).await.unwrap();
    assert!(fourth.waiting.contains(&fra));
}

/// A cloud from a backup: the PoP has carried out ten that are not known here, and there is one that it has not heard of.
#[tokio::test]
async fn a_pop_that_is_ahead_is_still_told_of_what_it_has_not_erased() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let (fra, sin) = (pop("fra"), pop("sin"));
    storage.append(&fra, Offset(1), &events(0..2), NOW_MS).await.unwrap();
    storage.append(&sin, Offset(1), &events(2..4), NOW_MS).await.unwrap();
    let erased = storage.erase(&visitor("ada"), "admin", NOW_MS).await.unwrap();
    assert_eq!(erased.number, 1);
    let asked = storage.erasures_after(&fra, 10, NOW_MS).await.unwrap();
    let told: Vec<_> = asked.iter().map(|erasure| (erasure.number, erasure.visitor.clone())).collect();
    assert_eq!(told, [(11, visitor("ada"))]);
    let waiting = async |name| storage.erasure(&visitor(name)).await.unwrap().unwrap().waiting;
    assert_eq!(waiting("ada").await, [fra.clone(), sin.clone()], "nothing is done that is not");
    let audit = storage.audit_recent(1).await.unwrap();
    assert!(audit[0].what == "visitor.erasures_lost" && audit[0].detail.contains("2 to 10"), "{audit:?}");
    let next = storage.erase(&visitor("bob"), "admin", NOW_MS).await.unwrap();
    assert_eq!(next.number, 12);
    assert!(storage.erasures_after(&fra, 12, NOW_MS).await.unwrap().is_empty());
    assert_eq!(storage.erasures_after(&sin, 2, NOW_MS).await.unwrap().len(), 2);
    assert_eq!(waiting("ada").await, std::slice::from_ref(&sin));
    // Where nothing was ever erased here, numbers go on above the PoP's all the same.
    let other = tempfile::tempdir().unwrap();
    let storage = open(&other).await;
    assert!(storage.erasures_after(&fra, 7, NOW_MS).await.unwrap().is_empty());
    assert_eq!(storage.erase(&visitor("ada"), "admin", NOW_MS).await.unwrap().number, 8);
}

#[tokio::test]
async fn the_database_file_holds_no_trace_of_an_erased_visitor() {
    let folder = tempfile::tempdir().unwrap();
    let (name, item) = ("a-name-that-nothing-else-has", "item-that-tells-it-all");
    {
        let storage = open(&folder).await;
        let ada = visitor(name);
        let kind = proto::EventKind::Rating { item: item.parse().unwrap(), stars: 1.0 };
        let batch: Vec<Event> =
            (0..300).map(|n| Event { kind: kind.clone(), ..of(&ada, n, NOW_MS) }).collect();
        storage.append(&pop("fra"), Offset(1), &batch, NOW_MS).await.unwrap();
        let erased = storage.erase(&ada, "admin", NOW_MS).await.unwrap();
        storage.erasures_after(&pop("fra"), erased.number, NOW_MS).await.unwrap();
        // Closing folds the write-ahead log into the file.
        storage.close().await;
    }
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for trace in [name, item] {
            let found = bytes.windows(trace.len()).any(|window| window == trace.as_bytes());
            assert!(!found, "{trace} is in {}", path.display());
        }
    }
}
