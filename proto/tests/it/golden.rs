//! Golden bytes: what was said yesterday must be understood today, and the other way round. A difference here is a new
//! version of the protocol (`proto::ALPN_*`) or of a stored form, not a detail.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::samples::{Sample, all};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden.txt");
const HEADER: &str = "\
# Golden bytes of proto: a name and its bytes in hex. Read by tests/it/golden.rs.
# If a test fails here, old and new processes no longer understand each other, or what was stored is no longer read.
# New names may be added at any time:   UPDATE_GOLDEN=1 cargo test -p proto
# For a changed line, first decide how old peers and old files go on: a new ALPN version, a new stored version.
";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: char| c.to_digit(16).unwrap() as u8;
    let digits: Vec<_> = text.chars().map(digit).collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

fn golden(text: &str) -> BTreeMap<&str, Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| line.split_once(": ").expect("`name: hex`"))
        .map(|(name, hex)| (name, unhex(hex)))
        .collect()
}

fn update(samples: &[Sample]) {
    let mut text = HEADER.to_owned();
    for sample in samples {
        writeln!(text, "{}: {}", sample.name, hex(&sample.bytes)).unwrap();
    }
    std::fs::write(FILE, text).unwrap();
}

/// Where two byte strings part, for the person who has to find out why.
fn difference(name: &str, golden: &[u8], now: &[u8]) -> String {
    let at = golden.iter().zip(now).take_while(|(a, b)| a == b).count();
    format!(
        "{name}: the bytes changed at byte {at} (body byte {}).\n  golden: {}\n  now:    {}\n          {}^^",
        at as i64 - proto::codec::HEADER_BYTES as i64,
        hex(golden),
        hex(now),
        "  ".repeat(at),
    )
}

#[test]
fn bytes_are_what_they_were() {
    let samples = all();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        update(&samples);
    }
    let text = std::fs::read_to_string(Path::new(FILE)).expect("golden.txt; UPDATE_GOLDEN=1 makes it");
    let golden = golden(&text);
    let mut wrong = Vec::new();
    for sample in &samples {
        match golden.get(sample.name.as_str()) {
            None => wrong.push(format!("{}: new, has no golden bytes", sample.name)),
            Some(bytes) => {
                if *bytes != sample.bytes {
                    wrong.push(difference(&sample.name, bytes, &sample.bytes));
                }
                if let Err(reason) = (sample.reads_back)(bytes) {
                    wrong.push(format!(
                        "{}: the golden bytes are read as something else: {reason}",
                        sample.name
                    ));
                }
            }
        }
    }
    let known: Vec<_> = samples.iter().map(|sample| sample.name.as_str()).collect();
    assert!(
        known.iter().all(|name| known.iter().filter(|n| n == &name).count() == 1),
        "a name is used twice"
    );
    wrong.extend(
        golden.keys().filter(|name| !known.contains(name)).map(|name| format!("{name}: no sample any more")),
    );
    assert!(
        wrong.is_empty(),
        "the wire or a stored form has changed.\n{}\n\nIf names were only added: UPDATE_GOLDEN=1 cargo test -p proto. \
         If bytes changed: see the head of {FILE}.",
        wrong.join("\n"),
    );
}
