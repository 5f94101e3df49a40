//! `rockpool check`: tries a pure part of the system on inputs of one's own. A line of JSON is an input, a line of JSON its output;
//! nothing else is read or changed, so that a part can be tested from outside without a deployment.
//!
//! A part is a file of `check/` with a [`Part`], and a line in [`PARTS`].

mod cache_rules;
mod segment_message;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::builder::{PossibleValue, PossibleValuesParser};
use proto::{Code, ErrorReply};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Longest line of an input, in bytes: the largest body that a door takes has room in it.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A part that can be tried.
struct Part {
    name: &'static str,
    /// What it does, in one line.
    about: &'static str,
    /// The shapes of its `input` and `output`.
    shapes: &'static str,
    /// Pure: the same output for the same input, whenever and wherever.
    run: fn(&RawValue) -> Result<Value, ErrorReply>,
}

const PARTS: &[Part] = &[cache_rules::PART, segment_message::PART];

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_long_help = shapes())]
pub struct Check {
    /// The part.
    #[arg(value_parser = names())]
    name: String,
    /// JSON lines: {"id": any JSON, "input": …}. `-`: standard input.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Where the output goes, overwritten if it is there: a line {"id", "output"} for each line, in the same order, or {"id", "error":
    /// {"code", "message"}} for one that is not of the shape. `-`: standard output.
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
}

fn names() -> PossibleValuesParser {
    PARTS.iter().map(|part| PossibleValue::new(part.name).help(part.about)).collect::<Vec<_>>().into()
}

fn shapes() -> String {
    let part = |part: &Part| format!("{}: {}\n{}", part.name, part.about, part.shapes);
    let parts = PARTS.iter().map(part).collect::<Vec<_>>().join("\n");
    format!("A line has at most {LINE_BYTES_MAX} bytes; empty lines are passed over.\n\n{parts}")
}

/// Runs it.
///
/// # Errors
/// Where a file cannot be read or written; a wrong line is a line of the output.
pub fn run(command: &Check) -> anyhow::Result<()> {
    let named = |part: &&Part| part.name == command.name;
    let part = PARTS.iter().find(named).context("clap lets no other name pass")?;
    let (input, output) = (command.input.as_path(), command.output.as_path());
    anyhow::ensure!(!same_file(input, output), "--in and --out are the same file: {}", input.display());
    let reader: Box<dyn BufRead> = match input.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => {
            let file = File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
            Box::new(BufReader::new(file))
        }
    };
    let writer: Box<dyn Write> = match output.to_str() {
        Some("-") => Box::new(io::stdout().lock()),
        _ => {
            let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
            Box::new(file)
        }
    };
    lines(reader, BufWriter::new(writer), part.run)
        .with_context(|| format!("cannot go on from {} to {}", input.display(), output.display()))
}

fn same_file(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// A line for a line.
fn lines(
    mut input: impl BufRead,
    mut output: impl Write,
    run: impl Fn(&RawValue) -> Result<Value, ErrorReply>,
) -> io::Result<()> {
    let mut line = Vec::new();
    while read_line(&mut input, &mut line)? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        serde_json::to_writer(&mut output, &answer(&line, &run))?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

/// The next line, or as much of it as shows that it is too long. False: there is none.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = LINE_BYTES_MAX as u64 + 1;
    if input.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.len() > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        input.skip_until(b'\n')?;
    }
    Ok(true)
}

fn answer(line: &[u8], run: &impl Fn(&RawValue) -> Result<Value, ErrorReply>) -> Value {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(default)]
        id: Value,
        #[serde(borrow)]
        input: &'a RawValue,
    }
    let failed = |id: &Value, error: &ErrorReply| json!({"id": id, "error": {"code": error.code, "message": error.message}});
    if line.len() > LINE_BYTES_MAX {
        let message = format!("the line has more than {LINE_BYTES_MAX} bytes");
        return failed(&Value::Null, &ErrorReply::new(Code::TooLarge, message));
    }
    match serde_json::from_slice::<Line<'_>>(line) {
        Ok(Line { id, input }) => match run(input) {
            Ok(output) => json!({"id": id, "output": output}),
            Err(error) => failed(&id, &error),
        },
        Err(error) => {
            let message = format!("the line is no {{\"id\", \"input\"}}: {error}");
            failed(&id_of(line), &ErrorReply::new(Code::Malformed, message))
        }
    }
}

/// Of a line that has no input, say.
fn id_of(line: &[u8]) -> Value {
    serde_json::from_slice(line).map_or(Value::Null, |mut line: Value| line["id"].take())
}

/// Reads what a part is given.
fn read<'a, T: Deserialize<'a>>(input: &'a RawValue) -> Result<T, ErrorReply> {
    serde_json::from_str(input.get()).map_err(|error| {
        ErrorReply::new(Code::Invalid, format!("the input is not of the shape that --help shows: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(input: &[u8]) -> Vec<Value> {
        let echo = |input: &RawValue| match input.get() {
            "\"wrong\"" => Err(ErrorReply::new(Code::Invalid, "it is wrong")),
            text => Ok(json!(text)),
        };
        let mut output = Vec::new();
        lines(input, &mut output, echo).unwrap();
        let text = String::from_utf8(output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_wrong_line_is_answered_and_the_next_one_too() {
        let input = b"{\"id\": 1, \"input\": \"\\ud800\"}\n\n{\"id\": [2], \"input\": \"wrong\"}\nnonsense\n{\"id\": 4}\n{\"id\": 5, \"input\": {}}";
        let answers = answers(input);
        assert_eq!(answers[0], json!({"id": 1, "output": "\"\\ud800\""}), "not even read as text");
        assert_eq!(answers[1], json!({"id": [2], "error": {"code": "invalid", "message": "it is wrong"}}));
        assert_eq!((&answers[2]["id"], &answers[2]["error"]["code"]), (&Value::Null, &json!("malformed")));
        assert_eq!((&answers[3]["id"], &answers[3]["error"]["code"]), (&json!(4), &json!("malformed")));
        assert_eq!(answers[4], json!({"id": 5, "output": "{}"}));
        assert_eq!(answers.len(), 5);
    }

    #[test]
    fn a_line_is_no_longer_than_it_may_be() {
        let mut input = vec![b' '; LINE_BYTES_MAX - 20];
        input.extend_from_slice(b"{\"id\":1,\"input\":2}\n");
        input.extend(std::iter::repeat_n(b'x', 2 * LINE_BYTES_MAX));
        input.extend_from_slice(b"\n{\"id\":3,\"input\":4}\n");
        let answers = answers(&input);
        assert_eq!(answers[0]["output"], "2");
        assert_eq!(answers[1]["error"]["code"], "too_large");
        assert_eq!((&answers[2]["output"], answers.len()), (&json!("4"), 3));
    }

    #[test]
    fn a_file_is_not_read_and_written_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, "{}").unwrap();
        let command = Check {
            name: PARTS[0].name.to_owned(),
            input: path.clone(),
            output: folder.path().join("./lines"),
        };
        assert!(run(&command).unwrap_err().to_string().contains("same file"));
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    }
}
