//! Where content comes from: one client an origin, with kept connections, bounded in number and time, tried again where that can help,
//! and left alone while it fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, HOST, VIA};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use transport::origin::{Connector, Roots, connector};

use crate::breaker::Breaker;
use crate::config::OriginConfig;
use crate::key::Key;
use crate::metrics::Metrics;
use crate::rules::framing::{self, UnknownCoding};
use crate::rules::freshness::Exchange;
use crate::rules::hops;
use crate::upload::{self, UploadError};

/// By which name Surrogate-Control can speak to this cache (W3C, Edge Architecture Specification, 2.2).
const SURROGATE_CAPABILITY: HeaderName = HeaderName::from_static("surrogate-capability");
/// Largest head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most fields of one.
const HEADERS_LEN_MAX: usize = 128;
/// How long an unused connection is kept: origins close theirs after 60 s or more, by default.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Before the next try, doubled with each.
const PAUSE: Duration = Duration::from_millis(50);
/// Checks in a row that must fail before an origin is left alone.
const UNWELL_AFTER: u32 = 2;

/// Why a body ended.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request to an origin.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Why an origin gave no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Nobody answers there, or not in HTTP.
    #[error("the origin {0:?} cannot be reached")]
    Unreachable(String),
    /// It took too long.
    #[error("the origin {0:?} did not answer in time")]
    TimedOut(String),
    /// It failed before, and is left alone for so long.
    #[error("the origin {0:?} has failed, and is left alone for {1:?} more")]
    LeftAlone(String, Duration),
    /// As many requests as may be are on their way already.
    #[error("too many requests are on their way to the origin {0:?}")]
    Busy(String),
    /// It answered in a transfer coding that is not known here (RFC 9112, 6.1).
    #[error("the response of the origin {0:?} has a transfer coding other than `chunked`")]
    Coding(String),
    /// The request's own body came to no good end: that says nothing of the origin.
    #[error(transparent)]
    Upload(UploadError),
}

/// A response's head, and the body as it comes.
pub struct Answer {
    pub(crate) exchange: Exchange,
    pub(crate) response: Response<Incoming>,
    /// Its place among the requests to the origin.
    pub(crate) place: OwnedSemaphorePermit,
}

/// One origin.
#[derive(Debug)]
pub struct Origin {
    /// Its settings.
    pub config: OriginConfig,
    /// Scheme and authority: what is of every key.
    pub root: Arc<str>,
    /// Path before every path.
    pub base: String,
    host: HeaderValue,
    client: Client<Connector, RequestBody>,
    places: Arc<Semaphore>,
    breaker: Mutex<Breaker>,
    well: AtomicBool,
    metrics: Metrics,
}

impl Origin {
    /// Makes its client; nothing is asked yet.
    ///
    /// # Errors
    /// Where the settings cannot work.
    pub fn new(config: OriginConfig, metrics: Metrics) -> Result<Self, String> {
        let place = config.parsed()?;
        let wrong = |error: &dyn std::fmt::Display| format!("cache.origins {:?}: {error}", config.name);
        let roots = match () {
            () if !place.secure => Roots::Nobody,
            () if config.ca.as_os_str().is_empty() => Roots::System,
            () => Roots::File(config.ca.clone()),
        };
        let connector =
            connector(&roots, Duration::from_millis(config.connect_ms)).map_err(|error| wrong(&error))?;
        let authority = place.root.split_once("://").map_or("", |(_, authority)| authority);
        let host = HeaderValue::try_from(authority).map_err(|error| wrong(&error))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(config.connections_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http1_max_headers(HEADERS_LEN_MAX)
            .build(connector);
        metrics.origin_up.with_label_values(&[&config.name]).set(1);
        Ok(Self {
            root: place.root.into(),
            base: place.base,
            host,
            client,
            places: Arc::new(Semaphore::new(config.connections_max)),
            breaker: Mutex::default(),
            well: AtomicBool::new(true),
            metrics,
            config,
        })
    }

    /// What names the resource at `target`, a path and query from its own path on. `None`: it is too long, or could lead out of that.
    pub fn key(&self, target: &str) -> Option<Key> {
        if self.base.is_empty() {
            return Key::new(&self.root, target);
        }
        Key::new(&self.root, &format!("{}{target}", self.base))
    }

    /// Asks, again where `again` is true and there was no answer.
    ///
    /// # Errors
    /// Where there was none.
    pub async fn ask(
        &self,
        method: &Method,
        target: &str,
        headers: HeaderMap,
        again: bool,
    ) -> Result<Answer, OriginError> {
        let tries = if again { self.config.retries } else { 0 };
        let place = self.place().await?;
        let asked = async {
            let mut pause = PAUSE;
            for tried in 0.. {
                let answered = self.ask_once(method.clone(), target, headers.clone(), nothing()).await;
                match answered.map_err(|error| self.failed(error)) {
                    Err(OriginError::Unreachable(_)) if tried < tries => {}
                    answered => return answered,
                }
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause *= 2;
            }
            Err(OriginError::Unreachable(self.config.name.clone()))
        };
        let answered = tokio::time::timeout(self.config.deadline(), asked).await;
        match answered {
            Ok(answered) => answered.map(|(exchange, response)| Answer { exchange, response, place }),
            Err(_) => Err(self.failed(OriginError::TimedOut(self.config.name.clone()))),
        }
    }

    /// Sends a request on as it is, once.
    ///
    /// # Errors
    /// Where there was no answer: whether the request had an effect is unknown then.
    pub async fn pass(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Answer, OriginError> {
        let (body, progress) = upload::watched(body).map_err(OriginError::Upload)?;
        let place = self.place().await?;
        let asked = self.ask_once(method, target, headers, body);
        let answered = tokio::time::timeout(self.config.deadline(), asked).await;
        let error = match answered {
            Ok(Ok((exchange, response))) => return Ok(Answer { exchange, response, place }),
            Ok(Err(error)) => error,
            Err(_) => OriginError::TimedOut(self.config.name.clone()),
        };
        match progress.fault(matches!(error, OriginError::TimedOut(_))) {
            Some(fault) => Err(OriginError::Upload(fault)),
            None if progress.is_under_way() && matches!(error, OriginError::Unreachable(_)) => Err(error),
            None => Err(self.failed(error)),
        }
    }

    /// Waits for a place, unless the origin is left alone anyway. The origin's time runs from then on: who waits because other callers are
    /// slow to read has not been kept waiting by it.
    async fn place(&self) -> Result<OwnedSemaphorePermit, OriginError> {
        let name = || self.config.name.clone();
        if !self.well.load(Ordering::Relaxed) {
            return Err(OriginError::LeftAlone(name(), Duration::from_millis(self.config.health_every_ms)));
        }
        if let Some(wait) = self.breaker().pause_left(Instant::now()) {
            return Err(OriginError::LeftAlone(name(), wait));
        }
        let places = Arc::clone(&self.places).acquire_owned();
        let place = tokio::time::timeout(self.config.deadline() / 2, places).await;
        place.ok().and_then(Result::ok).ok_or_else(|| OriginError::Busy(name()))
    }

    async fn ask_once(
        &self,
        method: Method,
        target: &str,
        mut headers: HeaderMap,
        body: RequestBody,
    ) -> Result<(Exchange, Response<Incoming>), OriginError> {
        let name = || self.config.name.clone();
        let tries = {
            let mut breaker = self.breaker();
            let is_open = breaker.is_open();
            breaker.may_ask(Instant::now()).map_err(|wait| OriginError::LeftAlone(name(), wait))?;
            is_open
        };
        let _try = tries.then(|| Try(self));
        headers.insert(HOST, self.host.clone());
        headers.append(VIA, HeaderValue::from_static("1.1 rockpool"));
        headers.append(SURROGATE_CAPABILITY, HeaderValue::from_static("rockpool=\"Surrogate/1.0\""));
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = self.uri(target).ok_or_else(|| OriginError::Unreachable(name()))?;
        *request.headers_mut() = headers;
        let asked = SystemTime::now();
        let response = self.client.request(request).await.map_err(|error| {
            tracing::debug!(origin = self.config.name, error = describe(&error), "no answer");
            OriginError::Unreachable(name())
        })?;
        let response = received(&method, response).map_err(|UnknownCoding| OriginError::Coding(name()))?;
        self.breaker().succeeded();
        self.count(response.status().as_str());
        self.metrics.origin_up.with_label_values(&[&self.config.name]).set(1);
        Ok((Exchange { asked, came: SystemTime::now() }, response))
    }

    /// A path and query that [`crate::key::Key`] took.
    fn uri(&self, target: &str) -> Option<Uri> {
        let (scheme, authority) = self.root.split_once("://")?;
        let target = PathAndQuery::try_from(target).ok()?;
        Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build().ok()
    }

    /// Counts what the origin did: only that opens the breaker.
    fn failed(&self, error: OriginError) -> OriginError {
        let outcome = match error {
            OriginError::TimedOut(_) => "timed_out",
            OriginError::Unreachable(_) => "unreachable",
            OriginError::Coding(_) => "coding",
            OriginError::LeftAlone(..) | OriginError::Busy(_) | OriginError::Upload(_) => return error,
        };
        let mut breaker = self.breaker();
        breaker.failed(Instant::now());
        if breaker.is_open() {
            self.metrics.origin_up.with_label_values(&[&self.config.name]).set(0);
        }
        drop(breaker);
        self.count(outcome);
        error
    }

    fn count(&self, outcome: &str) {
        self.metrics.fetches.with_label_values(&[self.config.name.as_str(), outcome]).inc();
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks again and again whether it is well, where there is a path for that.
    pub async fn watch(self: Arc<Self>) {
        if self.config.health.is_empty() {
            return;
        }
        let (mut every, mut failures) =
            (tokio::time::interval(Duration::from_millis(self.config.health_every_ms)), 0);
        loop {
            every.tick().await;
            failures = if self.is_well().await { 0 } else { failures + 1 };
            let (well, was) = (failures < UNWELL_AFTER, self.well.load(Ordering::Relaxed));
            self.well.store(well, Ordering::Relaxed);
            if well && !was {
                self.breaker().succeeded();
            }
            if well != was {
                tracing::warn!(origin = self.config.name, well, "an origin's health changed");
                self.metrics.origin_up.with_label_values(&[&self.config.name]).set(well.into());
            }
        }
    }

    async fn is_well(&self) -> bool {
        let mut request = Request::new(nothing());
        request.headers_mut().insert(HOST, self.host.clone());
        let Some(uri) = self.uri(&self.config.health) else { return false };
        *request.uri_mut() = uri;
        let answered = tokio::time::timeout(self.config.deadline(), self.client.request(request)).await;
        matches!(answered, Ok(Ok(response)) if response.status() < StatusCode::BAD_REQUEST)
    }
}

/// The one request by which an origin is tried that was left alone. However it ends, and be it that its caller goes away, another may try after
/// it: what the origin itself did is counted beside this.
struct Try<'o>(&'o Origin);

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.0.breaker().untried(Instant::now());
    }
}

/// What a response is from here on: framed as it really is, without what was for one connection, and with a date (RFC 9110, 6.6.1).
fn received(asked: &Method, mut response: Response<Incoming>) -> Result<Response<Incoming>, UnknownCoding> {
    let (status, len) = (response.status(), response.body().size_hint().exact());
    let headers = response.headers_mut();
    framing::settle(asked, status, headers, len)?;
    hops::remove(headers);
    if !headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(DATE, now);
    }
    Ok(response)
}

/// The body of a request that has none.
pub fn nothing() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
