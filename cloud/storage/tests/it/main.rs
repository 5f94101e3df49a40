//! Storage against a real SQLite file in a temporary folder.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod append;
mod artifacts;
mod erasures;
mod failures;
mod identities;
mod rate;
mod rows;

use cloud_storage::{Config, Storage};
use proto::{AnswerId, Event, EventId, EventKind, ItemId, PopId, SlotId, TraceId, UserId, VisitorId};

pub(crate) const NOW_MS: u64 = 1_760_000_000_000;

pub(crate) async fn open(folder: &tempfile::TempDir) -> Storage {
    Storage::open(folder.path(), &Config::default()).await.unwrap()
}

pub(crate) fn pop(name: &str) -> PopId {
    PopId::new(name).unwrap()
}

/// Event number `n`: the same number gives the same event, with an id of its own.
pub(crate) fn event(n: u64) -> Event {
    let item = ItemId::new(format!("item-{}", n % 1_682)).unwrap();
    let slot = SlotId::new("home").unwrap();
    let id = |tag: u64| uuid::Builder::from_unix_timestamp_millis(NOW_MS + n, &mix(n, tag)).into_uuid();
    let answer = Some(AnswerId(id(2)));
    let kind = match n % 4 {
        0 => EventKind::Click { item, slot, answer },
        3 => EventKind::Rating { item, stars: 4.0 },
        _ => EventKind::Impression { item, slot, position: 1, answer },
    };
    Event {
        id: EventId(id(1)),
        visitor: VisitorId::User(UserId::new(format!("{}", n % 943)).unwrap()),
        at_ms: NOW_MS + n,
        trace: TraceId(u128::from(n % 2) * (u128::from(n) << 64 | 7)),
        kind,
    }
}

pub(crate) fn events(numbers: std::ops::Range<u64>) -> Vec<Event> {
    numbers.map(event).collect()
}

fn mix(n: u64, tag: u64) -> [u8; 10] {
    // SplitMix64's finalizer: spreads ids as random ones would be.
    let mut z = n.wrapping_mul(2).wrapping_add(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mut out = [0; 10];
    out[..8].copy_from_slice(&z.to_le_bytes());
    out[8..].copy_from_slice(&(n as u16).to_le_bytes());
    out
}
