//! The same work for every side: MovieLens' catalog, the ONNX files of a models folder, visitors with the past that MovieLens has of
//! them, and what is asked for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use client_sdk::{EventKind, UserId, VisitorId};
use dataset::{Dataset, ReadOptions};
use proto::bundle::{ArtifactKind, Rules};
use proto::profile::{Interaction, Signal};
use rockpool::publish;
use serde::Serialize;

/// Items of an answer.
pub const COUNT: u16 = 20;
/// How long a visitor waits, in milliseconds.
pub const DEADLINE_MS: u32 = 2_000;
/// Where the items would be shown.
pub const SLOT: &str = "bench";
/// Ratings of each visitor that are replayed, the latest: as `rockpool bench` does.
const REPLAYED_MAX: usize = 20;

/// Data, models and visitors.
pub struct Work {
    /// Catalog, rules, models and cards.
    pub artifacts: Vec<(ArtifactKind, Vec<u8>)>,
    /// All visitors of the data set.
    pub visitors: Vec<Visitor>,
}

/// Somebody with a past.
pub struct Visitor {
    /// Who.
    pub id: VisitorId,
    /// The same, as text.
    pub name: String,
    /// Age, gender, occupation.
    pub traits: Vec<(String, String)>,
    /// Oldest first.
    pub past: Vec<Interaction>,
}

/// A profile as the Python side keeps it in Redis.
#[derive(Serialize)]
struct Stored<'a> {
    traits: BTreeMap<&'a str, &'a str>,
    interactions: Vec<(&'a str, f32, u64)>,
}

/// The same rules with no place for items that nobody has dealt with: the other side knows none.
fn without_new_items(rules: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rules: Rules = serde_json::from_slice(rules).context("the rules are not of this version")?;
    rules.explore_share = 0.0;
    Ok(serde_json::to_vec(&rules)?)
}

impl Work {
    /// Reads the data set, and the models of a folder.
    ///
    /// # Errors
    /// Where they are not there.
    pub fn read(models: &Path) -> anyhow::Result<Self> {
        let data = dataset::open(dataset::ML_100K, &ReadOptions::default())
            .context("the data set cannot be read; `python3 deploy/fetch.py` fetches it")?;
        let mut artifacts = publish::artifacts(&data, models)?;
        for (_, rules) in artifacts.iter_mut().filter(|(kind, _)| *kind == ArtifactKind::Rules) {
            *rules = without_new_items(rules)?;
        }
        Ok(Self { artifacts, visitors: visitors(&data)? })
    }

    /// The bytes of one artifact.
    ///
    /// # Errors
    /// Where there is none of this kind.
    pub fn artifact(&self, kind: ArtifactKind) -> anyhow::Result<&[u8]> {
        let found = self.artifacts.iter().find(|(this, _)| *this == kind);
        Ok(&found.with_context(|| format!("there is no {kind:?}"))?.1)
    }

    /// Writes every artifact into a folder, for those who are not Rockpool.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_artifacts(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (kind, bytes) in &self.artifacts {
            let name = match kind {
                ArtifactKind::Catalog => "catalog.json",
                ArtifactKind::Rules => "rules.json",
                ArtifactKind::RetrievalModel => "retrieval.onnx",
                ArtifactKind::RetrievalCard => "retrieval.card.json",
                ArtifactKind::RankerModel => "ranker.onnx",
                ArtifactKind::RankerCard => "ranker.card.json",
            };
            std::fs::write(folder.join(name), bytes)?;
        }
        Ok(())
    }

    /// All profiles as JSON: `{visitor: {"traits": {…}, "interactions": [[item, stars, at_ms], …]}}`.
    ///
    /// # Errors
    /// Never, but that JSON may fail.
    pub fn profiles(&self) -> anyhow::Result<Vec<u8>> {
        let stored = |visitor: &Visitor| -> anyhow::Result<serde_json::Value> {
            let past = visitor.past.iter();
            Ok(serde_json::to_value(Stored {
                traits: visitor.traits.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
                interactions: past.map(|met| (met.item.as_str(), met.stars, met.at_ms)).collect(),
            })?)
        };
        let all: anyhow::Result<serde_json::Map<_, _>> =
            self.visitors.iter().map(|visitor| Ok((visitor.name.clone(), stored(visitor)?))).collect();
        Ok(serde_json::to_vec(&all?)?)
    }

    /// The bodies of `POST /v1/recommend`, one a visitor.
    pub fn questions(&self, deadline_ms: u32) -> Vec<String> {
        let question = |visitor: &Visitor| {
            let (user_id, slot, count) = (&visitor.name, SLOT, COUNT);
            serde_json::json!({"user_id": user_id, "slot": slot, "count": count, "deadline_ms": deadline_ms})
        };
        self.visitors.iter().map(|visitor| question(visitor).to_string()).collect()
    }
}

impl Visitor {
    /// What an app would have tracked of the visitor.
    pub fn events(&self) -> Vec<(VisitorId, EventKind)> {
        let identify = EventKind::Custom { name: "identify".into(), attributes: self.traits.clone() };
        let ratings =
            self.past.iter().map(|met| EventKind::Rating { item: met.item.clone(), stars: met.stars });
        std::iter::once(identify).chain(ratings).map(|kind| (self.id.clone(), kind)).collect()
    }
}

/// All that is replayed happened just now, as it does where `rockpool bench` tracks it.
fn visitors(data: &Dataset) -> anyhow::Result<Vec<Visitor>> {
    let at_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let met = |row: &u32| {
        let interaction = &data.interactions[*row as usize];
        let item = data.items[interaction.item as usize].id.clone();
        Interaction { item, signal: Signal::Rating, stars: interaction.stars.unwrap_or(4.0), at_ms }
    };
    let visitor = |(visitor, rows): (&dataset::Visitor, Vec<u32>)| {
        let name = visitor.id.as_str().to_owned();
        let id = VisitorId::User(UserId::new(name.as_str())?);
        let past = rows[rows.len().saturating_sub(REPLAYED_MAX)..].iter().map(met).collect();
        Ok(Visitor { id, name, traits: visitor.traits.clone(), past })
    };
    data.visitors.iter().zip(data.by_visitor()).map(visitor).collect()
}
