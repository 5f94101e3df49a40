//! Simulated clients: each writes for a visitor of its own, one event after the other, and reads what it wrote and what others did.
//!
//! A client sends an event again, with the same id, until it is acknowledged; only then does it send the next. So what a
//! visitor's events must look like is known without a search.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_store::StoreError;
use proto::command::{Command, Effect};
use proto::event::EventKind;
use proto::profile::View;
use proto::{DeviceId, Event, EventId, ItemId, SlotId, TraceId, VisitorId};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use super::Pace;
use super::machine::{EPOCH_MS, Process, Setting};
use super::world::Watch;
use crate::invariants::{Consistency, Fact, Read, Serial, Visitor};

/// Events of one visitor: all of them fit the ring of a profile.
const SERIALS_MAX: u64 = 150;
/// How often an event is sent before its client gives up, and goes on as another visitor.
const ATTEMPTS_MAX: u32 = 60;
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);
/// How long a node may try.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long a session's read waits for its own writes.
const TOKEN_WITHIN: Duration = Duration::from_millis(300);
/// An age above this is no age: the read is not dated.
const AGE_MAX: Duration = Duration::from_secs(5);

/// The nodes that run, as clients find them.
pub type Directory = Arc<Mutex<BTreeMap<u64, Process>>>;

/// A client.
pub struct Client {
    number: u64,
    visitor: Visitor,
    serial: Serial,
    /// Log index of its last acknowledged write.
    token: u64,
    random: SmallRng,
    directory: Directory,
    watch: Watch,
    pace: Pace,
    think: Pace,
}

/// A visitor's name.
fn name(visitor: Visitor) -> VisitorId {
    VisitorId::Device(DeviceId::new(format!("v{visitor}")).unwrap_or_else(|error| panic!("{error}")))
}

fn item(text: String) -> ItemId {
    ItemId::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A UUIDv7 (RFC 9562) that names visitor and serial.
fn id(visitor: Visitor, serial: Serial) -> EventId {
    let bits = (u128::from(visitor) << 80) | (0x7 << 76) | (0b10 << 62) | u128::from(serial);
    EventId(uuid::Uuid::from_u128(bits))
}

/// The serials in a view, in the order in which they were counted.
fn serials(view: &View) -> Vec<Serial> {
    view.profile
        .interactions
        .iter()
        .filter_map(|interaction| interaction.item.as_str().parse().ok())
        .collect()
}

impl Client {
    /// A client with a visitor of its own.
    pub fn new(number: u64, setting: &Setting, directory: Directory, watch: Watch) -> Self {
        let Setting { seed, pace, think, .. } = *setting;
        let random = SmallRng::seed_from_u64(seed ^ (number << 48));
        Self { number, visitor: number * 1_000, serial: 0, token: 0, random, directory, watch, pace, think }
    }

    /// Reads and writes until told to stop, and ends between two operations.
    pub async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        while !stop.is_cancelled() {
            sleep(self.think.ms(self.random.random_range(2..60))).await;
            match self.random.random_range(0..10) {
                0..=5 => self.write().await,
                6 => self.read_local().await,
                7 => self.read_session().await,
                8 => self.read_linearizable().await,
                _ => self.note().await,
            }
        }
    }

    /// Some node that runs, as far as anybody knows.
    fn node(&mut self) -> Option<(u64, Process)> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.random.random_range(0..directory.len().max(1));
        directory.iter().nth(at).map(|(node, process)| (*node, process.clone()))
    }

    async fn write(&mut self) {
        let count = self.random.random_range(1..=3);
        let serials: Vec<Serial> = (self.serial + 1..=self.serial + count).collect();
        self.serial += count;
        let repeated = serials.clone();
        for serial in &serials {
            let (visitor, serial) = (self.visitor, *serial);
            self.watch.observe(&Fact::Sent { visitor, serial, id: id(visitor, serial) });
        }
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                sleep(self.pace.ms(self.random.random_range(10..200))).await;
            }
            let Some((_, process)) = self.node() else { continue };
            if let Some(index) = self.track(&process, &serials).await {
                self.token = self.token.max(index);
                for serial in serials {
                    self.watch.observe(&Fact::Acknowledged { visitor: self.visitor, serial });
                }
                // Networks and SDKs repeat themselves: what was counted must not be counted again, here or elsewhere.
                if self.random.random_bool(0.1)
                    && let Some((_, other)) = self.node()
                {
                    self.track(&other, &repeated).await;
                }
                if self.serial >= SERIALS_MAX {
                    self.next_visitor();
                }
                return;
            }
        }
        self.watch.note(|| format!("client {} gives up visitor {}", self.number, self.visitor));
        self.next_visitor();
    }

    fn next_visitor(&mut self) {
        self.visitor += 1;
        self.serial = 0;
    }

    /// Sends a batch once. The index that holds it, if it is counted.
    async fn track(&self, process: &Process, serials: &[Serial]) -> Option<u64> {
        let visitor = self.visitor;
        let event = |serial: &Serial| Event {
            id: id(visitor, *serial),
            visitor: name(visitor),
            // By the app's own clock, which no fault steps: a profile orders what a visitor did by it.
            at_ms: EPOCH_MS + serial,
            trace: TraceId::default(),
            kind: EventKind::Click {
                item: item(serial.to_string()),
                slot: SlotId::new("slot").unwrap_or_else(|error| panic!("{error}")),
                answer: None,
            },
        };
        let events: Vec<Event> = serials.iter().map(event).collect();
        let len = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let command = Command::Track { events, received_at_ms: process.clock.now_ms() };
        let (store, deadline) = (process.store.clone(), Instant::now() + self.pace.of(DEADLINE));
        let proposed = process
            .host
            .spawn(async move { store.propose(command, deadline).await })
            .await_within(self.pace.of(ANSWER_WITHIN))
            .await?;
        match proposed {
            Ok(proposed) => match proposed.effect {
                Effect::Tracked { accepted, duplicates } if accepted + duplicates == len => {
                    Some(proposed.index)
                }
                effect => {
                    self.watch.note(|| format!("a track had the effect {effect:?}"));
                    None
                }
            },
            Err(StoreError::Invalid(reason)) => {
                self.watch.note(|| format!("a track was refused: {reason}"));
                None
            }
            Err(_) => None,
        }
    }

    async fn read_local(&mut self) {
        let visitor = self.any_visitor();
        let Some((node, process)) = self.node() else { return };
        let began = self.watch.now();
        let store = process.store.clone();
        let read = process.host.spawn(async move {
            let age = store.age();
            (age, store.view(&name(visitor)))
        });
        let Some((age, view)) = read.await_within(self.pace.of(ANSWER_WITHIN)).await else { return };
        let consistency = Consistency::Local { age: age.filter(|age| *age <= self.pace.of(AGE_MAX)) };
        let seen = serials(&view);
        self.watch.observe(&Fact::Read(Read { node, visitor, began, consistency, seen: &seen }));
    }

    async fn read_session(&mut self) {
        let (visitor, token, within) = (self.visitor, self.token, self.pace.of(TOKEN_WITHIN));
        let Some((node, process)) = self.node() else { return };
        let began = self.watch.now();
        let store = process.store.clone();
        let read = process.host.spawn(async move {
            let fresh = store.wait_applied(token, within).await;
            fresh.then(|| store.view(&name(visitor)))
        });
        let Some(Some(view)) = read.await_within(self.pace.of(ANSWER_WITHIN)).await else { return };
        let seen = serials(&view);
        let consistency = Consistency::Session;
        self.watch.observe(&Fact::Read(Read { node, visitor, began, consistency, seen: &seen }));
    }

    async fn read_linearizable(&mut self) {
        let visitor = self.any_visitor();
        let Some((node, process)) = self.node() else { return };
        let began = self.watch.now();
        if let Some(seen) = linearizable(&process, visitor, self.pace).await {
            let consistency = Consistency::Linearizable;
            self.watch.observe(&Fact::Read(Read { node, visitor, began, consistency, seen: &seen }));
        }
    }

    /// Notes what an answer offered, as a recommendation does: nobody waits for it.
    async fn note(&mut self) {
        let visitor = self.any_visitor();
        let Some((_, process)) = self.node() else { return };
        let items = vec![item(format!("offered-{}", self.random.random_range(0..5)))];
        let served = Command::Served { visitor: name(visitor), items, at_ms: process.clock.now_ms() };
        let store = process.store.clone();
        let noted = process.host.spawn(async move { store.try_note(served) });
        // A note that is dropped is counted by the node, and is nobody's loss.
        let _ = noted.await_within(self.pace.of(ANSWER_WITHIN)).await;
    }

    fn any_visitor(&mut self) -> Visitor {
        let own = self.visitor;
        self.watch.any_visitor(&mut self.random).unwrap_or(own)
    }
}

/// A linearizable read of a visitor; none where it could not be had.
pub async fn linearizable(process: &Process, visitor: Visitor, pace: Pace) -> Option<Vec<Serial>> {
    let store = process.store.clone();
    let read = process.host.spawn(async move {
        let deadline = Instant::now() + pace.of(DEADLINE);
        let index = store.read_index(deadline).await.ok()?;
        let applied = store.wait_applied(index, deadline.saturating_duration_since(Instant::now())).await;
        applied.then(|| store.view(&name(visitor)))
    });
    read.await_within(pace.of(ANSWER_WITHIN)).await.flatten().map(|view| serials(&view))
}

/// Whether a node answers a local read.
pub async fn view(process: &Process, visitor: Visitor) -> bool {
    let store = process.store.clone();
    process.host.spawn(async move { store.view(&name(visitor)) }).await_within(ANSWER_WITHIN).await.is_some()
}

/// What a node's task came to, if it did in time and the node lived.
trait AwaitWithin<T> {
    async fn await_within(self, within: Duration) -> Option<T>;
}

impl<T> AwaitWithin<T> for tokio::task::JoinHandle<T> {
    async fn await_within(self, within: Duration) -> Option<T> {
        timeout(within, self).await.ok()?.ok()
    }
}
