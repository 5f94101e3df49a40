//! What `rockpool up` saw, as a table for people and as JSON.

use proto::NodeId;
use proto::control::PopView;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::demo::ShownAnswer;
use crate::commands::status;
use crate::load::Measured;
use crate::table::{ms, table, thousands};

/// What was seen.
pub struct Report {
    pub began: Instant,
    pub attended: bool,
    pub measured: Measured,
    pub answers: Vec<ShownAnswer>,
    pub acknowledged: u64,
    pub in_cloud: u64,
    pub dead_letters: u64,
    pub killed: Option<NodeId>,
    pub pops: Vec<PopView>,
    pub models: Vec<Model>,
}

/// As JSON has it.
#[derive(Debug, Serialize)]
pub struct Json {
    requests: u64,
    errors: u64,
    error_kinds: Vec<(String, u64)>,
    mean_us: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    events_acknowledged: u64,
    events_in_cloud: u64,
    killed_node: Option<u64>,
    served_by: Vec<(String, u64)>,
    models: Vec<Model>,
    revision: u64,
    nodes: Vec<Node>,
    answers: Vec<ShownAnswer>,
    seconds: f64,
}

/// A model that nodes serve with, by the head of its card.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Model {
    /// `retrieval` or `ranker`.
    pub kind: String,
    /// What it is.
    pub name: String,
    /// Which one.
    pub version: String,
}

#[derive(Debug, Serialize)]
struct Node {
    node: u64,
    role: String,
    term: u64,
    applied: u64,
    outbox: u64,
    revision: u64,
    engine: String,
    client_address: String,
}

impl Report {
    pub fn new(began: Instant, attended: bool) -> Self {
        Self {
            began,
            attended,
            measured: Measured::default(),
            answers: Vec::new(),
            acknowledged: 0,
            in_cloud: 0,
            dead_letters: 0,
            killed: None,
            pops: Vec::new(),
            models: Vec::new(),
        }
    }

    /// Nothing failed, and the acknowledged and the counted events are equal. Attended, other apps may have added theirs.
    pub fn good(&self) -> bool {
        let counted = if self.attended {
            self.acknowledged <= self.in_cloud
        } else {
            self.acknowledged == self.in_cloud
        };
        self.measured.errors == 0 && self.dead_letters == 0 && counted
    }

    pub fn table(&self) -> String {
        let figures = self.measured.figures();
        let verdict = match self.in_cloud.checked_sub(self.acknowledged) {
            Some(0) => "equal, none lost".to_owned(),
            Some(more) if self.attended => format!("none lost, {more} of other apps"),
            _ => "NOT as it must be".to_owned(),
        };
        let rows = [
            ("requests", thousands(figures.requests)),
            ("errors", thousands(figures.errors)),
            ("mean", ms(figures.mean_us as u64)),
            ("p50", ms(figures.p50_us)),
            ("p99", ms(figures.p99_us)),
            ("p99.9", ms(figures.p999_us)),
            ("events acknowledged", thousands(self.acknowledged)),
            ("events in the cloud", format!("{} ({verdict})", thousands(self.in_cloud))),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        let mut text =
            format!("{}\n\n{}", status::screen(&self.pops, status::now_ms()), table(&["seen", ""], &rows));
        for (kind, count) in &self.measured.error_kinds {
            text.push_str(&format!("\n{count} × {kind}"));
        }
        text
    }

    pub fn json(&self) -> Json {
        let figures = self.measured.figures();
        let nodes = || self.pops.iter().flat_map(|pop| &pop.nodes);
        let node = |view: &proto::control::NodeView| Node {
            node: view.node.0,
            role: format!("{:?}", view.report.role).to_lowercase(),
            term: view.report.term,
            applied: view.report.applied,
            outbox: view.report.outbox,
            revision: view.report.revision.0,
            engine: view.report.engine.clone(),
            client_address: view.report.client_address.clone(),
        };
        Json {
            requests: figures.requests,
            errors: figures.errors + self.dead_letters,
            error_kinds: self.measured.error_kinds.clone(),
            mean_us: figures.mean_us,
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            p999_us: figures.p999_us,
            events_acknowledged: self.acknowledged,
            events_in_cloud: self.in_cloud,
            killed_node: self.killed.map(|node| node.0),
            served_by: self.measured.served_by.clone(),
            models: self.models.clone(),
            revision: nodes().map(|node| node.report.revision.0).max().unwrap_or(0),
            nodes: nodes().map(node).collect(),
            answers: self.answers.clone(),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}
