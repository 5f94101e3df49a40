//! `rockpool history import`: gives visitors their past, so that they are answered by taste from their first request on.
//!
//! What they did becomes events with the times of then and ids made of their contents: importing twice counts once. A
//! profile keeps its latest interactions by time, so that a past does not overrule what happened since.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use client_sdk::{Client, Config, Event, EventId, EventKind, SlotId, TraceId, Trust, VisitorId};
use dataset::{Act, Dataset, ReadOptions};
use proto::limits::TRACK_EVENTS_MAX;
use proto::{Digest, PopId};

use super::events::visitor_of;
use super::say;
use crate::table::thousands;

/// ISO 4217: no currency.
const NO_CURRENCY: [u8; 3] = [b'X'; 3];
/// How long one batch may take, with all its repetitions.
const BATCH_WITHIN: Duration = Duration::from_secs(120);
/// Most interactions of one visitor: a profile holds no more.
const PAST_MAX: u16 = 200;
/// Where what was done then was shown: events name a slot.
const SLOT: &str = "history";

/// What visitors did before.
#[derive(Debug, Subcommand)]
pub enum History {
    /// Give visitors the past that a data set has of them: after `rockpool bundle publish`, so that they are answered by taste.
    ///
    /// Each interaction becomes an event with its own time: a rating where the data has one, a conversion where it says that something
    /// was bought, else a click. Each visitor's traits are set. What the PoP knows of later times stays the newest. Running it again changes nothing. A `visitor_id` with `d:` before it
    /// is a device's, as `rockpool events export` writes it; any other is a user's.
    Import(Import),
}

/// Whose past, and where to.
#[derive(Debug, Args)]
pub struct Import {
    /// `ml-100k`, or a folder with items, interactions and maybe visitors (see `rockpool train --help`).
    #[arg(long)]
    data: String,
    /// Client addresses of the PoP's nodes, host:port, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    nodes: Vec<String>,
    /// The PoP.
    #[arg(long, default_value = "pop-a")]
    pop: PopId,
    /// The file of the deployment's CA: DIR/pki/ca.pem of `rockpool up --dir DIR`.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// A file with an app key that may track (mode 0600): DIR/app.key.
    #[arg(long, value_name = "FILE")]
    app_key_file: PathBuf,
    /// Only the latest so many interactions of each visitor; a profile holds no more than 200.
    #[arg(long, default_value_t = PAST_MAX, value_parser = clap::value_parser!(u16).range(1..=i64::from(PAST_MAX)))]
    per_visitor: u16,
    /// Share of a file's rows that may be skipped because they are bad, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = ReadOptions::default().bad_rows_max)]
    bad_rows_max: f64,
}

/// Runs `rockpool history …`.
pub async fn run(command: History) -> anyhow::Result<()> {
    let History::Import(import) = command;
    let options = ReadOptions { bad_rows_max: import.bad_rows_max, ..ReadOptions::default() };
    let data = dataset::open(&import.data, &options)?;
    let key = service::secrets::read(&import.app_key_file)?;
    let name = transport::edge_name(&import.pop)?;
    let config = Config::new(import.nodes, name, Trust::CaFile(import.ca), key);
    let client = Client::connect(config).await.context("no node can be reached")?;
    let imported = hand_over(&client, &data, import.per_visitor.into()).await;
    client.close().await;
    let Imported { visitors, accepted, duplicates } = imported?;
    say(&format!(
        "{} visitors have their past: {} events taken, {} were known",
        thousands(visitors),
        thousands(accepted),
        thousands(duplicates)
    ));
    Ok(())
}

/// What an import came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Visitors with a past.
    pub visitors: u64,
    /// Events that the PoP counted.
    pub accepted: u64,
    /// Events that it had counted before.
    pub duplicates: u64,
}

/// Hands over the past of every visitor of a data set, batch by batch.
pub async fn hand_over(client: &Client, data: &Dataset, per_visitor: usize) -> anyhow::Result<Imported> {
    let (mut imported, mut batch) = (Imported::default(), Vec::new());
    for (at, rows) in data.by_visitor().iter().enumerate() {
        let Some(past) = past_of(data, at, &rows[rows.len().saturating_sub(per_visitor)..])? else {
            continue;
        };
        imported.visitors += 1;
        for event in past {
            batch.push(event);
            if batch.len() == TRACK_EVENTS_MAX {
                send(client, std::mem::take(&mut batch), &mut imported).await?;
            }
        }
    }
    if !batch.is_empty() {
        send(client, batch, &mut imported).await?;
    }
    Ok(imported)
}

async fn send(client: &Client, batch: Vec<Event>, imported: &mut Imported) -> anyhow::Result<()> {
    let tracked = client.import(batch, BATCH_WITHIN).await.with_context(|| {
        format!("{} events were taken; run it again to go on", thousands(imported.accepted))
    })?;
    imported.accepted += u64::from(tracked.accepted);
    imported.duplicates += u64::from(tracked.duplicates);
    Ok(())
}

/// A visitor's past as events, oldest first. None: there is none.
fn past_of(data: &Dataset, visitor: usize, rows: &[u32]) -> anyhow::Result<Option<Vec<Event>>> {
    let person = &data.visitors[visitor];
    let id = visitor_of(person.id.as_str()).with_context(|| format!("visitor_id {}", person.id))?;
    let Some(last) = rows.last().map(|row| &data.interactions[*row as usize]) else { return Ok(None) };
    let slot = SlotId::new(SLOT)?;
    let mut past = Vec::with_capacity(rows.len() + 1);
    if !person.traits.is_empty() {
        let kind = EventKind::Custom { name: "identify".into(), attributes: person.traits.clone() };
        past.push(event(&id, last.at_ms, kind));
    }
    for row in rows {
        let interaction = &data.interactions[*row as usize];
        let item = data.items[interaction.item as usize].id.clone();
        let kind = match (interaction.stars, interaction.act) {
            (Some(stars), _) => EventKind::Rating { item, stars },
            // Whether it comes again is a rule; what it was worth is not in the file.
            (None, Act::Conversion) => {
                EventKind::Conversion { item, value_micros: 0, currency: NO_CURRENCY, answer: None }
            }
            (None, _) => EventKind::Click { item, slot: slot.clone(), answer: None },
        };
        past.push(event(&id, interaction.at_ms, kind));
    }
    Ok(Some(past))
}

/// An event whose id is made of its contents: a UUIDv7 (RFC 9562, 5.7) of its time, with a hash where random bits are.
fn event(visitor: &VisitorId, at_ms: u64, kind: EventKind) -> Event {
    let mut event =
        Event { id: EventId(uuid::Uuid::nil()), visitor: visitor.clone(), at_ms, trace: TraceId(0), kind };
    let hash = Digest::of(&proto::codec::encode(&event));
    let mut bits = [0; 10];
    bits.copy_from_slice(&hash.0[..10]);
    event.id = EventId(uuid::Builder::from_unix_timestamp_millis(at_ms, &bits).into_uuid());
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_imported_as_a_profile_holds() {
        assert_eq!(usize::from(PAST_MAX), proto::limits::PROFILE_RING_LEN);
    }

    #[test]
    fn a_file_in_any_order_gives_a_past_in_the_order_of_its_times() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("items.csv", "item_id,title,categories\na,A,\nb,B,\nc,C,\n");
        write(
            "interactions.csv",
            "visitor_id,item_id,timestamp,rating\nada,c,1700000300,\nd:phone,a,1700000000,\nada,a,1700000100,1\nada,b,1700000200,5\n",
        );
        write("visitors.csv", "visitor_id,plan\nada,paid\nnobody,free\n");
        let data = dataset::open(folder.path().to_str().unwrap(), &ReadOptions::default()).unwrap();
        let all: Vec<_> =
            data.by_visitor().iter().enumerate().map(|(n, rows)| past_of(&data, n, rows).unwrap()).collect();
        let past_of = |name: &str| {
            let mut pasts = all.iter().flatten().filter(|past| past[0].visitor.to_string() == name);
            pasts
                .next()
                .unwrap()
                .iter()
                .map(|e| (e.kind.item().map(|i| i.to_string()), e.at_ms))
                .collect::<Vec<_>>()
        };
        let met = |item: &str, second: u64| (Some(item.to_owned()), second * 1_000);
        // Traits are of the visitor's last time: what is identified later overrules them.
        let ada = [
            (None, 1_700_000_300_000),
            met("a", 1_700_000_100),
            met("b", 1_700_000_200),
            met("c", 1_700_000_300),
        ];
        assert_eq!(past_of("u:ada"), ada);
        assert_eq!(past_of("d:phone"), [met("a", 1_700_000_000)]);
        assert_eq!(all.iter().flatten().count(), 2, "nobody has no past");
        let kinds: Vec<_> =
            all[0].as_ref().unwrap().iter().map(|event| event.kind.name().to_owned()).collect();
        assert_eq!(kinds, ["custom", "rating", "rating", "click"]);
    }

    #[test]
    fn the_same_past_has_the_same_ids_and_another_has_others() {
        let visitor = visitor_of("ada").unwrap();
        let rating = |stars| EventKind::Rating { item: "50".parse().unwrap(), stars };
        let at_ms = 881_250_949_000;
        let one = event(&visitor, at_ms, rating(5.0));
        assert_eq!(one, event(&visitor, at_ms, rating(5.0)));
        one.check(1_760_000_000_000).unwrap();
        assert_eq!(one.id.0.get_timestamp().unwrap().to_unix().0, at_ms / 1_000);
        for other in [
            event(&visitor, at_ms, rating(4.0)),
            event(&visitor, at_ms + 1, rating(5.0)),
            event(&visitor_of("d:ada").unwrap(), at_ms, rating(5.0)),
        ] {
            assert_ne!(other.id, one.id);
        }
    }
}
