//! Tidiness, ratcheted: what is forbidden here was not in the tree when the rule was made.

use std::path::{Path, PathBuf};

use super::root;

const LINES_MAX: usize = 500;
const FN_LINES_MAX: usize = 70;

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if !["target", ".git", "log-choice", "fuzz"].contains(&name.to_str().unwrap_or_default()) {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file of ours, without its tests.
fn production() -> Vec<(String, String)> {
    let (root, mut paths) = (root(), Vec::new());
    rust_files(&root, &mut paths);
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
    let files = paths.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap()));
    let code = files.filter(|(path, _)| !path.contains("/tests/") && !path.ends_with("/tests.rs"));
    code.map(|(path, text)| (path, text.split("\n#[cfg(test)]\n").next().unwrap_or_default().to_owned()))
        .collect()
}

fn check(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn a_file_holds_one_idea() {
    let long = production().into_iter().filter(|(_, text)| text.lines().count() > LINES_MAX);
    check("at most 500 lines before the tests", long.map(|(path, _)| path).collect());
}

#[test]
fn a_function_fits_a_screen() {
    let mut long = Vec::new();
    for (path, text) in production() {
        let mut start: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words: Vec<&str> = line.split_whitespace().take(4).collect();
            match &start {
                None if words.contains(&"fn") && !line.trim_end().ends_with(';') => {
                    start = Some((number, indent, line.trim().to_owned()));
                }
                Some((from, outer, head)) if indent == *outer && line.trim_start().starts_with('}') => {
                    if number - from > FN_LINES_MAX {
                        long.push(format!("{path}:{} {head} ({} lines)", from + 1, number - from));
                    }
                    start = None;
                }
                _ => {}
            }
        }
    }
    check("at most 70 lines a function", long);
}

#[test]
fn a_file_says_what_it_is() {
    let silent = production()
        .into_iter()
        .filter(|(path, text)| !text.starts_with("//!") && !path.ends_with("build.rs"));
    check("a file begins with a `//!` paragraph", silent.map(|(path, _)| path).collect());
}

#[test]
fn what_must_be_absent_is_absent() {
    let forbidden = [
        "todo!(",
        "unimplemented!(",
        "TODO",
        "FIXME",
        "XXX",
        "lazy_static",
        "static mut ",
        "unbounded_channel(",
    ];
    let mut broken = Vec::new();
    for (path, text) in production() {
        broken.extend(
            forbidden.iter().filter(|word| text.contains(**word)).map(|word| format!("{path}: {word}")),
        );
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        if ["utils", "util", "common", "helpers", "misc", "mod"].contains(&name) {
            broken.push(format!("{path}: name it after what it holds"));
        }
    }
    check("must be absent", broken);
}

#[test]
fn what_decides_has_no_async_clock_or_randomness() {
    let pure = [
        "proto/src/",
        "edge-node/serving/src/",
        "edge-node/store/src/machine",
        "edge-node/uplink/src/batcher",
        "client-sdk/src/session",
        "cloud/registry/src/rollout",
    ];
    let forbidden = ["async fn", "SystemTime::now", "Instant::now", "tokio::", "rand::", "now_v7"];
    let mut broken = Vec::new();
    for (path, text) in
        production().into_iter().filter(|(path, _)| pure.iter().any(|part| path.starts_with(part)))
    {
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        broken.extend(
            forbidden.iter().filter(|word| code.contains(**word)).map(|word| format!("{path}: {word}")),
        );
    }
    check("pure parts", broken);
}

#[test]
fn no_registry_host_and_no_path_of_one_machine_is_written_down() {
    let root = root();
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(&root).output().unwrap();
    let forbidden = [
        "files.pythonhosted",
        "index.crates",
        "registry.npmjs",
        "artifactory",
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
    ];
    let mut broken = Vec::new();
    for path in String::from_utf8(listed.stdout).unwrap().lines().filter(|path| *path != "Cargo.lock") {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        if path == "tests/chaos/tests/house/tidy.rs" {
            continue;
        }
        broken.extend(
            forbidden.iter().filter(|word| text.contains(**word)).map(|word| format!("{path}: {word}")),
        );
    }
    check("must not be written down", broken);
}

#[test]
fn the_readmes_snippet_is_the_quickstart() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (readme, example) = (read("README.md"), read("client-sdk/examples/quickstart.rs"));
    let snippet = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let example: Vec<&str> = example.lines().map(str::trim).collect();
    let strange = snippet.lines().filter(|line| !example.contains(&line.trim()));
    check(
        "not in client-sdk/examples/quickstart.rs, which is compiled",
        strange.map(str::to_owned).collect(),
    );
}
