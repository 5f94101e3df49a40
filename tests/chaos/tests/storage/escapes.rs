//! Nothing that changes the disk goes past the library that watches it: counted against what the kernel saw.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use chaos::driver::{Orders, Place};
use chaos::power::recording::records;
use chaos::trace::Kind;

use crate::scratch;

/// Calls that change files, and what stands in the trace for each.
const CALLS: &[(&str, &[Kind])] = &[
    ("write", &[Kind::Write]),
    ("pwrite64", &[Kind::Write]),
    ("writev", &[Kind::Write]),
    ("pwritev", &[Kind::Write]),
    ("fsync", &[Kind::Sync, Kind::SyncDir]),
    ("fdatasync", &[Kind::Sync, Kind::SyncDir]),
    ("rename", &[Kind::Rename]),
    ("renameat", &[Kind::Rename]),
    ("renameat2", &[Kind::Rename]),
    ("unlink", &[Kind::Unlink]),
    ("unlinkat", &[Kind::Unlink, Kind::Rmdir]),
    ("rmdir", &[Kind::Rmdir]),
    ("mkdir", &[Kind::Mkdir]),
    ("mkdirat", &[Kind::Mkdir]),
];
/// Calls that would change files and are not followed.
const STRANGE: &[&str] = &[
    "pwritev2",
    "truncate",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "copy_file_range",
    "sendfile",
    "splice",
    "io_uring_setup",
    "io_submit",
];

/// Successful calls by name, as strace saw them on paths below a folder.
fn seen(dir: &Path, root: &str) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let Some((name, rest)) = line.split_once('(') else { continue };
            let done = rest.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-'));
            if done && rest.contains(root) {
                *seen.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    seen
}

#[test]
fn no_call_that_changes_the_disk_escapes() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: there is no strace on this machine");
        return;
    }
    let dir = scratch();
    let place = Place::new(dir.path()).unwrap();
    let calls = dir.path().join("calls");
    std::fs::create_dir(&calls).unwrap();
    let names = CALLS.iter().map(|(name, _)| *name).chain(STRANGE.iter().copied());
    let names: Vec<&str> = names.collect();
    let driver = chaos::driver::command(&place, &Orders { writes: 40, ..Orders::busy(1, 5) }).unwrap();
    let mut command = Command::new("strace");
    command
        .args(["-ff", "-y", "-s", "0", "-e", "signal=none", "-e"])
        .arg(format!("trace={}", names.join(",")));
    command.arg("-o").arg(calls.join("of"));
    for (name, value) in driver.get_envs() {
        let setting = [name.to_str().unwrap(), value.unwrap().to_str().unwrap()].join("=");
        command.args(["-E", &setting]);
    }
    command.arg(driver.get_program()).args(driver.get_args());
    let ended = command.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let root = place.root().display().to_string();
    let seen = seen(&calls, &root);
    println!("{seen:?}");
    for strange in STRANGE {
        assert_eq!(seen.get(*strange), None, "{strange} is not followed");
    }
    let trace = std::fs::read(place.trace()).unwrap();
    let records = records(&trace);
    for kinds in [
        &[Kind::Write][..],
        &[Kind::Sync, Kind::SyncDir],
        &[Kind::Rename],
        &[Kind::Unlink, Kind::Rmdir],
        &[Kind::Mkdir],
    ] {
        let recorded = records.iter().filter(|(_, record)| kinds.contains(&record.kind)).count() as u64;
        let called = CALLS.iter().filter(|(_, stand)| stand.iter().all(|kind| kinds.contains(kind)));
        let called: u64 = called.filter_map(|(name, _)| seen.get(*name)).sum();
        assert!(
            recorded > 0 && recorded == called,
            "{kinds:?}: {recorded} in the trace, {called} seen by the kernel"
        );
    }
}
