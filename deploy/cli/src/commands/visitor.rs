//! `rockpool visitor`: what is known of one visitor, and its erasure.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use proto::VisitorId;
use tokio::time::Instant;

use super::admin::Cloud;
use super::{parse_duration, say, utc};
use crate::control::{Control, NodeAdmin};
use crate::table::thousands;

/// How often it is looked whether all PoPs have erased a visitor.
const POLL: Duration = Duration::from_millis(500);

/// One visitor.
#[derive(Debug, Subcommand)]
pub enum Visitor {
    /// Erase all that is known of a visitor: events in the cloud, the profile on all nodes of every PoP.
    ///
    /// What the visitor did before and what arrives later is not taken in; what the visitor does from now on is. The audit log has a line
    /// with a hash instead of the id. Running it again erases what came since. Files that were exported before, and backups, are yours
    /// to erase. All nodes must be of a version that knows erasures.
    Erase {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// `u:<user>` or `d:<device>`.
        visitor: VisitorId,
        /// How long to wait until every PoP has done it. PoPs that cannot reach the cloud do it when they can.
        #[arg(long, default_value = "30s", value_parser = parse_duration)]
        wait: Duration,
    },
    /// Write all that is known of a visitor to standard output, as JSON: events of the cloud, and the profile of a PoP.
    Export {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// `u:<user>` or `d:<device>`.
        visitor: VisitorId,
        /// The admin port of a node, host:port, for the profile that its PoP has.
        #[arg(long, requires = "node_token_file")]
        node: Option<String>,
        /// A file with that node's admin token (mode 0600).
        #[arg(long, value_name = "FILE")]
        node_token_file: Option<PathBuf>,
    },
}

/// Runs it. `Ok(false)`: not every PoP has erased the visitor yet.
pub async fn run(command: Visitor) -> anyhow::Result<bool> {
    match command {
        Visitor::Erase { cloud, visitor, wait } => erase(&cloud.control()?, &visitor, wait).await,
        Visitor::Export { cloud, visitor, node, node_token_file } => {
            let profile = match node.zip(node_token_file) {
                Some((node, file)) => {
                    let token = service::secrets::read(&file)?;
                    Some(NodeAdmin::new(&node)?.profile(&visitor, &token).await?)
                }
                None => None,
            };
            let profile = serde_json::to_string(&profile)?;
            export(&cloud.control()?, &visitor, &profile, &mut std::io::stdout().lock()).await?;
            Ok(true)
        }
    }
}

async fn erase(control: &Control, visitor: &VisitorId, wait: Duration) -> anyhow::Result<bool> {
    let mut erasure = control.erase_visitor(visitor).await?;
    say(&format!(
        "erased {} events of before {} in the cloud",
        thousands(erasure.events),
        utc(erasure.erased_at_ms)
    ));
    let until = Instant::now() + wait;
    while !erasure.waiting.is_empty() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
        erasure = control.erasure(visitor).await?;
    }
    let waiting: Vec<_> = erasure.waiting.iter().map(ToString::to_string).collect();
    match waiting.as_slice() {
        [] => say("every PoP has erased the profile"),
        waiting => {
            say(&format!("not yet erased by {}: it will be when it reaches the cloud", waiting.join(", ")))
        }
    }
    Ok(waiting.is_empty())
}

/// Writes it page by page: a visitor's events need no more memory for being many.
async fn export(
    control: &Control,
    visitor: &VisitorId,
    profile: &str,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let failed = "cannot write what is known";
    let name = serde_json::to_string(&visitor.to_string())?;
    write!(out, "{{\"visitor\": {name},\n\"profile\": {profile},\n\"events\": [").context(failed)?;
    let (mut after, mut first) = (0, true);
    loop {
        let page = control.events_page(after, Some(visitor)).await?;
        for event in &page.events {
            let comma = if std::mem::take(&mut first) { "\n" } else { ",\n" };
            write!(out, "{comma}{}", serde_json::to_string(event)?).context(failed)?;
        }
        anyhow::ensure!(
            page.next > after || page.next >= page.last,
            "the cloud's page after {after} leads nowhere"
        );
        if page.next >= page.last {
            break;
        }
        after = page.next;
    }
    writeln!(out, "]}}").context(failed)?;
    Ok(())
}
