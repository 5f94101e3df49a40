//! A subscription: the newest revision at its start, and at every change at once.

use std::sync::Arc;
use std::time::Duration;

use cloud_registry::Newest;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, Revision};
use service::shutdown::Shutdown;
use tokio::sync::watch;
use transport::{Link, LinkErrorKind, Stream};

/// Pushes until the node leaves or the cloud shuts down. A node that reads slowly misses the revisions between, never the
/// newest.
pub(super) async fn push(
    mut stream: Stream,
    link: Arc<dyn Link>,
    mut newest: watch::Receiver<Option<Newest>>,
    timeout: Duration,
    shutdown: Shutdown,
) {
    let mut hears_us_only = false;
    loop {
        let revision = newest.borrow_and_update().as_ref().map_or(Revision(0), |newest| newest.revision);
        match tokio::time::timeout(timeout, stream.send(&UplinkReply::Newer(revision))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return stream.reset(Code::DeadlineExceeded),
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return stream.finish(),
                _ = link.closed() => return,
                changed = newest.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return stream.finish(),
                },
                heard = stream.recv::<UplinkRequest>(), if !hears_us_only => match heard {
                    // The node said all it has to say, and listens on.
                    Err(error) if matches!(error.kind, LinkErrorKind::Finished) => hears_us_only = true,
                    // It left, or talks where it should listen.
                    Err(_) => return,
                    Ok(_) => return stream.reset(Code::Malformed),
                },
            }
        }
    }
}
