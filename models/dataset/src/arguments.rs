//! The options of the commands that read data: `rockpool train`, `evaluate`, `bundle publish` and `up`. One definition, so
//! that each takes what the others take, and so that `rockpool` shows at once the help of `rockpool-train`, which it may
//! have to build first.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::files::{self, Files, RatingScale};
use crate::report::ReadOptions;
use crate::time::UtcOffset;
use crate::{Dataset, DatasetError, ML_100K};

/// Where trained models are, unless said otherwise.
pub const MODELS: &str = "models/onnx";

/// Which data set, and how its files are read.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// `ml-100k`, or a folder with items, interactions and maybe visitors files.
    #[arg(long, value_name = "NAME|FOLDER", default_value = ML_100K)]
    pub data: String,
    /// Your items file, instead of that in the --data folder.
    #[arg(long, value_name = "FILE")]
    pub items: Option<PathBuf>,
    /// Your interactions file, instead of that in the --data folder.
    #[arg(long, value_name = "FILE")]
    pub interactions: Option<PathBuf>,
    /// Your visitors file, instead of that in the --data folder.
    #[arg(long, value_name = "FILE")]
    pub visitors: Option<PathBuf>,
    /// Share of a file's rows that may be skipped because they are bad, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = parse_share)]
    pub bad_rows_max: f64,
    /// What your ratings go from and to, such as 1..10; without it the files show it.
    #[arg(long, value_name = "LOW..HIGH", allow_hyphen_values = true)]
    pub rating_scale: Option<RatingScale>,
    /// The offset from UTC of times that have no zone, such as +02:00.
    #[arg(long, value_name = "OFFSET", default_value = "+00:00", allow_hyphen_values = true)]
    pub utc_offset: UtcOffset,
    /// What a column is called in your files, such as `timestamp=Created at`; may be given several times.
    #[arg(long = "column", value_name = "NAME=THEIRS", value_parser = parse_column)]
    pub columns: Vec<(String, String)>,
}

/// How to train and to measure.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// The same seed gives the same models, splits and negatives.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Hardly train at all: shows that everything works, and nothing else.
    #[arg(long)]
    pub quick: bool,
    /// The ONNX Runtime library; found by itself where `make up` put it. Without one, tract runs the models.
    #[arg(long, value_name = "FILE", env = "ROCKPOOL_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
}

/// Train on all of the data and write retrieval.onnx, ranker.onnx and their cards.
///
/// How long to train is chosen on held-out interactions; then everything is used. Each model stands by itself: where the data
/// is not enough for one, it is said why, the other is written all the same, and an older one is moved aside. An error only
/// if there is none at all.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = schema())]
pub struct Train {
    /// Which data.
    #[command(flatten)]
    pub source: Source,
    /// Folder that the models are written to.
    #[arg(long, value_name = "FOLDER", default_value = MODELS)]
    pub out: PathBuf,
    /// How.
    #[command(flatten)]
    pub run: Run,
}

/// Measure on published protocols, beside baselines. Trains on each split by itself; writes no model.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = schema())]
pub struct Evaluate {
    /// Which data.
    #[command(flatten)]
    pub source: Source,
    /// Also write all figures here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub run: Run,
}

/// Which files and columns, for `--help`.
pub fn schema() -> String {
    format!("Your own data:\n\n{}", files::SCHEMA)
}

impl Source {
    /// Reads the data set.
    pub fn read(&self) -> Result<Dataset, DatasetError> {
        let options = ReadOptions {
            bad_rows_max: self.bad_rows_max,
            rating_scale: self.rating_scale,
            utc_offset: self.utc_offset,
            columns: self.columns.clone(),
        };
        let own = [&self.items, &self.interactions, &self.visitors].into_iter().any(Option::is_some);
        if own { files::read(&self.files()?, &options) } else { crate::open(&self.data, &options) }
    }

    /// The files that are named, and the folder's for the others.
    fn files(&self) -> Result<Files, DatasetError> {
        let folder = (self.data != ML_100K).then(|| Path::new(&self.data));
        let needed = |given: &Option<PathBuf>, name: &str| match (given, folder) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(folder)) => Files::needed(folder, name),
            (None, None) => {
                Err(DatasetError::Option(format!("--{name} is missing, or the folder of all files: --data")))
            }
        };
        let visitors = match (&self.visitors, folder) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(folder)) => Files::found(folder, "visitors")?,
            (None, None) => None,
        };
        Ok(Files {
            items: needed(&self.items, "items")?,
            interactions: needed(&self.interactions, "interactions")?,
            visitors,
        })
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is from 0 to 1".to_owned())
}

/// Our names of columns that may be called otherwise.
const COLUMNS: [&str; 8] =
    ["item_id", "title", "categories", "visitor_id", "timestamp", "rating", "kind", "value"];

fn parse_column(text: &str) -> Result<(String, String), String> {
    let (name, theirs) = text.split_once('=').ok_or("write NAME=THEIRS, such as timestamp=\"Created at\"")?;
    if !COLUMNS.contains(&name) {
        return Err(format!("{name:?} is none of {}", COLUMNS.join(", ")));
    }
    Ok((name.to_owned(), theirs.to_owned()))
}
