//! `rockpool rules`: block lists, caps, diversity and the share of new items, changed without data or models at hand.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use proto::bundle::RuleSettings;

use super::admin::Cloud;
use super::say;

/// How the file looks; for `--help` and for people.
pub const FORM: &str = r#"The rules are JSON; what is left out has the value shown here:

  {
    "block": [],              items that are never served: ["item-7", …]
    "caps": {},               most items of one answer that share a value, by `category` or an attribute's name:
                              {"category": 3, "brand": 2}
    "diversity": 0.15,        0: only how well each item fits; 1: above all, items of different categories
    "explore_share": 0.1,     share of an answer's places for new items, which nobody has dealt with yet; 0: none
    "repeat_bought": false,   true: what a visitor bought is offered again; false: only when nothing else is left
    "seen_max": 0             an item seen this often without a click is no longer offered; 0: no limit
  }"#;

/// What people decide of what is served.
#[derive(Debug, Subcommand)]
pub enum Rules {
    /// Show the rules in force, as the file that `set` takes.
    Show {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
    },
    /// Publish the present bundle with the rules of a file.
    #[command(after_help = FORM)]
    Set {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
        /// The rules.
        file: PathBuf,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        note: String,
    },
}

/// Runs `rockpool rules …`.
pub async fn run(command: Rules) -> anyhow::Result<()> {
    match command {
        Rules::Show { cloud } => say(&serde_json::to_string_pretty(&cloud.control()?.rules().await?)?),
        Rules::Set { cloud, file, note } => {
            let published = cloud.control()?.set_rules(&read(&file)?, &note).await?;
            say(&format!("published revision {} with these rules", published.revision));
        }
    }
    Ok(())
}

/// Reads a file of rules.
pub fn read(file: &Path) -> anyhow::Result<RuleSettings> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no file of rules\n{FORM}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_that_people_are_shown_has_the_defaults() {
        let json: String = FORM
            .lines()
            .skip(1)
            .filter(|line| line.contains(['{', '}', '"']) && !line.trim_start().starts_with("{\"category"))
            .map(|line| line.split("  ").find(|part| !part.is_empty()).unwrap_or_default())
            .collect();
        let shown: RuleSettings = serde_json::from_str(&json).unwrap();
        assert_eq!(shown, RuleSettings::default());
    }

    #[test]
    fn a_wrong_file_is_told_how_a_right_one_looks() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.json");
        std::fs::write(&file, r#"{"blocked": ["a"]}"#).unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(
            error.contains("rules.json") && error.contains("blocked") && error.contains("\"caps\""),
            "{error}"
        );
    }
}
