//! From the start of a track on one node to the answer on another node that has seen it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client_sdk::{Event, EventId, EventKind, ItemId, SlotId, UserId, VisitorId};
use proto::client::{Ask, ClientReply, ClientRequest, OpenSession, Recommend, Track};
use proto::{SessionToken, TraceId};
use tokio::time::Instant;
use transport::{Dialer, Link, Peer};

use crate::commands::status::now_ms;
use crate::load::Measured;
use crate::local::Deployment;

/// Probes a second.
const PER_SECOND: f64 = 10.0;
const DEADLINE: Duration = Duration::from_secs(2);

/// Probes for `length`, at an even pace, and counts from the scheduled time of each.
pub async fn probe(deployment: &Deployment, length: Duration) -> anyhow::Result<Measured> {
    let mut links = Vec::new();
    for ports in deployment.ports().values() {
        links.push(open(deployment, &ports.clients).await?);
    }
    let (mut measured, started) = (Measured::default(), Instant::now());
    let total = (length.as_secs_f64() * PER_SECOND) as u64;
    for number in 0..total {
        let scheduled = started + Duration::from_secs_f64(number as f64 / PER_SECOND);
        tokio::time::sleep_until(scheduled).await;
        let (writer, reader) = (number as usize % links.len(), (number as usize + 1) % links.len());
        match once(&*links[writer], &*links[reader], number).await {
            Ok(()) => measured.answered(scheduled.elapsed(), "visible"),
            Err(error) => measured.failed(format!("visible: {error:#}")),
        }
    }
    measured.seconds = started.elapsed().as_secs_f64();
    Ok(measured)
}

async fn open(deployment: &Deployment, address: &str) -> anyhow::Result<Arc<dyn Link>> {
    let dialer = deployment.app_dialer()?;
    let link = dialer.dial(address, &Peer::Named(deployment.server_name()?), DEADLINE).await?;
    let open = OpenSession { app_key: deployment.app_key().to_owned(), agent: "rockpool-bench".into() };
    match ask(&*link, Ask::Session(open)).await? {
        ClientReply::Session(_) => Ok(link),
        other => anyhow::bail!("no session: {other:?}"),
    }
}

async fn ask(link: &dyn Link, ask: Ask) -> anyhow::Result<ClientReply> {
    let request = ClientRequest { trace: TraceId::default(), deadline_ms: DEADLINE.as_millis() as u32, ask };
    match transport::call(link, &request, DEADLINE).await? {
        ClientReply::Error(reply) => Err(reply.into()),
        reply => Ok(reply),
    }
}

/// A new visitor asks on the reader, rates the first item on the writer, and asks again on the reader.
async fn once(writer: &dyn Link, reader: &dyn Link, number: u64) -> anyhow::Result<()> {
    let visitor = VisitorId::User(UserId::new(format!("probe-{}-{number}", now_ms()))?);
    let item: ItemId = "50".parse()?;
    let event = Event {
        id: EventId(uuid::Uuid::now_v7()),
        visitor: visitor.clone(),
        at_ms: now_ms(),
        trace: TraceId::default(),
        kind: EventKind::Rating { item: item.clone(), stars: 5.0 },
    };
    let ClientReply::Tracked(tracked) = ask(writer, Ask::Track(Track { events: vec![event] })).await? else {
        anyhow::bail!("track was answered with something else");
    };
    let answer = recommend(reader, visitor, tracked.token).await?;
    anyhow::ensure!(answer.fresh, "the answer is older than the token");
    anyhow::ensure!(answer.items.iter().all(|ranked| ranked.item != item), "the rated item is offered again");
    Ok(())
}

async fn recommend(
    link: &dyn Link,
    visitor: VisitorId,
    token: SessionToken,
) -> anyhow::Result<client_sdk::Answer> {
    let slot: SlotId = "probe".parse()?;
    let (context, exclude) = (Vec::new(), Vec::new());
    let wanted = Recommend { visitor, slot, count: 10, token: Some(token), context, exclude };
    match ask(link, Ask::Recommend(wanted)).await.context("no answer")? {
        ClientReply::Answer(answer) => Ok(answer),
        other => anyhow::bail!("recommend was answered with {other:?}"),
    }
}
