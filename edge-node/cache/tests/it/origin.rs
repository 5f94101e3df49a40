//! An origin that says what a test tells it to, and a cache before it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use edge_cache::ledger::{Known, Ledger};
use edge_cache::{Cache, CacheBody, CacheConfig, Failure, Metrics, RequestBody};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::purge::{PurgeKey, Purges};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub type Sent = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Said = Pin<Box<dyn Future<Output = Option<Sent>> + Send>>;
type Says = dyn Fn(Request<Incoming>, u64) -> Said + Send + Sync;

/// What a test holds.
pub struct Place {
    pub cache: Cache,
    pub fetches: Arc<AtomicU64>,
    pub asked: Arc<Mutex<Vec<HeaderMap>>>,
    pub ledger: Arc<Book>,
    pub server: JoinHandle<()>,
    pub dir: Arc<tempfile::TempDir>,
    pub config: CacheConfig,
}

/// Purges, by hand.
#[derive(Default)]
pub struct Book {
    known: Mutex<(u64, Purges)>,
    cut_off: AtomicBool,
}

impl Ledger for Book {
    fn known(&self) -> Known {
        let known = self.known.lock().unwrap();
        let certain = !self.cut_off.load(Ordering::Relaxed);
        Known { purges: Arc::new(known.1.clone()), upto: known.0, certain }
    }
}

impl Book {
    pub fn purge(&self, key: PurgeKey) {
        let mut known = self.known.lock().unwrap();
        known.0 += 1;
        let now = known.0;
        known.1.purge(key, now);
    }

    pub fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Relaxed);
    }
}

/// A response.
pub fn say(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Sent {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    response
}

/// An origin that says the same to everybody, with the number of the request as its body.
pub async fn saying(status: u16, headers: &'static [(&'static str, &'static str)]) -> Place {
    place(move |_, number| Box::pin(async move { Some(say(status, headers, number.to_string())) })).await
}

/// An origin that answers as `says` does, given the request and its number, from 1. `None`: it hangs up.
pub async fn place(says: impl Fn(Request<Incoming>, u64) -> Said + Send + Sync + 'static) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let (fetches, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let server = tokio::spawn(serve(listener, Arc::new(says), fetches.clone(), asked.clone()));
    before(&url, server, fetches, asked)
}

/// An origin that sends these bytes in answer to each request's head, on one connection after the other, whatever the head says.
pub async fn sending(bytes: &'static [u8]) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let fetches = Arc::new(AtomicU64::new(0));
    let counted = fetches.clone();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                while stream.read_buf(&mut heard).await.is_ok_and(|len| len > 0) {
                    while let Some(end) = heard.windows(4).position(|four| four == b"\r\n\r\n") {
                        heard.drain(..end + 4);
                        counted.fetch_add(1, Ordering::SeqCst);
                        let _ = stream.write_all(bytes).await;
                    }
                }
            });
        }
    });
    before(&url, server, fetches, Arc::default())
}

/// A cache before an origin.
fn before(
    url: &str,
    server: JoinHandle<()>,
    fetches: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
) -> Place {
    let origin = format!("name = \"shop\"\nurl = \"{url}\"\nretries = 1\ndeadline_ms = 5000\nidle_ms = 3000");
    let config = CacheConfig {
        memory_bytes: 16 << 20,
        disk_bytes: 16 << 20,
        object_bytes_max: 1 << 20,
        fetches_max: 64,
        negative_s: 5,
        offline_s: 3600,
        origins: vec![toml::from_str(&origin).unwrap()],
    };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let ledger = Arc::new(Book::default());
    let cache = open(&config, &dir, &ledger);
    Place { cache, fetches, asked, ledger, server, dir, config }
}

fn open(config: &CacheConfig, dir: &tempfile::TempDir, ledger: &Arc<Book>) -> Cache {
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    Cache::open(config.clone(), dir.path(), ledger.clone(), metrics).unwrap()
}

async fn serve(
    listener: TcpListener,
    says: Arc<Says>,
    fetches: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (says, fetches, asked) = (says.clone(), fetches.clone(), asked.clone());
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let number = fetches.fetch_add(1, Ordering::SeqCst) + 1;
                asked.lock().unwrap().push(request.headers().clone());
                let said = says(request, number);
                async move { said.await.ok_or("hangs up") }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Place {
    /// Ends the cache and opens it again, over the same disk.
    pub async fn reopen(&mut self) {
        self.cache.close().await;
        self.cache = open(&self.config, &self.dir, &self.ledger);
    }

    /// The origin is gone.
    pub async fn end_origin(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    pub async fn ask(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<CacheBody>, Failure> {
        ask(&self.cache, method, target, headers).await
    }

    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Got {
        Got::of(self.ask(Method::GET, target, headers).await.unwrap()).await
    }

    pub fn fetched(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// The last request that the origin saw.
    pub fn last_asked(&self) -> HeaderMap {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

pub async fn ask(
    cache: &Cache,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Response<CacheBody>, Failure> {
    ask_with(cache, method, target, headers, edge_cache::origin::nothing()).await
}

pub async fn ask_with(
    cache: &Cache,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    body: RequestBody,
) -> Result<Response<CacheBody>, Failure> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    for (name, value) in headers {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    cache.serve("shop", target, Some([192, 0, 2, 1].into()), request).await
}

/// An answer, whole.
#[derive(Debug, PartialEq)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Got {
    pub async fn of(response: Response<CacheBody>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// What the cache says that it did, without its name.
    pub fn did(&self) -> &str {
        self.header("cache-status").strip_prefix("Rockpool; ").unwrap()
    }
}
