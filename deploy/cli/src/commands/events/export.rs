//! `rockpool events export`: pages of the cloud's events to files, in bounded memory, and on from where it stopped.
//!
//! While it runs, FOLDER/.export has the rows as CSV and how far they go; each page is on disk before that moves. At the end the files
//! take their names at once.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use dataset::convert::parquet_from_csv;
use proto::control::EventPage;
use serde::{Deserialize, Serialize};

use super::rows::{COLUMNS, column, row};
use crate::commands::admin::Cloud;
use crate::commands::say;
use crate::table::thousands;

/// Files of events that are about an item, and of all others.
const NAMES: [&str; 2] = ["interactions", "other-events"];
/// Where an export that is not complete lies.
const PARTIAL: &str = ".export";

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// RFC 4180, UTF-8, with a header line.
    Csv,
    /// Apache Parquet, Snappy.
    Parquet,
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        }
    }
}

/// What to export, and to where.
#[derive(Debug, Args)]
pub struct Export {
    /// Which cloud.
    #[command(flatten)]
    pub cloud: Cloud,
    /// The folder; it is made. Files of an earlier export are not overwritten.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// CSV or Parquet.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    pub format: Format,
    /// Only events after this cursor, which an earlier export named at its end.
    #[arg(long, default_value_t = 0)]
    pub after: u64,
}

/// How far an export has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// The cursor it began with.
    began_after: u64,
    /// The cursor of its next page.
    next: u64,
    /// Rows of each file.
    rows: [u64; 2],
    /// Bytes of each file that are on disk.
    bytes: [u64; 2],
}

/// Runs `rockpool events export`.
pub async fn run(command: Export) -> anyhow::Result<()> {
    let control = command.cloud.control()?;
    let path = |name: &str, ending: &str| command.out.join(format!("{name}.{ending}"));
    for (name, ending) in NAMES.into_iter().flat_map(|name| ["csv", "tsv", "parquet"].map(|e| (name, e))) {
        let path = path(name, ending);
        anyhow::ensure!(!path.exists(), "{} exists already: choose another folder", path.display());
    }
    let mut partial = Partial::open(&command.out.join(PARTIAL), command.after)?;
    if partial.progress.next > command.after {
        say(&format!("going on after event {}", thousands(partial.progress.next)));
    }
    loop {
        let page = control.events_page(partial.progress.next, None).await?;
        partial.take(&page)?;
        if page.next >= page.last {
            break;
        }
    }
    let progress = partial.progress.clone();
    let folder = partial.close();
    for name in NAMES {
        let csv = folder.join(format!("{name}.csv"));
        let made = folder.join(format!("{name}.{}", command.format.ending()));
        if command.format == Format::Parquet {
            parquet_from_csv(&csv, &made, column)?;
        }
        let to = path(name, command.format.ending());
        fs::rename(&made, &to).with_context(|| format!("cannot name {}", to.display()))?;
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    say(&format!(
        "exported {} events about items and {} others to {}; what comes later: --after {}",
        thousands(progress.rows[0]),
        thousands(progress.rows[1]),
        command.out.display(),
        progress.next
    ));
    Ok(())
}

/// An export that is not complete.
struct Partial {
    folder: PathBuf,
    files: [BufWriter<File>; 2],
    progress: Progress,
}

impl Partial {
    /// Goes on with what is there, if it began after the same event; else begins.
    fn open(folder: &Path, after: u64) -> anyhow::Result<Self> {
        let failed = || format!("cannot use {}", folder.display());
        let known = match fs::read(folder.join("progress.json")) {
            Ok(text) => serde_json::from_slice::<Progress>(&text).ok().filter(|p| p.began_after == after),
            Err(_) => None,
        };
        if known.is_none() && folder.exists() {
            fs::remove_dir_all(folder).with_context(failed)?;
        }
        fs::create_dir_all(folder).with_context(failed)?;
        let begun = Progress { began_after: after, next: after, rows: [0; 2], bytes: [0; 2] };
        let fresh = known.is_none();
        let progress = known.unwrap_or(begun);
        let open = |at: usize| -> anyhow::Result<BufWriter<File>> {
            let path = folder.join(format!("{}.csv", NAMES[at]));
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            // A page that was being written when it was cut off is read again.
            file.set_len(progress.bytes[at])?;
            file.seek(SeekFrom::End(0))?;
            Ok(BufWriter::new(file))
        };
        let files = [open(0).with_context(failed)?, open(1).with_context(failed)?];
        let mut partial = Self { folder: folder.to_owned(), files, progress };
        if fresh {
            for file in &mut partial.files {
                file.write_all(&line(&COLUMNS)?)?;
            }
            partial.save()?;
        }
        Ok(partial)
    }

    /// Writes a page, and then how far it goes.
    fn take(&mut self, page: &EventPage) -> anyhow::Result<()> {
        anyhow::ensure!(
            page.next > self.progress.next || page.next >= page.last,
            "the cloud's page after event {} leads nowhere",
            self.progress.next
        );
        for event in &page.events {
            let at = usize::from(event.item.is_none());
            self.files[at].write_all(&line(&row(event))?)?;
            self.progress.rows[at] += 1;
        }
        self.progress.next = page.next.max(self.progress.next);
        self.save()
    }

    fn save(&mut self) -> anyhow::Result<()> {
        for (file, bytes) in self.files.iter_mut().zip(&mut self.progress.bytes) {
            file.flush()?;
            file.get_ref().sync_data()?;
            *bytes = file.get_ref().metadata()?.len();
        }
        let text = serde_json::to_vec(&self.progress)?;
        service::files::publish(&self.folder.join("progress.json"), &text)?;
        Ok(())
    }

    fn close(self) -> PathBuf {
        self.folder
    }
}

fn line<T: AsRef<[u8]>>(fields: &[T]) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields)?;
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

#[cfg(test)]
mod tests;
