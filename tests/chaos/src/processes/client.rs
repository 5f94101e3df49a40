//! Clients of a run: each writes over the apps' door, one batch after the other, and reads what it and others wrote.
//!
//! Most batches are for a visitor of the client's own, and are sent until they are acknowledged. Some are for one whom all clients write
//! at the same time; of those a client may give one up whose outcome it does not know.
//!
//! The catalog has as many items as an answer may: every item that the visitor did not click is offered. So an answer says exactly
//! which clicks the node knew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::client::{Answer, Ask, ClientReply, ClientRequest, OpenSession, Recommend, ServedBy, Track};
use proto::{DeviceId, Event, EventId, EventKind, ItemId, PopId, SessionToken, SlotId, TraceId, VisitorId};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use rockpool::local::Deployment;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use transport::quic::QuicDialer;
use transport::{Dialer as _, Link, Peer, call};

use super::watch::{Node, Watch};
use crate::invariants::{Consistency, Fact, Read, SHARED_FROM, Serial, Visitor};
use crate::linear::{Operation, Outcome, Work};

/// Items of the catalog, `i0` to `i99`: as many as an answer may hold. A click on `i7` is a visitor's event 7.
pub const ITEMS: usize = proto::limits::RECOMMEND_COUNT_MAX;
/// Events of one visitor.
const SERIALS_MAX: u64 = 90;
/// One batch in so many is for the visitor whom all clients write, and one linearizable read.
const COMMON_WRITES: u32 = 3;
const COMMON_READS: u32 = 2;
/// How likely a client gives such a batch up, each time it was not acknowledged.
const GIVES_UP: f64 = 0.3;
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);
/// How long a node may try.
const DEADLINE: Duration = Duration::from_millis(1_000);
/// How long a write that was begun may take once all faults are over.
const END_WITHIN: Duration = Duration::from_secs(60);

/// How clients come to nodes. Clones share their dialer.
#[derive(Clone)]
pub struct Way {
    dialer: Arc<QuicDialer>,
    expect: Peer,
    app_key: String,
    pop: PopId,
}

impl Way {
    /// The way to a deployment's nodes.
    ///
    /// # Errors
    /// Where the deployment's CA cannot be used.
    pub fn to(deployment: &Deployment) -> anyhow::Result<Self> {
        Ok(Self {
            dialer: deployment.app_dialer()?,
            expect: Peer::Named(deployment.server_name()?),
            app_key: deployment.app_key().to_owned(),
            pop: deployment.pop().clone(),
        })
    }
}

/// Connections of one client, one a node.
pub struct Door {
    way: Way,
    links: BTreeMap<u64, (u64, Arc<dyn Link>)>,
}

impl Door {
    /// Not connected yet.
    pub fn new(way: Way) -> Self {
        Self { way, links: BTreeMap::new() }
    }

    /// Asks a node once. None: no answer, and the connection is given up.
    pub async fn ask(&mut self, node: &Node, ask: Ask) -> Option<ClientReply> {
        self.ask_surely(node, ask).await?
    }

    /// Asks a node once. None: there was no connection, and the question was surely not sent; or it was, and there is no answer.
    async fn ask_surely(&mut self, node: &Node, ask: Ask) -> Option<Option<ClientReply>> {
        let link = self.link(node).await?;
        let reply = exchange(&*link, ask).await;
        if reply.is_none() {
            self.links.remove(&node.node);
        }
        Some(reply)
    }

    async fn link(&mut self, node: &Node) -> Option<Arc<dyn Link>> {
        if let Some((life, link)) = self.links.get(&node.node)
            && *life == node.life
        {
            return Some(link.clone());
        }
        let link = self.way.dialer.dial(&node.clients, &self.way.expect, ANSWER_WITHIN).await.ok()?;
        let open = OpenSession { app_key: self.way.app_key.clone(), agent: "rockpool-chaos".into() };
        match exchange(&*link, Ask::Session(open)).await? {
            ClientReply::Session(_) => {}
            _ => return None,
        }
        self.links.insert(node.node, (node.life, link.clone()));
        Some(link)
    }

    /// What a node offers a visitor, once it has applied `index`.
    pub async fn offered(&mut self, node: &Node, visitor: Visitor, index: Option<u64>) -> Option<Answer> {
        let token = index.map(|index| SessionToken { pop: self.way.pop.clone(), index });
        let ask = Recommend {
            visitor: name(visitor),
            slot: slot(),
            count: u16::try_from(ITEMS).unwrap_or(u16::MAX),
            token,
            context: Vec::new(),
            exclude: Vec::new(),
        };
        match self.ask(node, Ask::Recommend(ask)).await? {
            ClientReply::Answer(answer) => Some(answer),
            _ => None,
        }
    }
}

async fn exchange(link: &dyn Link, ask: Ask) -> Option<ClientReply> {
    let deadline_ms = u32::try_from(DEADLINE.as_millis()).unwrap_or(u32::MAX);
    let request = ClientRequest { trace: TraceId::default(), deadline_ms, ask };
    call::<_, ClientReply>(link, &request, ANSWER_WITHIN).await.ok()
}

/// A visitor's name.
pub fn name(visitor: Visitor) -> VisitorId {
    VisitorId::Device(DeviceId::new(format!("v{visitor}")).unwrap_or_else(|error| panic!("{error}")))
}

fn slot() -> SlotId {
    SlotId::new("home").unwrap_or_else(|error| panic!("{error}"))
}

fn item(serial: Serial) -> ItemId {
    ItemId::new(format!("i{serial}")).unwrap_or_else(|error| panic!("{error}"))
}

/// The serial of a click on an item.
pub fn serial(item: &ItemId) -> Option<Serial> {
    item.as_str().strip_prefix('i')?.parse().ok()
}

/// The clicks that a node knew: items of the catalog that it did not offer.
pub fn seen(answer: &Answer) -> Vec<Serial> {
    let offered: BTreeSet<&str> = answer.items.iter().map(|ranked| ranked.item.as_str()).collect();
    (0..ITEMS as u64).filter(|serial| !offered.contains(format!("i{serial}").as_str())).collect()
}

/// Whether an answer shows what its node knew, as its token asked. A node that has no bundle yet offers nothing to anybody.
fn shows(answer: &Answer) -> bool {
    answer.fresh && answer.served_by != ServedBy::Nothing
}

/// Events that are sent together, until they are acknowledged.
#[derive(Clone)]
struct Batch {
    visitor: Visitor,
    events: Vec<(Serial, EventId)>,
    began: Duration,
    /// It was sent, and nobody said what came of it.
    lost: bool,
}

impl Batch {
    fn operation(&self, client: u64, outcome: Outcome) -> Operation {
        let work = Work::Write(self.events.iter().map(|(serial, _)| *serial).collect());
        Operation { client, work, began: self.began, outcome }
    }
}

/// What came of sending a batch once.
enum Sent {
    /// It is counted, at or before this log index.
    Counted(u64),
    /// It surely was not taken.
    Refused,
    /// It may have been.
    Lost,
}

/// A client.
pub struct Client {
    number: u64,
    door: Door,
    watch: Watch,
    random: SmallRng,
    visitor: Visitor,
    serial: Serial,
    /// Log index of its last acknowledged write.
    token: u64,
    /// What is not acknowledged yet.
    pending: Option<Batch>,
}

impl Client {
    /// A client with visitors of its own.
    pub fn new(number: u64, seed: u64, way: Way, watch: Watch) -> Self {
        Self {
            number,
            door: Door::new(way),
            watch,
            random: SmallRng::seed_from_u64(seed ^ (number << 48)),
            visitor: number * 10_000,
            serial: 0,
            token: 0,
            pending: None,
        }
    }

    /// Reads and writes until told to stop, and ends when its last write is acknowledged. False: it was not, in time.
    pub async fn run(mut self, stop: CancellationToken) -> bool {
        while !stop.is_cancelled() {
            sleep(Duration::from_millis(self.random.random_range(1..10))).await;
            match self.random.random_range(0..10) {
                0..=5 => self.write(&stop).await,
                6 => self.read_local().await,
                7 => self.read_session().await,
                _ => self.read_linearizable().await,
            }
        }
        let until = Instant::now() + END_WITHIN;
        while self.pending.is_some() && Instant::now() < until {
            self.write_somewhere().await;
        }
        self.pending.is_none()
    }

    async fn write(&mut self, stop: &CancellationToken) {
        if self.pending.is_none() && self.random.random_ratio(1, COMMON_WRITES) {
            let count = self.random.random_range(1..=3);
            let (visitor, first) = self.watch.common(count, SERIALS_MAX);
            self.begin(visitor, first, count);
        }
        while !self.write_somewhere().await && !stop.is_cancelled() {
            sleep(Duration::from_millis(self.random.random_range(5..100))).await;
            if self.may_give_up() {
                return;
            }
        }
    }

    /// Gives up what others write too, now and then. True: it did.
    fn may_give_up(&mut self) -> bool {
        let common = self.pending.as_ref().is_some_and(|batch| batch.visitor >= SHARED_FROM);
        let gives_up = common && self.random.random_bool(GIVES_UP);
        if gives_up {
            self.give_up();
        }
        gives_up
    }

    /// Does not wait any more for what is not acknowledged. What was sent may still come to be.
    pub fn give_up(&mut self) {
        if let Some(batch) = self.pending.take() {
            let outcome = if batch.lost { Outcome::Unknown } else { Outcome::Refused };
            self.watch.record(batch.visitor, batch.operation(self.number, outcome));
        }
    }

    async fn write_somewhere(&mut self) -> bool {
        match self.watch.any_node(&mut self.random) {
            Some(node) => self.write_through(&node).await,
            None => {
                sleep(Duration::from_millis(20)).await;
                false
            }
        }
    }

    /// Sends what is not acknowledged, or else new events, once. True: acknowledged.
    pub async fn write_through(&mut self, node: &Node) -> bool {
        if self.pending.is_none() {
            self.begin_own();
        }
        let Some(mut batch) = self.pending.take() else { return false };
        match self.track(node, &batch).await {
            Sent::Counted(index) => self.acknowledged(batch, index).await,
            sent => {
                batch.lost |= matches!(sent, Sent::Lost);
                self.pending = Some(batch);
                return false;
            }
        }
        true
    }

    async fn acknowledged(&mut self, batch: Batch, index: u64) {
        self.token = self.token.max(index);
        self.watch.heard(index);
        for (serial, _) in &batch.events {
            self.watch.observe(&Fact::Acknowledged { visitor: batch.visitor, serial: *serial });
        }
        let ended = Outcome::Ended(self.watch.now());
        self.watch.record(batch.visitor, batch.operation(self.number, ended));
        // Networks and SDKs repeat themselves: what was counted must not be counted again, here or elsewhere.
        if self.random.random_bool(0.05)
            && let Some(other) = self.watch.any_node(&mut self.random)
        {
            self.track(&other, &batch).await;
        }
    }

    fn begin_own(&mut self) {
        let count = self.random.random_range(1..=3);
        if self.serial + count > SERIALS_MAX {
            self.visitor += 1;
            self.serial = 0;
        }
        let first = self.serial + 1;
        self.serial += count;
        self.begin(self.visitor, first, count);
    }

    fn begin(&mut self, visitor: Visitor, first: Serial, count: u64) {
        let began = self.watch.now();
        let mut events = Vec::new();
        for serial in first..first + count {
            let id = EventId(uuid::Uuid::now_v7());
            self.watch.observe(&Fact::Sent { visitor, serial, id });
            events.push((serial, id));
        }
        self.pending = Some(Batch { visitor, events, began, lost: false });
    }

    /// Sends a batch once.
    async fn track(&mut self, node: &Node, batch: &Batch) -> Sent {
        let event = |(serial, id): &(Serial, EventId)| Event {
            id: *id,
            visitor: name(batch.visitor),
            at_ms: id.0.get_timestamp().map_or(0, |at| at.to_unix().0 * 1_000),
            trace: TraceId::default(),
            kind: EventKind::Click { item: item(*serial), slot: slot(), answer: None },
        };
        let events: Vec<Event> = batch.events.iter().map(event).collect();
        let len = u32::try_from(events.len()).unwrap_or(u32::MAX);
        match self.door.ask_surely(node, Ask::Track(Track { events })).await {
            None => Sent::Refused,
            Some(Some(ClientReply::Tracked(tracked))) if tracked.accepted + tracked.duplicates == len => {
                Sent::Counted(tracked.token.index)
            }
            // A node at its limit may have sent it on before it found out: that is no refusal.
            Some(Some(ClientReply::Error(error))) if error.code.fault() == proto::Fault::Caller => {
                Sent::Refused
            }
            Some(_) => Sent::Lost,
        }
    }

    async fn read_local(&mut self) {
        let (Some(visitor), Some(node)) = (self.any_visitor(), self.watch.any_node(&mut self.random)) else {
            return;
        };
        let began = self.watch.now();
        let Some(answer) = self.door.offered(&node, visitor, None).await else { return };
        let Some(age_ms) = answer.age_ms.filter(|_| shows(&answer)) else { return };
        // The node says whole milliseconds.
        let age = Some(Duration::from_millis(age_ms + 1));
        self.watch.heard(answer.applied);
        self.observe(&node, visitor, began, Consistency::Local { age }, &answer);
    }

    async fn read_session(&mut self) {
        let (visitor, token) = (self.visitor, self.token);
        let Some(node) = self.watch.any_node(&mut self.random) else { return };
        let began = self.watch.now();
        let Some(answer) = self.door.offered(&node, visitor, Some(token)).await else { return };
        if shows(&answer) {
            self.watch.heard(answer.applied);
            self.observe(&node, visitor, began, Consistency::Session, &answer);
        }
    }

    async fn read_linearizable(&mut self) {
        let visitor = match self.random.random_ratio(1, COMMON_READS) {
            true => Some(self.watch.common_visitor()),
            false => self.any_visitor(),
        };
        let (Some(visitor), Some(node)) = (visitor, self.watch.any_node(&mut self.random)) else { return };
        read_linearizable(&mut self.door, &self.watch, self.number, &node, visitor).await;
    }

    fn observe(&self, node: &Node, visitor: Visitor, began: Duration, consistency: Consistency, a: &Answer) {
        let read = Read { node: node.node, visitor, began, consistency, seen: &seen(a) };
        self.watch.observe(&Fact::Read(read));
    }

    fn any_visitor(&mut self) -> Option<Visitor> {
        self.watch.any_visitor(&mut self.random)
    }
}

/// Reads a visitor at the highest log index that anybody was told of. False: the node did not come there in time.
pub async fn read_linearizable(
    door: &mut Door,
    watch: &Watch,
    client: u64,
    node: &Node,
    visitor: Visitor,
) -> bool {
    let began = watch.now();
    let horizon = watch.horizon();
    let Some(answer) = door.offered(node, visitor, Some(horizon)).await else { return false };
    if !shows(&answer) {
        return false;
    }
    // Before it counts as ended: who begins later reads at least there.
    watch.heard(answer.applied);
    let (seen, consistency) = (seen(&answer), Consistency::Linearizable);
    watch.observe(&Fact::Read(Read { node: node.node, visitor, began, consistency, seen: &seen }));
    let (work, outcome) = (Work::Read(seen.into_iter().collect()), Outcome::Ended(watch.now()));
    watch.record(visitor, Operation { client, work, began, outcome });
    true
}
