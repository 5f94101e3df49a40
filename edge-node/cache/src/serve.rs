//! One request for content on one page: look up → judge → answer, or ask the origin with all who want the same → answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LOCATION, LOCATION, RANGE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use crate::answer::{self, Did, Forwarded};
use crate::body::CacheBody;
use crate::entry::Entry;
use crate::fill::{Fill, First, Outcome, Question, Turn, What};
use crate::flow::Reader;
use crate::key::Key;
use crate::origin::{Answer, Origin, OriginError, RequestBody, nothing};
use crate::rules::reuse::{Judged, Reuse, asked, judge};
use crate::rules::store::answers_get;
use crate::rules::{forward, framing, validate, vary};
use crate::{Cache, Failure, Inner};

/// How often a request looks again, when what it waited for turned out not to be for it.
const LOOKS_MAX: usize = 4;

/// What is stored for a request, and what may be done with it.
type Found = (Arc<Entry>, Judged);

/// A request for content.
#[derive(Debug)]
struct Asked {
    origin: Arc<Origin>,
    key: Key,
    method: Method,
    /// As its origin would get them.
    headers: HeaderMap,
}

impl Asked {
    /// The header that its origin gets, with a body or without.
    fn for_origin(&self, with_body: bool) -> HeaderMap {
        let mut headers = self.headers.clone();
        if !with_body {
            forward::without_body(&mut headers);
        }
        headers
    }

    /// Whether it may be answered from here: else its preconditions are the origin's to judge.
    fn may_be_here(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD) && !validate::is_for_origin(&self.headers)
    }
}

/// What became of a request at once.
pub enum Looked {
    /// It is answered from here.
    Hit(Response<CacheBody>),
    /// [`Cache::ask`] answers it.
    Ask(Wanted),
}

/// A request that is not answered from here at once.
#[derive(Debug)]
pub struct Wanted(Asked);

impl Cache {
    /// Answers a request for what lies at `target` (path and query, from the origin's own path on).
    ///
    /// # Errors
    /// Where there is no such origin, or it gives no answer and nothing stored may stand in.
    pub async fn serve(
        &self,
        origin: &str,
        target: &str,
        from: Option<IpAddr>,
        request: Request<RequestBody>,
    ) -> Result<Response<CacheBody>, Failure> {
        let (head, body) = request.into_parts();
        match self.look(origin, target, from, head.method, head.headers)? {
            Looked::Hit(response) => Ok(response),
            Looked::Ask(wanted) => self.ask(wanted, body).await,
        }
    }

    /// Answers a request if what is stored may be its answer as it is: most are, and need nothing that waits.
    ///
    /// # Errors
    /// Where there is no such origin, or no such path.
    pub fn look(
        &self,
        origin: &str,
        target: &str,
        from: Option<IpAddr>,
        method: Method,
        mut headers: HeaderMap,
    ) -> Result<Looked, Failure> {
        let inner = &self.inner;
        let named = inner.origins.get(origin).ok_or_else(|| Failure::NoOrigin(origin.to_owned()));
        let keyed =
            named.and_then(|origin| Ok((Arc::clone(origin), origin.key(target).ok_or(Failure::Target)?)));
        let (origin, key) = keyed.inspect_err(|_| inner.metrics.count("error"))?;
        if framing::changes_content(&headers) {
            inner.metrics.count("error");
            return Err(Failure::Coding);
        }
        forward::pass_on(&mut headers, from);
        let asked = Asked { origin, key, method, headers };
        if asked.may_be_here() {
            let found = inner.find(&asked).filter(|(_, judged)| judged.reuse == Reuse::Fresh);
            if let Some((entry, judged)) = found {
                return Ok(Looked::Hit(inner.hit(&asked, &entry, &judged, None)));
            }
        }
        Ok(Looked::Ask(Wanted(asked)))
    }

    /// Answers what was not answered at once.
    ///
    /// # Errors
    /// Where the origin gives no answer and nothing stored may stand in.
    pub async fn ask(&self, wanted: Wanted, body: RequestBody) -> Result<Response<CacheBody>, Failure> {
        let (inner, Wanted(asked)) = (&self.inner, wanted);
        let answered = match asked.method {
            Method::CONNECT | Method::TRACE => Err(Failure::Method),
            Method::GET | Method::HEAD if !asked.may_be_here() => {
                inner.pass(&asked, nothing(), Forwarded::Request).await
            }
            Method::GET => inner.get(&asked).await,
            Method::HEAD => inner.head(&asked).await,
            _ => inner.pass(&asked, body, Forwarded::Method).await,
        };
        answered.inspect_err(|_| inner.metrics.count("error"))
    }
}

impl Inner {
    /// HEAD is answered as GET is from what is stored, and passed on where nothing is: a body that nobody wants is not fetched. Where the
    /// origin gives no answer, there may still be something on disk.
    async fn head(self: &Arc<Self>, asked: &Asked) -> Result<Response<CacheBody>, Failure> {
        if self.find(asked).is_some() || self::asked(&asked.headers).only_if_cached {
            return self.get(asked).await;
        }
        match self.pass(asked, nothing(), Forwarded::Method).await {
            Err(Failure::Origin(_)) => self.get(asked).await,
            passed => passed,
        }
    }

    async fn get(self: &Arc<Self>, asked: &Asked) -> Result<Response<CacheBody>, Failure> {
        let mut alone = false;
        for _ in 0..LOOKS_MAX {
            let found = self.find(asked);
            if let Some((entry, judged)) = &found {
                match judged.reuse {
                    Reuse::Fresh => return Ok(self.hit(asked, entry, judged, None)),
                    Reuse::Stale => return Ok(self.hit(asked, entry, judged, Some("max-stale"))),
                    Reuse::WhileRevalidating => {
                        self.refresh(asked, entry);
                        return Ok(self.hit(asked, entry, judged, Some("stale-while-revalidate")));
                    }
                    Reuse::Revalidate => {}
                }
            }
            let wish = self::asked(&asked.headers);
            if wish.only_if_cached {
                return Err(Failure::NotCached);
            }
            // Who wants what is newer than now does not wait for what was asked for before.
            alone |= wish.no_store || found.as_ref().is_some_and(|(_, judged)| judged.asked);
            alone |= wish.no_cache || self.solo.contains_key(&asked.key);
            let (why, stored) = (self.why(asked, found.as_ref()), found.as_ref().map(|(entry, _)| entry));
            let turn = if alone { None } else { Some(self.join(asked, stored)?) };
            let answered = match turn {
                None => return self.alone(asked, found.as_ref(), why).await,
                Some(Turn::Lead(fill)) => self.lead(asked, found.as_ref(), why, fill, true).await,
                Some(Turn::Wait(fill)) => {
                    self.metrics.coalesced.inc();
                    let outcome = fill.outcome().await;
                    alone = matches!(outcome, Outcome::NotShared(_));
                    self.waited(asked, found.as_ref(), why, outcome)
                }
                Some(Turn::Full) => return Err(Failure::Full),
            };
            if let Some(response) = answered? {
                return Ok(response);
            }
        }
        self.pass(asked, nothing(), Forwarded::Bypass).await
    }

    /// What is stored for such a request, and what may be done with it.
    fn find(&self, asked: &Asked) -> Option<Found> {
        let known = self.ledger.known();
        let variants = self.memory.get(&asked.key)?;
        let entry = variants.find(&asked.headers)?;
        if entry.is_void(&known.purges, known.upto) {
            return None;
        }
        let mut judged = judge(&asked.headers, &entry.terms, SystemTime::now(), self.habits);
        if !known.certain && !matches!(judged.reuse, Reuse::Revalidate) {
            // It may have been purged without this node's knowledge: whoever can say so is asked.
            judged.reuse = Reuse::Revalidate;
        }
        Some((Arc::clone(entry), judged))
    }

    fn why(&self, asked: &Asked, found: Option<&Found>) -> Forwarded {
        match found {
            Some((_, judged)) if judged.asked => Forwarded::Request,
            Some(_) => Forwarded::Stale,
            None if self.memory.contains_key(&asked.key) => Forwarded::VaryMiss,
            None => Forwarded::UriMiss,
        }
    }

    fn join(&self, asked: &Asked, stored: Option<&Arc<Entry>>) -> Result<Turn, Failure> {
        // What decides between variants is known from any of them.
        let nominating = stored.cloned().or_else(|| self.memory.get(&asked.key)?.newest().cloned());
        let selecting =
            nominating.map(|entry| vary::selecting(&asked.headers, &entry.headers)).unwrap_or_default();
        let what = What { key: asked.key.clone(), selecting };
        let born = self.ledger.known().upto + 1;
        Ok(self.fills.join(what, born, self.config.fetches_max))
    }

    /// Asks the origin, for this request and whoever joins.
    async fn lead(
        self: &Arc<Self>,
        asked: &Asked,
        found: Option<&Found>,
        why: Forwarded,
        fill: Arc<Fill>,
        look: bool,
    ) -> Result<Option<Response<CacheBody>>, Failure> {
        let question = Question {
            origin: Arc::clone(&asked.origin),
            headers: asked.for_origin(false),
            stored: found.map(|(entry, _)| Arc::clone(entry)),
            again: !found.is_some_and(|(_, judged)| judged.if_gone),
            look,
        };
        let (first, own) = oneshot::channel();
        self.tasks.spawn(Arc::clone(self).fill(Arc::clone(&fill), question, first));
        self.led(asked, found, why, fill.outcome().await, own).await
    }

    /// Asks the origin whether what is stored still holds, while that is served.
    fn refresh(self: &Arc<Self>, asked: &Asked, entry: &Arc<Entry>) {
        if let Ok(Turn::Lead(fill)) = self.join(asked, Some(entry)) {
            let (origin, headers) = (Arc::clone(&asked.origin), asked.for_origin(false));
            let question =
                Question { origin, headers, stored: Some(Arc::clone(entry)), again: false, look: true };
            self.tasks.spawn(Arc::clone(self).fill(fill, question, oneshot::channel().0));
        }
    }

    /// What the one gets for whom the origin was asked.
    async fn led(
        self: &Arc<Self>,
        asked: &Asked,
        found: Option<&Found>,
        why: Forwarded,
        outcome: Outcome,
        own: oneshot::Receiver<First>,
    ) -> Result<Option<Response<CacheBody>>, Failure> {
        match outcome {
            Outcome::NotShared(status) => {
                if let Some(stale) = self.instead(asked, found, status) {
                    return Ok(Some(stale));
                }
                self.solo.insert(asked.key.clone(), ());
                match own.await {
                    Ok(First::Answer(answer)) => self.own(asked, answer, why).await.map(Some),
                    Ok(First::Confirmed(entry)) => Ok(Some(self.validated(asked, &entry, why, false))),
                    Ok(First::Reader(_)) | Err(_) => Ok(None),
                }
            }
            Outcome::LookAgain => Ok(None),
            Outcome::Failed(error) => self.failed(asked, found, error).map(Some),
            Outcome::Stored(entry) => Ok(Some(self.validated(asked, &entry, why, true))),
            Outcome::Coming(head, _) => {
                if let Some(stale) = self.instead(asked, found, head.status) {
                    return Ok(Some(stale));
                }
                let Ok(First::Reader(reader)) = own.await else { return Ok(None) };
                Ok(Some(self.arriving(asked, &head, reader, why, false)))
            }
        }
    }

    /// What one gets who has waited for it.
    fn waited(
        &self,
        asked: &Asked,
        found: Option<&Found>,
        why: Forwarded,
        outcome: Outcome,
    ) -> Result<Option<Response<CacheBody>>, Failure> {
        let known = self.ledger.known();
        let is_for = |entry: &Entry| {
            let judged = judge(&asked.headers, &entry.terms, SystemTime::now(), self.habits);
            !entry.is_void(&known.purges, known.upto)
                && vary::fits(&asked.headers, &entry.selecting)
                && judged.reuse != Reuse::Revalidate
        };
        match outcome {
            Outcome::Failed(error) => self.failed(asked, found, error).map(Some),
            Outcome::NotShared(status) => Ok(self.instead(asked, found, status)),
            Outcome::Coming(head, flow) if is_for(&head) => {
                Ok(flow.read().map(|reader| self.arriving(asked, &head, reader, why, true)))
            }
            Outcome::Coming(head, _) => Ok(self.instead(asked, found, head.status)),
            Outcome::Stored(entry) if is_for(&entry) => Ok(Some(self.validated(asked, &entry, why, true))),
            Outcome::Stored(_) | Outcome::LookAgain => Ok(None),
        }
    }

    fn hit(
        &self,
        asked: &Asked,
        entry: &Entry,
        judged: &Judged,
        detail: Option<&'static str>,
    ) -> Response<CacheBody> {
        let did = Did::Hit { ttl_s: judged.ttl_s, detail };
        self.count(did);
        answer::stored(&asked.method, &asked.headers, entry, judged, did)
    }

    /// The origin has said that it still holds.
    fn validated(&self, asked: &Asked, entry: &Entry, why: Forwarded, stored: bool) -> Response<CacheBody> {
        let judged = judge(&asked.headers, &entry.terms, SystemTime::now(), self.habits);
        let status = Some(StatusCode::NOT_MODIFIED);
        let did = Did::Forwarded { why, status, stored, collapsed: false, detail: None };
        self.count(did);
        answer::stored(&asked.method, &asked.headers, entry, &judged, did)
    }

    fn arriving(
        &self,
        asked: &Asked,
        head: &Entry,
        reader: Reader,
        why: Forwarded,
        collapsed: bool,
    ) -> Response<CacheBody> {
        let did = Did::Forwarded { why, status: Some(head.status), stored: true, collapsed, detail: None };
        self.count(did);
        answer::coming(&asked.method, &asked.headers, head, reader, did)
    }

    /// What is stored, where the origin gives an error and that is allowed (RFC 5861, 4).
    fn instead(
        &self,
        asked: &Asked,
        found: Option<&Found>,
        status: StatusCode,
    ) -> Option<Response<CacheBody>> {
        let (entry, judged) = found.filter(|(_, judged)| judged.if_error)?;
        matches!(status.as_u16(), 500 | 502 | 503 | 504)
            .then(|| self.hit(asked, entry, judged, Some("stale-if-error")))
    }

    /// What is stored, where the origin cannot be reached and that is allowed.
    fn failed(
        &self,
        asked: &Asked,
        found: Option<&Found>,
        error: OriginError,
    ) -> Result<Response<CacheBody>, Failure> {
        match found {
            Some((entry, judged)) if judged.if_gone => Ok(self.hit(asked, entry, judged, Some("offline"))),
            _ => Err(Failure::Origin(error)),
        }
    }

    /// Asks the origin for this request only.
    async fn alone(
        self: &Arc<Self>,
        asked: &Asked,
        found: Option<&Found>,
        why: Forwarded,
    ) -> Result<Response<CacheBody>, Failure> {
        if !(asked.headers.contains_key(RANGE) && found.is_none()) {
            let born = self.ledger.known().upto + 1;
            let fill =
                self.fills.apart(asked.key.clone(), born, self.config.fetches_max).ok_or(Failure::Full)?;
            if let Some(response) = self.lead(asked, found, why, fill, false).await? {
                return Ok(response);
            }
        }
        self.pass(asked, nothing(), why).await
    }

    /// What the origin sent for this request alone. It was asked for all of it.
    async fn own(
        self: &Arc<Self>,
        asked: &Asked,
        answer: Answer,
        why: Forwarded,
    ) -> Result<Response<CacheBody>, Failure> {
        let Answer { response, place, .. } = answer;
        let (head, body) = response.into_parts();
        let (mut headers, from_origin) = (head.headers, head.status);
        let len = answer::content_length(&headers);
        let cut = answer::cut(&asked.method, &asked.headers, from_origin, &mut headers, len);
        if from_origin == StatusCode::OK && cut.status == StatusCode::PARTIAL_CONTENT {
            // Of what is not stored only the part is fetched.
            drop((body, place));
            return self.pass(asked, nothing(), why).await;
        }
        let did =
            Did::Forwarded { why, status: Some(from_origin), stored: false, collapsed: false, detail: None };
        self.count(did);
        let idle = Duration::from_millis(asked.origin.config.idle_ms);
        let body = match cut.range {
            Some(_) => CacheBody::origin(body, idle, place),
            None => CacheBody::empty(),
        };
        Ok(answer::passed(cut.status, headers, body, did))
    }

    /// Passes a request on as it is. What an unsafe method may have changed is forgotten (RFC 9111, 4.4).
    async fn pass(
        self: &Arc<Self>,
        asked: &Asked,
        body: RequestBody,
        why: Forwarded,
    ) -> Result<Response<CacheBody>, Failure> {
        let Asked { origin, key, method, .. } = asked;
        let (sent, born) = (asked.for_origin(!body.is_end_stream()), self.ledger.known().upto + 1);
        let answer =
            origin.pass(method.clone(), key.target(), sent.clone(), body).await.map_err(Failure::Origin)?;
        let (status, headers) = (answer.response.status(), answer.response.headers());
        if !method.is_safe() && (status.is_success() || status.is_redirection()) {
            let named = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| headers.get(name));
            let named = named.filter_map(|value| key.sibling(value.to_str().ok()?));
            for changed in named.chain([key.clone()]).collect::<Vec<_>>() {
                self.forget(&changed);
            }
        }
        let is_here = |location: &str| key.sibling(location).as_ref() == Some(key);
        if answers_get(method, &sent, status, headers, is_here)
            && let Some(fill) = self.fills.apart(key.clone(), born, self.config.fetches_max)
        {
            return self.posted(asked, sent, answer, fill, why).await;
        }
        Ok(self.passed(asked, answer, why))
    }

    /// Stores what POST is answered with: GET gets the same from now on.
    async fn posted(
        self: &Arc<Self>,
        asked: &Asked,
        sent: HeaderMap,
        answer: Answer,
        fill: Arc<Fill>,
        why: Forwarded,
    ) -> Result<Response<CacheBody>, Failure> {
        let (first, own) = oneshot::channel();
        self.tasks.spawn(Arc::clone(self).keep_posted(
            Arc::clone(&fill),
            Arc::clone(&asked.origin),
            sent,
            answer,
            first,
        ));
        match (fill.outcome().await, own.await) {
            (Outcome::Coming(head, _), Ok(First::Reader(reader))) => {
                Ok(self.arriving(asked, &head, reader, why, false))
            }
            (_, Ok(First::Answer(answer))) => Ok(self.passed(asked, answer, why)),
            _ => Err(Failure::Origin(OriginError::Unreachable(asked.origin.config.name.clone()))),
        }
    }

    fn passed(&self, asked: &Asked, answer: Answer, why: Forwarded) -> Response<CacheBody> {
        let Answer { response, place, .. } = answer;
        let (head, body) = response.into_parts();
        let did =
            Did::Forwarded { why, status: Some(head.status), stored: false, collapsed: false, detail: None };
        self.count(did);
        let body = CacheBody::origin(body, Duration::from_millis(asked.origin.config.idle_ms), place);
        answer::passed(head.status, head.headers, body, did)
    }

    fn count(&self, did: Did) {
        self.metrics.count(did.as_str());
    }
}
