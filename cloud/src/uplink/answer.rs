//! One request of a node, answered.

use std::time::Instant;

use proto::control::NodeReport;
use proto::limits::APPEND_EVENTS_MAX;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, Digest, ErrorReply, Event, Fault, Offset, TraceId};
use tracing::Instrument;

use super::{Caller, UplinkDoor};
use crate::clock::now_ms;

/// Longest text in a node's report, in bytes.
const REPORT_TEXT_BYTES_MAX: usize = 1_024;

/// A request's name, for metrics and logs.
pub(super) fn name(request: &UplinkRequest) -> &'static str {
    match request {
        UplinkRequest::Position => "position",
        UplinkRequest::Append { .. } => "append",
        UplinkRequest::Subscribe => "subscribe",
        UplinkRequest::Manifest => "manifest",
        UplinkRequest::Artifact { .. } => "artifact",
        UplinkRequest::Report(_) => "report",
        UplinkRequest::Renew(_) => "renew",
        UplinkRequest::Revoked { .. } => "revoked",
        UplinkRequest::Standing(_) => "standing",
        UplinkRequest::Erasures { .. } => "erasures",
    }
}

impl UplinkDoor {
    /// The reply to any request but `Subscribe`.
    pub(super) async fn answer(&self, caller: &Caller, request: UplinkRequest) -> UplinkReply {
        let answered = match request {
            UplinkRequest::Position => self.position(caller).await,
            UplinkRequest::Append { first, events } => self.append(caller, first, &events).await,
            UplinkRequest::Manifest => Ok(self.manifest(caller)),
            UplinkRequest::Artifact { digest, offset } => self.artifact(digest, offset).await,
            UplinkRequest::Report(report) => self.report(caller, &report).await,
            UplinkRequest::Renew(request) => self.renew(caller, &request),
            UplinkRequest::Revoked { known } => {
                Ok(UplinkReply::Revoked(self.identities.newer_than(&caller.pop, known)))
            }
            UplinkRequest::Standing(standing) => {
                let stands = self.pops.stands(&caller.pop, caller.node, standing, now_ms()).await;
                stands.map(|()| UplinkReply::Noted)
            }
            UplinkRequest::Erasures { after } => self.erasures(caller, after).await,
            UplinkRequest::Subscribe => {
                Err(ErrorReply::new(Code::Internal, "a subscription is not answered here"))
            }
        };
        answered.unwrap_or_else(UplinkReply::Error)
    }

    async fn position(&self, caller: &Caller) -> Result<UplinkReply, ErrorReply> {
        let upto = self.storage.position(&caller.pop).await.map_err(|e| logged(&e, e.reply()))?;
        Ok(self.ack(caller, upto))
    }

    /// Acknowledges once the events are durable, and never before.
    async fn append(
        &self,
        caller: &Caller,
        first: Offset,
        events: &[Event],
    ) -> Result<UplinkReply, ErrorReply> {
        if events.len() > APPEND_EVENTS_MAX {
            let message = format!("at most {APPEND_EVENTS_MAX} events, not {}", events.len());
            return Err(ErrorReply::new(Code::TooLarge, message));
        }
        // A batch holds the events of many traces; the span carries the first, each event's own is logged below.
        let trace = events.iter().map(|event| event.trace).find(|trace| *trace != TraceId::default());
        let span =
            tracing::info_span!("append", %first, events = events.len(), trace_id = tracing::field::Empty);
        if let Some(trace) = trace {
            span.record("trace_id", tracing::field::display(trace));
        }
        let begun = Instant::now();
        let appended =
            self.storage.append(&caller.pop, first, events, now_ms()).instrument(span.clone()).await;
        let outcome = appended.as_ref().map_or_else(|error| error.code().as_str(), |_| "stored");
        self.metrics.batch(outcome, begun.elapsed());
        let _entered = span.enter();
        let appended = appended.map_err(|error| logged(&error, error.reply()))?;
        self.metrics.appended(&appended);
        tracing::debug!(upto = %appended.upto, known = appended.known, "events are durable");
        for event in events {
            tracing::debug!(
                trace_id = %event.trace, event = %event.id, visitor = %event.visitor, kind = event.kind.name(),
                "event is durable"
            );
        }
        Ok(self.ack(caller, appended.upto))
    }

    fn ack(&self, caller: &Caller, upto: Offset) -> UplinkReply {
        UplinkReply::Ack { upto, control_revision: self.registry.offered(&caller.pop) }
    }

    fn manifest(&self, caller: &Caller) -> UplinkReply {
        let offers = self.registry.offers();
        let offers = offers.borrow();
        UplinkReply::Manifest(offers.to(&caller.pop).map(|offer| (*offer.signed).clone()))
    }

    async fn artifact(&self, digest: Digest, offset: u64) -> Result<UplinkReply, ErrorReply> {
        let part = self.storage.artifacts().part(digest, offset).await;
        let (size, part) = part.map_err(|e| logged(&e, e.reply()))?;
        Ok(UplinkReply::Artifact { size, part })
    }

    fn renew(&self, caller: &Caller, request: &[u8]) -> Result<UplinkReply, ErrorReply> {
        let chain = self.identities.renew(&caller.pop, caller.node, &caller.names, request);
        chain.map(UplinkReply::Issued).map_err(|e| logged(&e, e.reply()))
    }

    async fn erasures(&self, caller: &Caller, after: u64) -> Result<UplinkReply, ErrorReply> {
        let erasures = self.storage.erasures_after(&caller.pop, after, now_ms()).await;
        erasures.map(UplinkReply::Erasures).map_err(|e| logged(&e, e.reply()))
    }

    async fn report(&self, caller: &Caller, report: &NodeReport) -> Result<UplinkReply, ErrorReply> {
        check_report(report)?;
        let now_ms = now_ms();
        let kept = self.storage.report(&caller.pop, caller.node, report, now_ms).await;
        kept.map_err(|e| logged(&e, e.reply()))?;
        self.registry.heard(&caller.pop, caller.node, report, now_ms).await;
        Ok(UplinkReply::Noted)
    }
}

fn check_report(report: &NodeReport) -> Result<(), ErrorReply> {
    let texts = [
        report.retrieval.as_deref(),
        report.ranker.as_deref(),
        Some(report.engine.as_str()),
        report.bundle_error.as_deref(),
        Some(report.client_address.as_str()),
    ];
    match texts.into_iter().flatten().find(|text| text.len() > REPORT_TEXT_BYTES_MAX) {
        Some(text) => {
            let message =
                format!("a report's text has at most {REPORT_TEXT_BYTES_MAX} bytes, not {}", text.len());
            Err(ErrorReply::new(Code::TooLarge, message))
        }
        None => Ok(()),
    }
}

/// Errors are logged here, once, with their chain; the node is told without it.
fn logged(error: &(dyn std::error::Error + 'static), reply: ErrorReply) -> ErrorReply {
    match reply.code.fault() {
        Fault::System => tracing::error!(error, code = %reply.code, "a node's request failed"),
        _ => tracing::warn!(error, code = %reply.code, "a node's request was refused"),
    }
    reply
}

#[cfg(test)]
mod tests {
    use proto::Revision;
    use proto::control::{AnswerCounts, Role};

    use super::*;

    #[test]
    fn a_report_with_a_long_text_is_refused() {
        let mut report = NodeReport {
            role: Role::Leader,
            term: 1,
            applied: 1,
            last_log: 1,
            outbox: 0,
            revision: Revision(0),
            retrieval: None,
            ranker: None,
            engine: "tract".into(),
            in_flight: 0,
            bundle_error: Some("x".repeat(REPORT_TEXT_BYTES_MAX)),
            client_address: String::new(),
            unfit: Revision(0),
            answers: AnswerCounts::default(),
        };
        check_report(&report).unwrap();
        report.ranker = Some("x".repeat(REPORT_TEXT_BYTES_MAX + 1));
        assert_eq!(check_report(&report).unwrap_err().code, Code::TooLarge);
    }
}
