//! The origin behind every cache: bodies of a length that the path says, good for an hour. It counts who comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Longest body that it gives, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The path of one body, below the cache's prefix.
pub fn path(body_bytes: usize, number: usize) -> String {
    format!("/{body_bytes}/{number}")
}

/// An origin that runs.
pub struct Origin {
    address: String,
    requests: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Origin {
    /// Starts it on any port.
    ///
    /// # Errors
    /// Where no port is to be had.
    pub async fn start() -> anyhow::Result<Self> {
        let requests = Arc::new(AtomicU64::new(0));
        let router = Router::new().route("/{bytes}/{number}", get(body)).with_state(Arc::clone(&requests));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let serving = tokio::spawn(async move {
            // Ends with the benchmark.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, requests, serving })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn body(State(requests): State<Arc<AtomicU64>>, Path((bytes, number)): Path<(usize, u64)>) -> Response {
    requests.fetch_add(1, Ordering::Relaxed);
    if bytes > BODY_BYTES_MAX {
        return StatusCode::NOT_FOUND.into_response();
    }
    // No two are alike, and none can be compressed.
    let mut chance = fastrand::Rng::with_seed(number);
    let body: Vec<u8> = std::iter::repeat_with(|| chance.u8(..)).take(bytes).collect();
    let headers =
        [(header::CACHE_CONTROL, "public, max-age=3600"), (header::CONTENT_TYPE, "application/octet-stream")];
    (headers, body).into_response()
}
