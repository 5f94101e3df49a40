//! Asking an origin, once for all who wait for the same (request coalescing). It goes on when who asked first has left.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use proto::purge::{Moment, PurgeKey};
use tokio::sync::{oneshot, watch};

use crate::Inner;
use crate::entry::Entry;
use crate::flow::{Broken, Flow, Reader};
use crate::key::{self, Key};
use crate::origin::{Answer, Origin, OriginError};
use crate::rules::freshness::Exchange;
use crate::rules::reuse::Terms;
use crate::rules::settle::{self, Settled, Stored, settle};
use crate::rules::store::Refused;
use crate::rules::validate;
use crate::rules::vary::{self, Selecting};

/// What a request waits for: a resource, in view of what is known to decide between its variants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct What {
    pub(crate) key: Key,
    pub(crate) selecting: Selecting,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is stored.
    Stored(Arc<Entry>),
    /// It is on its way, and will be stored if it fits.
    Coming(Arc<Entry>, Arc<Flow>),
    /// It was not for others: who asked first has it.
    NotShared(StatusCode),
    /// Something else is stored by now: look again.
    LookAgain,
    /// There was no answer.
    Failed(OriginError),
}

/// One request to an origin, and who waits for it.
#[derive(Debug)]
pub struct Fill {
    what: What,
    /// Since when, in the numbers of purges.
    born: Moment,
    outcome: watch::Sender<Option<Outcome>>,
    /// What was said of the resource may have changed since: it is not stored.
    disowned: AtomicBool,
}

impl Fill {
    fn new(what: What, born: Moment) -> Arc<Self> {
        Arc::new(Self { what, born, outcome: watch::Sender::new(None), disowned: AtomicBool::new(false) })
    }

    /// What became of it.
    pub async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        let came = outcome.wait_for(Option::is_some).await;
        // The sender is in `self`.
        came.ok().and_then(|outcome| outcome.clone()).unwrap_or(Outcome::LookAgain)
    }

    /// Says what became of it, unless that is said already.
    fn decide(&self, outcome: Outcome) {
        self.outcome.send_if_modified(|sent| {
            let first = sent.is_none();
            if first {
                *sent = Some(outcome);
            }
            first
        });
    }
}

/// What is being asked for.
#[derive(Debug, Default)]
pub struct Fills {
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// Those that others may join.
    shared: HashMap<What, Arc<Fill>>,
    apart: Vec<Arc<Fill>>,
}

/// A request's part in a fill.
pub enum Turn {
    /// It is the first, and gets what is not for others.
    Lead(Arc<Fill>),
    /// Another was.
    Wait(Arc<Fill>),
    /// There are as many as there may be.
    Full,
}

impl Fills {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with others, or goes first.
    pub fn join(&self, what: What, born: Moment, len_max: usize) -> Turn {
        let mut running = self.running();
        if let Some(fill) = running.shared.get(&what) {
            return Turn::Wait(Arc::clone(fill));
        }
        if running.len() >= len_max {
            return Turn::Full;
        }
        let fill = Fill::new(what.clone(), born);
        running.shared.insert(what, Arc::clone(&fill));
        Turn::Lead(fill)
    }

    /// One that nobody joins. `None`: there are as many as there may be.
    pub fn apart(&self, key: Key, born: Moment, len_max: usize) -> Option<Arc<Fill>> {
        let mut running = self.running();
        (running.len() < len_max).then(|| {
            let fill = Fill::new(What { key, selecting: Selecting::new() }, born);
            running.apart.push(Arc::clone(&fill));
            fill
        })
    }

    /// Nobody joins it any more.
    pub fn leave(&self, fill: &Arc<Fill>) {
        let mut running = self.running();
        running.apart.retain(|other| !Arc::ptr_eq(other, fill));
        if running.shared.get(&fill.what).is_some_and(|other| Arc::ptr_eq(other, fill)) {
            running.shared.remove(&fill.what);
        }
    }

    /// Nobody joins what was asked for about this resource until now, nor is it stored.
    pub fn disown(&self, key: &Key) {
        let mut running = self.running();
        let of_it = |fill: &&Arc<Fill>| fill.what.key == *key;
        for fill in running.shared.values().chain(&running.apart).filter(of_it) {
            fill.disowned.store(true, Ordering::Release);
        }
        running.shared.retain(|what, _| what.key != *key);
    }

    /// Stores what came of a fill, unless it was disowned. It is not disowned meanwhile: what is stored before is forgotten after.
    fn store(&self, fill: &Fill, store: impl FnOnce()) {
        let _running = self.running();
        if !fill.disowned.load(Ordering::Acquire) {
            store();
        }
    }
}

impl Running {
    fn len(&self) -> usize {
        self.shared.len() + self.apart.len()
    }
}

/// What only the first who asked gets.
pub enum First {
    /// What is not for others.
    Answer(Answer),
    /// What is for others, too, from its beginning on: that may be gone when it looks.
    Reader(Reader),
    /// What was stored, as a 304 says that it holds for this one.
    Confirmed(Arc<Entry>),
}

/// What a fill asks.
pub struct Question {
    pub(crate) origin: Arc<Origin>,
    /// The request's header, without what is for one connection only.
    pub(crate) headers: HeaderMap,
    /// What was stored when it was asked: it may still hold.
    pub(crate) stored: Option<Arc<Entry>>,
    /// Whether it is tried again: where nothing can stand in.
    pub(crate) again: bool,
    /// Whether it is looked first if it is stored by now.
    pub(crate) look: bool,
}

impl Inner {
    /// Runs a fill to its end; who asked first gets its part through `first`.
    pub(crate) async fn fill(
        self: Arc<Self>,
        fill: Arc<Fill>,
        question: Question,
        first: oneshot::Sender<First>,
    ) {
        let stored = question.look && self.look_again(&fill, &question).await;
        let outcome = match stored {
            true => Ok(Outcome::LookAgain),
            false => self.ask(&fill, question, first).await,
        };
        fill.decide(outcome.unwrap_or_else(Outcome::Failed));
        self.fills.leave(&fill);
    }

    /// Whether something is stored by now that was not: by another fill, or on disk since a life before.
    async fn look_again(&self, fill: &Fill, question: &Question) -> bool {
        let key = &fill.what.key;
        let (known, headers) = (self.ledger.known(), &question.headers);
        let newer = |entry: &Arc<Entry>| {
            !entry.is_void(&known.purges, known.upto)
                && question.stored.as_ref().is_none_or(|stored| !Arc::ptr_eq(stored, entry))
        };
        if self.memory.get(key).is_some_and(|variants| variants.find(headers).is_some_and(newer)) {
            return true;
        }
        let (Some(disk), None) = (&self.disk, &question.stored) else { return false };
        let (disk, wanted) = (Arc::clone(disk), key.clone());
        let found = tokio::task::spawn_blocking(move || disk.find(&wanted)).await.unwrap_or_default();
        let mut again = false;
        for entry in found.iter().filter(|entry| !entry.is_void(&known.purges, known.upto)) {
            self.fills.store(fill, || self.keep_in_memory(key, Arc::clone(entry)));
            again |= vary::fits(headers, &entry.selecting);
        }
        again
    }

    async fn ask(
        &self,
        fill: &Arc<Fill>,
        question: Question,
        first: oneshot::Sender<First>,
    ) -> Result<Outcome, OriginError> {
        let Question { origin, headers, stored, again, .. } = question;
        let mut asked = headers.clone();
        let validating =
            stored.as_ref().is_some_and(|stored| validate::ask_if_changed(&mut asked, &stored.headers));
        if !validating {
            validate::ask_for_all(&mut asked);
        }
        let target = fill.what.key.target();
        let mut answer = origin.ask(&Method::GET, target, asked, again).await?;
        let about = stored.as_deref().filter(|_| validating);
        let mut settled = settled(&headers, about, &answer);
        if settled == Settled::OfAnother {
            // Its place at the origin is for who asks next: here, or another.
            drop(answer);
            let mut asked = headers.clone();
            validate::ask_for_all(&mut asked);
            answer = origin.ask(&Method::GET, target, asked, again).await?;
            settled = self::settled(&headers, None, &answer);
        }
        let may = match settled {
            Settled::Confirmed { headers: refreshed, stored: may, forget } => {
                let entry = about.map(|stored| confirmed(fill, stored, &headers, refreshed, answer.exchange));
                let Some(entry) = entry.map(Arc::new) else { return Ok(Outcome::LookAgain) };
                return Ok(self.confirm(fill, entry, may, forget, first));
            }
            Settled::New { stored: may } => may,
            Settled::OfAnother => Err(Refused::Status),
        };
        Ok(self.take_in(fill, &origin, &headers, answer, may, first).await)
    }

    /// Runs a fill whose answer has come already: that of POST, which may be stored.
    pub(crate) async fn keep_posted(
        self: Arc<Self>,
        fill: Arc<Fill>,
        origin: Arc<Origin>,
        headers: HeaderMap,
        answer: Answer,
        first: oneshot::Sender<First>,
    ) {
        let outcome = self.take_in(&fill, &origin, &headers, answer, Ok(()), first).await;
        fill.decide(outcome);
        self.fills.leave(&fill);
    }

    /// Stores a response of its own, if it may be and fits: else it is for the one who asked.
    async fn take_in(
        &self,
        fill: &Arc<Fill>,
        origin: &Origin,
        headers: &HeaderMap,
        answer: Answer,
        may: Result<(), Refused>,
        first: oneshot::Sender<First>,
    ) -> Outcome {
        let status = answer.response.status();
        let known_by = known_by(&fill.what.key, answer.response.headers());
        let len = answer.response.body().size_hint().exact();
        let large = len.is_some_and(|len| len > self.config.object_bytes_max);
        let (Ok(()), Some(known_by), false) = (may, known_by, large) else {
            tracing::debug!(key = %fill.what.key, ?may, large, "not stored");
            drop(first.send(First::Answer(answer)));
            return Outcome::NotShared(status);
        };
        let idle = Duration::from_millis(origin.config.idle_ms);
        self.share(fill, headers, known_by, idle, answer, first).await
    }

    /// What is stored still holds, as a 304 says: for all, or for the one who asked.
    fn confirm(
        &self,
        fill: &Fill,
        entry: Arc<Entry>,
        may: Result<(), Refused>,
        forget: bool,
        first: oneshot::Sender<First>,
    ) -> Outcome {
        let key = &fill.what.key;
        self.fills.store(fill, || {
            if forget {
                self.drop_stored(key);
            }
            if may.is_ok() {
                self.keep(key, Arc::clone(&entry));
            }
        });
        match may {
            Ok(()) => Outcome::Stored(entry),
            Err(refused) => {
                tracing::debug!(%key, ?refused, "not stored any more");
                drop(first.send(First::Confirmed(entry)));
                Outcome::NotShared(StatusCode::NOT_MODIFIED)
            }
        }
    }

    /// Lets all who wait read a response as it comes, and stores it when all of it has come.
    async fn share(
        &self,
        fill: &Arc<Fill>,
        headers: &HeaderMap,
        known_by: Vec<PurgeKey>,
        idle: Duration,
        answer: Answer,
        first: oneshot::Sender<First>,
    ) -> Outcome {
        let Answer { exchange, response, place } = answer;
        let (head, body) = response.into_parts();
        let selecting = vary::selecting(headers, &head.headers);
        let terms = Terms::of(head.status, &head.headers, exchange);
        let entry = Entry {
            status: head.status,
            headers: head.headers,
            exchange,
            terms,
            selecting,
            known_by,
            born: fill.born,
            body: Bytes::new(),
        };
        self.solo.invalidate(&fill.what.key);
        let kept_max = usize::try_from(self.config.object_bytes_max).unwrap_or(usize::MAX);
        let coming = Coming { entry: Arc::new(entry), flow: Flow::new(kept_max), idle };
        if let Some(reader) = coming.flow.read() {
            // Who asked first may have left.
            drop(first.send(First::Reader(reader)));
        }
        let outcome = Outcome::Coming(Arc::clone(&coming.entry), Arc::clone(&coming.flow));
        fill.outcome.send_replace(Some(outcome.clone()));
        if let Some(entry) = coming.take_in(body).await {
            self.fills.store(fill, || self.keep(&fill.what.key, entry));
        }
        drop(place);
        outcome
    }

    /// Stores a response in both tiers.
    fn keep(&self, key: &Key, entry: Arc<Entry>) {
        self.keep_in_memory(key, Arc::clone(&entry));
        if let Some(disk) = &self.disk {
            disk.put(key, entry);
        }
    }

    pub(crate) fn keep_in_memory(&self, key: &Key, entry: Arc<Entry>) {
        self.memory.entry_by_ref(key).and_upsert_with(|present| {
            let present = present.map(moka::Entry::into_value).unwrap_or_default();
            Arc::new(present.with(entry))
        });
    }

    /// Forgets a resource here: what was said of it may have changed.
    pub(crate) fn forget(&self, key: &Key) {
        self.fills.disown(key);
        self.drop_stored(key);
    }

    fn drop_stored(&self, key: &Key) {
        self.memory.invalidate(key);
        if let Some(disk) = &self.disk {
            disk.remove(key);
        }
    }
}

/// A body on its way.
struct Coming {
    entry: Arc<Entry>,
    flow: Arc<Flow>,
    idle: Duration,
}

impl Coming {
    /// Lets who waits read it as it comes. The whole, if it ended well and was not too large.
    async fn take_in(&self, mut body: Incoming) -> Option<Arc<Entry>> {
        let end = loop {
            let frame = match tokio::time::timeout(self.idle, body.frame()).await {
                Ok(None) => break Ok(()),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) => break Err(Broken),
            };
            // Trailers are not stored (RFC 9111, 3.1 lets them go).
            let Ok(data) = frame.into_data() else { continue };
            if !data.is_empty() && !self.flow.push(data).await {
                break Err(Broken);
            }
        };
        self.flow.end(end);
        let pieces = self.flow.whole()?;
        let mut entry = (*self.entry).clone();
        entry.body = match <[Bytes; 1]>::try_from(pieces) {
            // A copy: the piece is a part of the connection's larger buffer.
            Ok([piece]) => Bytes::copy_from_slice(&piece),
            Err(pieces) => {
                let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        };
        entry.headers.insert(CONTENT_LENGTH, HeaderValue::from(entry.body.len()));
        Some(Arc::new(entry))
    }
}

/// Under what a response is purged. `None`: it has more tags than are kept.
fn known_by(key: &Key, headers: &HeaderMap) -> Option<Vec<PurgeKey>> {
    let mut known_by = key::tags(headers)?;
    known_by.push(key.purge_key());
    Some(known_by)
}

fn settled(request: &HeaderMap, about: Option<&Entry>, answer: &Answer) -> Settled {
    let about = about.map(|entry| Stored {
        status: entry.status,
        headers: &entry.headers,
        selecting: &entry.selecting,
    });
    settle(request, about, answer.response.status(), answer.response.headers())
}

/// What is stored, under the header that a 304 gives it.
fn confirmed(
    fill: &Fill,
    stored: &Entry,
    request: &HeaderMap,
    headers: HeaderMap,
    exchange: Exchange,
) -> Entry {
    Entry {
        status: stored.status,
        terms: Terms::of(stored.status, &headers, exchange),
        selecting: settle::selecting(request, &headers, &stored.selecting),
        known_by: known_by(&fill.what.key, &headers).unwrap_or_else(|| stored.known_by.clone()),
        headers,
        exchange,
        born: fill.born,
        body: stored.body.clone(),
    }
}
