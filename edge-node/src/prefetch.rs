//! The pictures and pieces of content of a bundle, fetched into the cache when it becomes active: so that they are there when the cloud and
//! their origin are gone.

use std::time::Duration;

use edge_cache::{Cache, Prefetched};
use tokio_util::sync::CancellationToken;

use crate::bundles::ActiveBundle;

/// First and longest pause before what could not be had is tried again.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Fetches for every bundle that is served from, until shutdown.
pub async fn follow(active: ActiveBundle, cache: Cache, shutdown: CancellationToken) {
    shutdown.run_until_cancelled(follow_for_ever(active, cache)).await;
}

async fn follow_for_ever(active: ActiveBundle, cache: Cache) {
    let mut revision = active.changes();
    loop {
        let served = *revision.borrow_and_update();
        let urls: Vec<String> = active
            .load()
            .map(|serving| serving.prepared.bundle().catalog.urls().map(str::to_owned).collect())
            .unwrap_or_default();
        let fetch = async {
            let mut pause = PAUSE;
            while !urls.is_empty() {
                let Prefetched { here, missing } = cache.prefetch(urls.iter().cloned()).await;
                tracing::info!(revision = %served, here, missing, "content of the bundle was fetched");
                if missing == 0 {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = fetch => {}
            changed = revision.changed() => if changed.is_err() { return },
        }
    }
}
