//! A PoP for tests: nodes that speak `proto::client` over any listener, count events as a real PoP does, and
//! misbehave to order.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use client_sdk::{Client, Config, EventKind, ItemId, SlotRequest, Trust, UserId, VisitorId};
use proto::client::{
    Answer, Ask, ClientReply, ClientRequest, Degraded, DetailedAnswer, DetailedRecommend, ItemDetails,
    Ranked, Reason, Recommend, ServedBy, SessionOpened, Track, Tracked,
};
use proto::{AnswerId, Code, ErrorReply, Event, EventId, NodeId, PopId, Revision, SessionToken, TraceId};
use transport::memory::{MemoryListener, Network, Settings};
use transport::{Door, Identity, Link, Listener, Stream};

pub const APP_KEY: &str = "the app's key";
/// Longer than anything here takes on a busy machine: reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a node treats a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Manner {
    /// As it should.
    Serve,
    /// Never answers.
    Silent,
    /// Answers with this error.
    Refuse(ErrorReply),
    /// Refuses so many times, then serves.
    RefuseTimes(u32, ErrorReply),
    /// Does what is asked, and gives the stream up instead of answering, so many times; then serves.
    LoseReplies(u32),
}

/// What a node was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub node: u64,
    pub trace: TraceId,
    pub recommend: Recommend,
}

#[derive(Debug, Default)]
struct State {
    manners: BTreeMap<u64, Manner>,
    /// Every event counted, in the order it was first seen.
    events: Vec<Event>,
    seen: HashSet<EventId>,
    duplicates: u64,
    batches: Vec<usize>,
    asked: Vec<Asked>,
    sessions: Vec<u64>,
    /// Requests that came before a session was open on their connection.
    unannounced: u64,
    addresses: Vec<String>,
}

/// What the nodes of the PoP share. Clones are the same PoP.
#[derive(Debug, Clone, Default)]
pub struct Pop {
    state: Arc<Mutex<State>>,
}

impl Pop {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on the node behaves like this.
    pub fn set(&self, node: u64, manner: Manner) {
        self.lock().manners.insert(node, manner);
    }

    /// Says these addresses to clients that open a session.
    pub fn announce(&self, addresses: Vec<String>) {
        self.lock().addresses = addresses;
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    pub fn event_ids(&self) -> Vec<EventId> {
        self.lock().events.iter().map(|event| event.id).collect()
    }

    pub fn duplicates(&self) -> u64 {
        self.lock().duplicates
    }

    pub fn batches(&self) -> Vec<usize> {
        self.lock().batches.clone()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    pub fn sessions(&self) -> Vec<u64> {
        self.lock().sessions.clone()
    }

    pub fn unannounced(&self) -> u64 {
        self.lock().unannounced
    }

    /// Serves until the listener ends.
    pub async fn serve(self, node: u64, listener: Arc<dyn Listener>) {
        while let Some(link) = listener.accept().await {
            tokio::spawn(self.clone().serve_link(node, link));
        }
    }

    async fn serve_link(self, node: u64, link: Arc<dyn Link>) {
        let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
        while let Ok(stream) = link.accept().await {
            let (pop, open) = (self.clone(), Arc::clone(&open));
            tokio::spawn(async move { pop.serve_stream(node, stream, &open).await });
        }
        // Letting go of the link would tell the client; a node that was killed says nothing.
        std::future::pending::<()>().await;
    }

    async fn serve_stream(&self, node: u64, mut stream: Stream, open: &std::sync::atomic::AtomicBool) {
        let Ok(request) = stream.recv::<ClientRequest>().await else { return };
        let is_session = matches!(request.ask, Ask::Session(_));
        if !is_session && !open.load(std::sync::atomic::Ordering::SeqCst) {
            self.lock().unannounced += 1;
        }
        let about_items =
            matches!(request.ask, Ask::Recommend(_) | Ask::RecommendDetailed(_) | Ask::Track(_));
        let manner = if about_items { self.manner(node) } else { Manner::Serve };
        let reply = match manner {
            Manner::Silent => return std::future::pending().await,
            Manner::Refuse(reply) | Manner::RefuseTimes(_, reply) => {
                if let Ask::Recommend(recommend) = request.ask {
                    self.lock().asked.push(Asked { node, trace: request.trace, recommend });
                }
                ClientReply::Error(reply)
            }
            Manner::LoseReplies(_) => {
                self.answer(node, request);
                return stream.reset(Code::Unavailable);
            }
            Manner::Serve => self.answer(node, request),
        };
        if matches!(reply, ClientReply::Session(_)) {
            open.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }

    /// How the node treats this request; what holds for so many times is counted down.
    fn manner(&self, node: u64) -> Manner {
        let mut state = self.lock();
        let manner = state.manners.entry(node).or_insert(Manner::Serve);
        let now = manner.clone();
        match manner {
            Manner::RefuseTimes(times, _) | Manner::LoseReplies(times) if *times > 1 => *times -= 1,
            Manner::RefuseTimes(..) | Manner::LoseReplies(_) => *manner = Manner::Serve,
            _ => {}
        }
        now
    }

    fn answer(&self, node: u64, request: ClientRequest) -> ClientReply {
        let mut state = self.lock();
        match request.ask {
            Ask::Ping => ClientReply::Pong,
            Ask::Session(session) if session.app_key != APP_KEY => {
                ClientReply::Error(ErrorReply::new(Code::Unauthenticated, "unknown app key"))
            }
            Ask::Session(_) => {
                state.sessions.push(node);
                let nodes = state.addresses.clone();
                ClientReply::Session(SessionOpened { pop: pop_id(), node: NodeId(node), nodes })
            }
            Ask::Recommend(recommend) => {
                let answer = answer(&recommend, request.trace);
                state.asked.push(Asked { node, trace: request.trace, recommend });
                ClientReply::Answer(answer)
            }
            Ask::RecommendDetailed(DetailedRecommend { recommend, fields }) => {
                let answer = answer(&recommend, request.trace);
                let title = |item: &Ranked| {
                    fields.contains(&"title".to_owned()).then(|| format!("The {}", item.item))
                };
                let of = |item| ItemDetails { title: title(item), ..ItemDetails::default() };
                let details = answer.items.iter().map(of).collect();
                ClientReply::Detailed(DetailedAnswer { answer, degraded: vec![Degraded::Shed], details })
            }
            Ask::Track(track) => state.track(track),
        }
    }
}

impl State {
    fn track(&mut self, track: Track) -> ClientReply {
        self.batches.push(track.events.len());
        // A name that begins so is what no node will ever take.
        let poison = |event: &&Event| matches!(&event.kind, EventKind::Custom { name, .. } if name.starts_with("poison"));
        if let Some(event) = track.events.iter().find(poison) {
            return ClientReply::Error(ErrorReply::new(Code::Invalid, format!("event {}: poison", event.id)));
        }
        let (mut accepted, mut duplicates) = (0, 0);
        for event in track.events {
            if self.seen.insert(event.id) {
                self.events.push(event);
                accepted += 1;
            } else {
                duplicates += 1;
            }
        }
        self.duplicates += u64::from(duplicates);
        let token = SessionToken { pop: pop_id(), index: self.events.len() as u64 };
        ClientReply::Tracked(Tracked { token, accepted, duplicates })
    }
}

fn answer(recommend: &Recommend, trace: TraceId) -> Answer {
    let item = |n: u16| Ranked {
        item: ItemId::new(format!("item-{n}")).unwrap(),
        score: 1.0 / (f32::from(n) + 1.0),
        reason: Reason::Popular,
    };
    Answer {
        id: AnswerId(uuid::Uuid::from_u128(trace.0)),
        items: (0..recommend.count).map(item).collect(),
        served_by: ServedBy::Popular,
        retrieval: None,
        ranker: None,
        revision: Revision(1),
        applied: 0,
        fresh: true,
        age_ms: Some(0),
    }
}

pub fn pop_id() -> PopId {
    PopId::new("pop-a").unwrap()
}

pub fn visitor(name: &str) -> VisitorId {
    VisitorId::User(UserId::new(name).unwrap())
}

pub fn home(visitor: &VisitorId) -> SlotRequest {
    SlotRequest::new(visitor.clone(), "home".parse().unwrap()).count(3).deadline(PATIENCE)
}

pub fn custom(name: &str) -> EventKind {
    EventKind::Custom { name: name.to_owned(), attributes: Vec::new() }
}

/// A PoP on an in-memory network: node n listens at `node-n:client`.
pub struct MemoryPop {
    pub network: Network,
    pub pop: Pop,
    listeners: Vec<Arc<MemoryListener>>,
}

impl MemoryPop {
    /// Nodes 1 to n with default settings.
    pub fn new(nodes: u64) -> Self {
        Self::with(&vec![Settings::default(); usize::try_from(nodes).unwrap()])
    }

    /// One node for each of these settings.
    pub fn with(settings: &[Settings]) -> Self {
        let mut memory = Self { network: Network::new(7), pop: Pop::default(), listeners: Vec::new() };
        for (node, settings) in (1..).zip(settings) {
            memory.start(node, settings.clone());
        }
        memory
    }

    /// Starts a node (again).
    pub fn start(&mut self, node: u64, settings: Settings) {
        let identity = Identity::Node { pop: pop_id(), node: NodeId(node) };
        let listener = self.network.listener_with(&address(node), identity, Door::Clients, settings).unwrap();
        let listener = Arc::new(listener);
        self.listeners.push(Arc::clone(&listener));
        tokio::spawn(self.pop.clone().serve(node, listener));
    }

    /// A configuration for these nodes, with times that suit tests.
    pub fn config(&self, nodes: &[u64]) -> Config {
        let nodes = nodes.iter().map(|node| address(*node)).collect();
        let mut config = Config::new(nodes, "edge.pop-a.rockpool.internal", Trust::OfDialer, APP_KEY);
        config.timing.connect_timeout_ms = 5_000;
        config.timing.backoff_base_ms = 10;
        config.timing.backoff_max_ms = 100;
        config.timing.delivery_timeout_ms = 500;
        config
    }

    pub async fn client(&self, nodes: &[u64]) -> Client {
        self.client_with(self.config(nodes)).await
    }

    pub async fn client_with(&self, config: Config) -> Client {
        self.try_client(config).await.unwrap()
    }

    pub async fn try_client(&self, config: Config) -> Result<Client, client_sdk::SdkError> {
        Client::connect_with(Arc::new(self.network.dialer("app", None)), config).await
    }
}

pub fn address(node: u64) -> String {
    format!("node-{node}:client")
}

/// The node that a client prefers.
pub fn preferred(client: &Client) -> u64 {
    let address = client.node().expect("a node is preferred");
    address.trim_start_matches("node-").trim_end_matches(":client").parse().unwrap()
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}
