//! One visitor, before and after a click.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use client_sdk::{Answer, Client, EventKind, ItemId, SlotId, SlotRequest, UserId, VisitorId};
use dataset::Dataset;
use serde::Serialize;

use crate::commands::say;
use crate::local::Deployment;

/// An answer with titles.
#[derive(Debug, Clone, Serialize)]
pub struct ShownAnswer {
    /// What was asked before: `new visitor`, `after a click on …`.
    pub when: String,
    /// Which stage served it.
    pub served_by: String,
    /// Versions of the models that were used.
    pub models: Vec<String>,
    /// The active bundle.
    pub revision: u64,
    /// Best first.
    pub items: Vec<ShownItem>,
}

/// An item with its title.
#[derive(Debug, Clone, Serialize)]
pub struct ShownItem {
    /// Its id.
    pub item: String,
    /// Its title.
    pub title: String,
    /// Higher is better, within one answer.
    pub score: f32,
    /// Why.
    pub reason: String,
}

/// Asks for a new visitor, clicks, asks again, clicks again, asks again.
pub async fn show(
    deployment: &Deployment,
    client: &Client,
    data: &Dataset,
) -> anyhow::Result<Vec<ShownAnswer>> {
    let titles: HashMap<&ItemId, &str> =
        data.items.iter().map(|item| (&item.id, item.title.as_str())).collect();
    // A name nobody had before, so that a deployment that goes on shows a new visitor too.
    let visitor = VisitorId::User(UserId::new(format!("demo-{}", crate::commands::status::now_ms()))?);
    let slot: SlotId = "home".parse()?;
    let ask = || SlotRequest::new(visitor.clone(), slot.clone()).count(5).deadline(Duration::from_secs(2));
    let mut shown = Vec::new();
    let mut when = "a new visitor is shown".to_owned();
    for _ in 0..3 {
        let answer = client.recommend(ask()).await.context("no answer")?;
        let with_titles = titled(&answer, &titles, when);
        say(&text(&with_titles));
        shown.push(with_titles);
        let Some(best) = answer.items.first() else { break };
        let (item, slot) = (best.item.clone(), slot.clone());
        when = format!("after a click on {}", titles.get(&item).unwrap_or(&item.as_str()));
        client.track(&visitor, EventKind::Click { item, slot, answer: Some(answer.id) }).await?;
        client.flush(Duration::from_secs(10)).await.context("the click is not acknowledged")?;
    }
    let nodes: Vec<_> = deployment.ports().values().map(|ports| ports.clients.as_str()).collect();
    let (dir, api) = (deployment.dir().display(), deployment.api());
    say(&format!(
        "try it yourself, in another terminal:\n  cargo run -q -p client-sdk --example quickstart -- {} {} {dir}/app.key\n  \
         cargo rockpool status --api {api} --token-file {dir}/cloud/admin.token\n",
        nodes.join(","),
        deployment.ca_file().display(),
    ));
    Ok(shown)
}

fn titled(answer: &Answer, titles: &HashMap<&ItemId, &str>, when: String) -> ShownAnswer {
    let items = answer.items.iter().map(|ranked| ShownItem {
        item: ranked.item.to_string(),
        title: titles.get(&ranked.item).copied().unwrap_or_default().to_owned(),
        score: ranked.score,
        reason: format!("{:?}", ranked.reason).to_lowercase(),
    });
    ShownAnswer {
        when,
        served_by: format!("{:?}", answer.served_by).to_lowercase(),
        models: [&answer.retrieval, &answer.ranker].into_iter().flatten().map(ToString::to_string).collect(),
        revision: answer.revision.0,
        items: items.collect(),
    }
}

fn text(answer: &ShownAnswer) -> String {
    let mut lines = vec![format!("{} ({}, bundle {}):", answer.when, answer.served_by, answer.revision)];
    lines.extend(
        answer
            .items
            .iter()
            .zip(1..)
            .map(|(item, n)| format!("  {n}. {:<52} {:.3}  {}", item.title, item.score, item.reason)),
    );
    lines.join("\n") + "\n"
}
