//! A subscription: the revision that the PoP is offered, at its start and at every change at once.

use std::sync::Arc;
use std::time::Duration;

use cloud_registry::Offers;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, PopId, Revision};
use service::shutdown::Shutdown;
use tokio::sync::watch;
use transport::{Link, LinkErrorKind, Stream};

/// What is offered to one PoP.
pub(super) struct News {
    /// Which.
    pub(super) pop: PopId,
    /// What is offered to all.
    pub(super) offers: watch::Receiver<Offers>,
}

impl News {
    fn revision(&mut self) -> Revision {
        self.offers.borrow_and_update().to(&self.pop).map_or(Revision(0), |offer| offer.revision)
    }

    /// The next revision that differs from the last; none: the cloud ends.
    async fn next(&mut self, last: Revision) -> Option<Revision> {
        loop {
            self.offers.changed().await.ok()?;
            let revision = self.revision();
            if revision != last {
                return Some(revision);
            }
        }
    }
}

/// Pushes until the node leaves or the cloud shuts down. A node that reads slowly misses the revisions between, never the
/// newest.
pub(super) async fn push(
    mut stream: Stream,
    link: Arc<dyn Link>,
    mut news: News,
    timeout: Duration,
    shutdown: Shutdown,
) {
    let mut hears_us_only = false;
    let mut revision = news.revision();
    loop {
        match tokio::time::timeout(timeout, stream.send(&UplinkReply::Newer(revision))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return stream.reset(Code::DeadlineExceeded),
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return stream.finish(),
                _ = link.closed() => return,
                next = news.next(revision) => match next {
                    Some(next) => {
                        revision = next;
                        break;
                    }
                    None => return stream.finish(),
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
