//! `rockpool-train`: trains the models of a data set, and measures them on published protocols.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use dataset::Dataset;
use dataset::arguments::{self, Run, Source};
use inference::Engine;
use training::evaluate::{self, Effort};
use training::produce;
use training::recipe::{Artifact, TrainError};

/// Trains Rockpool's models and measures them.
///
/// Both commands read a data set: MovieLens-100K (fetched before, see the README), or your own files.
#[derive(Parser)]
#[command(name = "rockpool-train", version, after_long_help = arguments::schema())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(arguments::Train),
    Evaluate(arguments::Evaluate),
}

/// The matrices here are small: more threads a product make it slower (measured), and take cores from the other half of the
/// evaluation. candle reads this variable when it first multiplies.
const THREADS: &str = "RAYON_NUM_THREADS";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os(THREADS).is_none() {
        return with_one_thread();
    }
    let done = match cli.command {
        Command::Train(arguments) => train(&arguments),
        Command::Evaluate(arguments) => evaluate(&arguments),
    };
    match done {
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

fn train(arguments: &arguments::Train) -> anyhow::Result<()> {
    let (out, run) = (arguments.out.as_path(), &arguments.run);
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let data = read(&arguments.source)?;
    let outlook = produce::outlook(&data)?;
    outlook.notes.iter().for_each(|note| say(note));
    let (engine, effort) = (engine(run), effort(run));
    let mut written = Written { out, any: false };
    let retrieval = produce::retrieval(&data, &outlook, &effort, run.seed, &engine);
    if let Some(weak) = retrieval.as_ref().ok().and_then(produce::no_better_than_popular) {
        say(&weak);
    }
    written.keep("retrieval", retrieval)?;
    written.keep("ranker", produce::ranker(&data, &outlook, &effort, run.seed, &engine))?;
    if !written.any {
        bail!(
            "no model could be trained, and none was written; `rockpool bundle publish --models none` publishes the catalog \
             with its popular items alone"
        );
    }
    Ok(())
}

fn evaluate(arguments: &arguments::Evaluate) -> anyhow::Result<()> {
    let (run, data) = (&arguments.run, read(&arguments.source)?);
    let report = evaluate::evaluate(&data, &effort(run), run.seed, &engine(run))?;
    print(&evaluate::table::render(&report));
    if let Some(path) = &arguments.json {
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
    let data = source.read().with_context(|| format!("cannot read the data set {}", source.data))?;
    data.reports.iter().flat_map(dataset::FileReport::lines).for_each(|line| say(&line));
    Ok(data)
}

/// The models of a folder.
const MODELS: [&str; 2] = ["retrieval", "ranker"];
/// The files of a model.
const ENDINGS: [&str; 2] = ["onnx", "card.json"];

/// What a run has written so far: each model as soon as it is there, so that nothing finished is lost.
struct Written<'a> {
    out: &'a Path,
    any: bool,
}

impl Written<'_> {
    /// Writes a model, or says why there is none. Before the first, those of an earlier run are moved aside: models of
    /// different data must not lie side by side.
    fn keep(&mut self, name: &str, trained: Result<Artifact, TrainError>) -> anyhow::Result<()> {
        let artifact = match trained {
            Ok(artifact) => artifact,
            Err(error) => {
                let error = anyhow::Error::new(error);
                say(&format!("no {name} model was written: {error:#}"));
                return Ok(());
            }
        };
        if !self.any {
            self.move_aside()?;
            self.any = true;
        }
        write(self.out, name, &artifact)
    }

    fn move_aside(&self) -> anyhow::Result<()> {
        for (name, ending) in MODELS.iter().flat_map(|name| ENDINGS.map(|ending| (name, ending))) {
            let path = self.out.join(format!("{name}.{ending}"));
            let aside = self.out.join(format!("{name}.{ending}.old"));
            match fs::rename(&path, &aside) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                moved => moved.with_context(|| format!("cannot move {} aside", path.display()))?,
            }
        }
        Ok(())
    }
}

/// Writes a model and its card beside their places and moves them there, so that nobody sees half a file.
fn write(out: &Path, name: &str, artifact: &Artifact) -> anyhow::Result<()> {
    for (ending, bytes) in ENDINGS.iter().zip([artifact.onnx.clone(), artifact.card.to_json()]) {
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
