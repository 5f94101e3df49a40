//! Whose pages may ask. Nothing here rests on cookies, so credentials are of no use to anybody.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use super::segment::notes::{CHANGED, DUPLICATES, SKIPPED};

/// How long a browser may remember that it may ask.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Some origins, or all.
#[derive(Debug, Clone)]
pub(super) struct Origins(Option<Arc<[HeaderValue]>>);

impl Origins {
    pub(super) fn new(origins: &[String]) -> anyhow::Result<Self> {
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self(None));
        }
        let origin = |origin: &String| {
            let value = HeaderValue::from_str(origin).ok().filter(|_| origin.contains("://"));
            value.ok_or_else(|| {
                anyhow::anyhow!("http.cors_origins: {origin:?} is no origin such as https://shop.example")
            })
        };
        Ok(Self(Some(origins.iter().map(origin).collect::<anyhow::Result<_>>()?)))
    }

    /// What a browser asks before a page may (the Fetch standard, CORS protocol).
    pub(super) fn cors(&self) -> CorsLayer {
        let cors = CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST])
            // Those that are asked for: `*` would leave out Authorization.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([service::http::REQUEST_ID, header::RETRY_AFTER, CHANGED, SKIPPED, DUPLICATES])
            .max_age(REMEMBERED);
        match &self.0 {
            None => cors.allow_origin(Any),
            Some(origins) => cors.allow_origin(origins.to_vec()),
        }
    }

    /// Whose pages may see how long an answer took (W3C Resource Timing, 4.5.1).
    pub(super) fn timing(&self) -> HeaderValue {
        let Some(origins) = &self.0 else { return HeaderValue::from_static("*") };
        let origins: Vec<&[u8]> = origins.iter().map(HeaderValue::as_bytes).collect();
        HeaderValue::from_bytes(&origins.join(&b", "[..])).expect("a list of values is a value")
    }

    /// Where no such question comes before: WebTransport.
    pub(super) fn may_ask(&self, origin: &HeaderValue) -> bool {
        self.0.as_ref().is_none_or(|origins| origins.contains(origin))
    }
}
