//! `rockpool-train`: trains the models of a data set, and measures them on published protocols.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};

use dataset::files::Files;
use dataset::{Dataset, ReadOptions};
use inference::Engine;
use training::evaluate::{self, Effort};
use training::produce;
use training::recipe::Artifact;

/// Trains Rockpool's models and measures them.
///
/// Both commands read a data set: MovieLens-100K (fetched before, see the README), or your own files.
#[derive(Parser)]
#[command(name = "rockpool-train", version, after_long_help = schema())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train on all of the data and write retrieval.onnx, ranker.onnx and their cards.
    ///
    /// How long to train is chosen on held-out interactions; then everything is used. Without ratings in the data there is
    /// no ranker, and only the retrieval model is written.
    #[command(after_long_help = schema())]
    Train {
        #[command(flatten)]
        source: Source,
        /// Folder that the models are written to.
        #[arg(long, value_name = "FOLDER", default_value = "models/onnx")]
        out: PathBuf,
        #[command(flatten)]
        run: Run,
    },
    /// Measure on published protocols, beside baselines. Trains on each split by itself; writes no model.
    #[command(after_long_help = schema())]
    Evaluate {
        #[command(flatten)]
        source: Source,
        /// Also write all figures here, as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        run: Run,
    },
}

#[derive(Args)]
struct Source {
    /// `ml-100k`, or a folder with items, interactions and maybe visitors files.
    #[arg(long, value_name = "NAME|FOLDER", default_value = "ml-100k")]
    data: String,
    /// Your items file, instead of --data.
    #[arg(long, value_name = "FILE", requires = "interactions", conflicts_with = "data")]
    items: Option<PathBuf>,
    /// Your interactions file, instead of --data.
    #[arg(long, value_name = "FILE", requires = "items", conflicts_with = "data")]
    interactions: Option<PathBuf>,
    /// Your visitors file.
    #[arg(long, value_name = "FILE", requires = "interactions")]
    visitors: Option<PathBuf>,
    /// Share of a file's rows that may be skipped because they are bad, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    bad_rows_max: f64,
}

#[derive(Args)]
struct Run {
    /// The same seed gives the same models, splits and negatives.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Hardly train at all: shows that everything works, and nothing else.
    #[arg(long)]
    quick: bool,
    /// The ONNX Runtime library; found by itself where `make up` put it. Without one, tract runs the models.
    #[arg(long, value_name = "FILE", env = "ROCKPOOL_ONNXRUNTIME")]
    onnxruntime: Option<PathBuf>,
}

fn schema() -> String {
    format!("Your own data:\n\n{}", dataset::files::SCHEMA)
}

/// The matrices here are small: more threads a product make it slower (measured), and take cores from the other half of the
/// evaluation. candle reads this variable when it first multiplies.
const THREADS: &str = "RAYON_NUM_THREADS";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os(THREADS).is_none() {
        return with_one_thread();
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("rockpool-train: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Becomes the same program with the variable set, as setting it in a running process is unsound.
fn with_one_thread() -> ExitCode {
    let error = match std::env::current_exe() {
        Ok(program) => {
            std::process::Command::new(program).args(std::env::args_os().skip(1)).env(THREADS, "1").exec()
        }
        Err(error) => error,
    };
    say(&format!("rockpool-train: cannot start itself with {THREADS}=1: {error}"));
    ExitCode::FAILURE
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train { source, out, run } => train(&source, &out, &run),
        Command::Evaluate { source, json, run } => evaluate(&source, json.as_deref(), &run),
    }
}

fn train(source: &Source, out: &Path, run: &Run) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let data = read(source)?;
    let engine = engine(run);
    let models = produce::produce(&data, &effort(run), run.seed, &engine)?;
    write(out, "retrieval", &models.retrieval)?;
    match &models.ranker {
        Some(ranker) => write(out, "ranker", ranker)?,
        None => say("the data has too few ratings for a ranker; none was written"),
    }
    Ok(())
}

fn evaluate(source: &Source, json: Option<&Path>, run: &Run) -> anyhow::Result<()> {
    let data = read(source)?;
    let report = evaluate::evaluate(&data, &effort(run), run.seed, &engine(run))?;
    print(&evaluate::table::render(&report));
    if let Some(path) = json {
        let text = serde_json::to_vec_pretty(&report).context("cannot write the report as JSON")?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn effort(run: &Run) -> Effort {
    if run.quick { Effort::quick() } else { Effort::full() }
}

fn engine(run: &Run) -> Engine {
    let engine = Engine::choose(run.onnxruntime.as_deref());
    say(&format!("engine: {}", engine.describe()));
    engine
}

fn read(source: &Source) -> anyhow::Result<Dataset> {
    if !(0.0..=1.0).contains(&source.bad_rows_max) {
        bail!("--bad-rows-max must be from 0 to 1, not {}", source.bad_rows_max);
    }
    let options = ReadOptions { bad_rows_max: source.bad_rows_max };
    let data = match (&source.items, &source.interactions) {
        (Some(items), Some(interactions)) => {
            let (items, interactions) = (items.clone(), interactions.clone());
            dataset::files::read(&Files { items, interactions, visitors: source.visitors.clone() }, &options)
        }
        _ => dataset::open(&source.data, &options),
    };
    let data = data.with_context(|| format!("cannot read the data set {}", source.data))?;
    for report in &data.reports {
        say(&format!("{}: {} rows, {} skipped", report.path.display(), report.rows, report.bad));
        report.examples.iter().for_each(|row| say(&format!("  skipped {}", report.describe(row))));
    }
    Ok(data)
}

/// Writes a model and its card beside their places and moves them there, so that nobody sees half a file.
fn write(out: &Path, name: &str, artifact: &Artifact) -> anyhow::Result<()> {
    for (ending, bytes) in [("onnx", artifact.onnx.clone()), ("card.json", artifact.card.to_json())] {
        let (path, part) = (out.join(format!("{name}.{ending}")), out.join(format!(".{name}.{ending}.part")));
        fs::write(&part, &bytes).with_context(|| format!("cannot write {}", part.display()))?;
        fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("{}: {} bytes", path.display(), bytes.len()));
    }
    let metrics = artifact.card.metrics.iter().map(|(name, value)| format!("{name} {value:.4}"));
    say(&format!("{}: {}", artifact.card.version, metrics.collect::<Vec<_>>().join(", ")));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "what happens is for the person at the terminal")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the table is what was asked for")]
fn print(text: &str) {
    println!("{text}");
}
