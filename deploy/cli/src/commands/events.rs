//! `rockpool events`: counts what the cloud holds; `rockpool events export`: all of it, as files that `rockpool train` reads.

mod export;
mod rows;

use clap::{Args, Subcommand};

use super::admin::Cloud;
use super::say;
use crate::table::{table, thousands};

pub use export::{Export, Format};
pub use rows::visitor_of;

/// The events that the cloud holds.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Events {
    /// What to do with them; without it they are counted.
    #[command(subcommand)]
    command: Option<Command>,
    /// Which cloud.
    #[command(flatten)]
    cloud: Cloud,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write all events to files that `rockpool train` and `rockpool history import` read.
    ///
    /// FOLDER/interactions.csv has a row for each event that is about an item: visitor_id, item_id, timestamp (milliseconds since 1970
    /// UTC), kind (impression, click, conversion, rating), rating (0 to 5, or empty), value and currency, slot, position,
    /// answer_id, event_id, pop, offset, received_at, trace_id. FOLDER/other-events.csv has the others, with name and attributes
    /// (JSON). A device has `d:` before its id.
    ///
    /// The way round: export, put your items file (items.csv) into FOLDER, `rockpool train --data FOLDER --out models`, `rockpool
    /// bundle publish --data FOLDER --models models`.
    ///
    /// It reads page by page and takes no more memory for more events. Cut off, it goes on where it was when it is run again.
    Export(Export),
}

/// Runs `rockpool events`.
pub async fn run(events: Events) -> anyhow::Result<()> {
    match events.command {
        Some(Command::Export(export)) => export::run(export).await,
        None => count(&events.cloud).await,
    }
}

async fn count(cloud: &Cloud) -> anyhow::Result<()> {
    let counts = cloud.control()?.event_counts().await?;
    let kinds = counts.by_kind.iter().map(|(kind, n)| vec![kind.clone(), thousands(*n)]);
    let rows: Vec<_> = kinds.chain([vec!["total".to_owned(), thousands(counts.total)]]).collect();
    say(&table(&["events in the cloud", "count"], &rows));
    Ok(())
}
