//! Empties the queue: one batch at a time, again until it is acknowledged. Acts on what [`crate::session::Delivery`]
//! decides.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::client::{Ask, ClientReply, Track, Tracked};
use proto::codec::FrameKind;
use tracing::Instrument as _;

use crate::client::Inner;
use crate::ids::new_trace;
use crate::pool::AskError;
use crate::queue::{DeadLetter, Queued};
use crate::session::{Address, Delivery, DeliveryRules, Failure, Verdict};
use crate::stats::add;

/// What a request needs beside its events.
const REQUEST_BYTES: usize = 1024;
/// Most encoded bytes of one batch.
const BATCH_BYTES_MAX: usize = FrameKind::ClientRequest.body_bytes_max() - REQUEST_BYTES;

impl Inner {
    /// Runs until the client closes.
    pub(crate) async fn deliver(self: Arc<Self>) {
        let rules = DeliveryRules {
            backoff_base_ms: self.config.timing.backoff_base_ms,
            backoff_max_ms: self.config.timing.backoff_max_ms,
        };
        let mut delivery = Delivery::new(rules);
        let mut progress = self.queue.progress();
        let mut avoid: Option<Address> = None;
        // An error of `wait_for` means that the queue is gone, and with it the client.
        while progress.wait_for(|progress| progress.pending > 0).await.is_ok() {
            let batch = match self.queue.read(delivery.limit(), BATCH_BYTES_MAX).await {
                Ok(batch) if !batch.is_empty() => batch,
                // Nothing is left but what cannot be read; the queue has said so, and counts it out.
                Ok(_) => continue,
                Err(error) => {
                    tracing::error!(%error, "the event queue cannot be read");
                    self.pause(delivery.lost(fastrand::f64())).await;
                    continue;
                }
            };
            let address = self.delivery_node(avoid.take()).await;
            let asked_at_ms = self.now_ms();
            let verdict = match self.send(&address, &batch).await {
                Ok(tracked) => {
                    self.arrived(&address, &batch, &tracked).await;
                    delivery.moved_on();
                    continue;
                }
                Err(asked) => {
                    if matches!(asked.failure, Failure::Unreachable | Failure::Silent) {
                        self.pool.forget_silent(&address, asked_at_ms);
                    }
                    self.verdict(&mut delivery, &address, &batch, &asked)
                }
            };
            match verdict {
                Verdict::PutAside => {
                    self.put_aside(&batch).await;
                    delivery.moved_on();
                }
                Verdict::Again { elsewhere, .. } => {
                    add(&self.counters.resent_batches, 1);
                    avoid = elsewhere.then_some(address);
                    self.pause(verdict).await;
                }
            }
        }
    }

    /// The node to send to, when it is ready; another than `avoid`, if there is one.
    pub(crate) async fn delivery_node(&self, avoid: Option<Address>) -> Address {
        let (address, wait_ms) = {
            let session = self.session();
            let now_ms = self.now_ms();
            let avoided = session.nodes.choose(now_ms, avoid.as_slice());
            avoided
                .or_else(|| session.nodes.choose(now_ms, &[]))
                .expect("a configuration names a node, and none is forgotten")
        };
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        address
    }

    async fn send(&self, address: &Address, batch: &[Queued]) -> Result<Tracked, AskError> {
        let trace = new_trace();
        let span = tracing::debug_span!("track", trace_id = %trace, node = %address, events = batch.len());
        let exchange = async {
            let connection = self.connect(address).await?;
            let events = batch.iter().map(|queued| queued.event.clone()).collect();
            let timeout = Duration::from_millis(self.config.timing.delivery_timeout_ms);
            match connection.ask(trace, Ask::Track(Track { events }), timeout).await? {
                ClientReply::Tracked(tracked) => Ok(tracked),
                _ => Err(connection.unexpected()),
            }
        };
        exchange.instrument(span).await
    }

    /// The batch is durable in the PoP: its visitors' next answers must have seen it.
    async fn arrived(&self, address: &Address, batch: &[Queued], tracked: &Tracked) {
        {
            let mut session = self.session();
            session.nodes.succeeded(address);
            let visitors: HashSet<_> = batch.iter().map(|queued| &queued.event.visitor).collect();
            for visitor in visitors {
                session.tokens.record(visitor, &tracked.token);
            }
        }
        add(&self.counters.accepted, u64::from(tracked.accepted));
        add(&self.counters.duplicates, u64::from(tracked.duplicates));
        self.counters.refused(None);
        self.acknowledge(batch).await;
    }

    fn verdict(
        &self,
        delivery: &mut Delivery,
        address: &Address,
        batch: &[Queued],
        asked: &AskError,
    ) -> Verdict {
        let (now_ms, random) = (self.now_ms(), fastrand::f64());
        tracing::debug!(node = %address, error = %asked.error, events = batch.len(), "a batch was not taken");
        match &asked.failure {
            Failure::Ended => Verdict::Again { after_ms: 0, elsewhere: false },
            Failure::Unreachable | Failure::Silent => {
                self.session().nodes.failed(address, now_ms, random);
                delivery.lost(random)
            }
            Failure::Refused(reply) => {
                self.counters.refused(Some(reply.clone()));
                let verdict = delivery.refused(batch.len(), reply, random);
                match verdict {
                    Verdict::Again { elsewhere: true, .. } => {
                        self.session().nodes.failed(address, now_ms, random);
                    }
                    Verdict::Again { after_ms, .. } => self.session().nodes.held(address, now_ms + after_ms),
                    Verdict::PutAside => {}
                }
                verdict
            }
        }
    }

    async fn put_aside(&self, batch: &[Queued]) {
        let Some(queued) = batch.first() else { return };
        let reply = self.counters.snapshot().refusal;
        let reply = reply.unwrap_or_else(|| proto::ErrorReply::new(proto::Code::Invalid, "refused"));
        tracing::warn!(event = %queued.event.id, %reply, "an event is put aside: no node will take it");
        let letter = DeadLetter { event: queued.event.clone(), reply };
        if let Some(hook) = &self.config.on_dead_letter {
            (hook.0)(&letter);
        }
        if let Err(error) = self.queue.put_aside(letter).await {
            // It is reported and counted all the same; keeping the whole queue waiting for this disk helps nobody.
            tracing::error!(%error, "an event that was put aside could not be kept");
        }
        add(&self.counters.dead_letters, 1);
        self.acknowledge(batch).await;
    }

    async fn acknowledge(&self, batch: &[Queued]) {
        let Some(newest) = batch.last() else { return };
        if let Err(error) = self.queue.acknowledge(newest.seq).await {
            tracing::warn!(%error, "the queue's position is not durable: after a restart events are sent again");
        }
    }

    async fn pause(&self, verdict: Verdict) {
        if let Verdict::Again { after_ms, .. } = verdict {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
        }
    }
}
