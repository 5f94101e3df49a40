//! What is fetched before anybody asks: so that it is here when its origin, or the cloud, is gone.

use std::sync::Arc;

use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

use crate::Cache;
use crate::origin::nothing;

/// Fetches at once: who asks comes first.
const AT_ONCE: usize = 4;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefetched {
    /// They are here.
    pub here: usize,
    /// They are not: no such origin, no answer, or not to be stored.
    pub missing: usize,
}

impl Cache {
    /// Fetches what is not stored or is stale, of URLs such as `/c/{origin}/…` or `https://…` of an origin.
    pub async fn prefetch(&self, urls: impl IntoIterator<Item = String>) -> Prefetched {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut fetches = tokio::task::JoinSet::new();
        let mut done = Prefetched::default();
        let mut count = |here: bool| if here { done.here += 1 } else { done.missing += 1 };
        for url in urls {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { break };
            let cache = self.clone();
            fetches.spawn(async move {
                let here = cache.fetch(&url).await;
                drop(turn);
                here
            });
            while let Some(fetched) = fetches.try_join_next() {
                count(fetched.unwrap_or_default());
            }
        }
        while let Some(fetched) = fetches.join_next().await {
            count(fetched.unwrap_or_default());
        }
        done
    }

    async fn fetch(&self, url: &str) -> bool {
        let Some((origin, target)) = self.locate(url) else { return false };
        let mut request = http::Request::new(nothing());
        *request.method_mut() = Method::GET;
        *request.headers_mut() = HeaderMap::new();
        match self.serve(&origin.config.name, target, None, request).await {
            Ok(response) => response.status().is_success() && response.into_body().collect().await.is_ok(),
            Err(_) => false,
        }
    }
}
