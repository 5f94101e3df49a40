//! `kill -9` of a process that tracks events: this test binary, started again as the app.

use std::collections::HashSet;
use std::process::Stdio;

use client_sdk::{Client, Config, EventId, Trust};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::pop::{APP_KEY, Manner, PATIENCE, custom, visitor};
use crate::quic::QuicPop;

const CHILD: &str = "crash::the_app";
const FOLDER: &str = "ROCKPOOL_TEST_QUEUE";
const NODES: &str = "ROCKPOOL_TEST_NODES";
const CA: &str = "ROCKPOOL_TEST_CA";
const MARK: &str = "tracked ";

/// The app: tracks events and prints the id of each as soon as it is promised, until it is killed. Run by the test
/// below; does nothing on its own.
#[tokio::test]
async fn the_app() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let nodes = std::env::var(NODES).unwrap().split(',').map(str::to_owned).collect();
    let trust = Trust::CaFile(std::env::var(CA).unwrap().into());
    let mut config = Config::new(nodes, "edge.pop-a.rockpool.internal", trust, APP_KEY);
    config.queue_dir = Some(folder.into());
    config.timing.delivery_timeout_ms = 300;
    config.timing.backoff_base_ms = 5;
    let client = Client::connect(config).await.unwrap();
    let visitor = visitor("ada");
    loop {
        // Several at once, so that groups form.
        let (a, b, c) = (custom("a"), custom("b"), custom("c"));
        let tracks = (client.track(&visitor, a), client.track(&visitor, b), client.track(&visitor, c));
        let (a, b, c) = tokio::join!(tracks.0, tracks.1, tracks.2);
        for id in [a, b, c] {
            println!("\n{MARK}{}", id.unwrap());
        }
    }
}

fn start(quic: &QuicPop, folder: &std::path::Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(NODES, quic.addresses.join(","))
        .env(CA, &quic.ca)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn promised(line: &str) -> Option<EventId> {
    line.strip_prefix(MARK).and_then(|id| id.trim().parse().ok()).map(EventId)
}

/// Reads promises until there are `count`, kills the app, and reads what it had still said.
async fn promises_until_killed(mut child: Child, count: usize) -> Vec<EventId> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut found = Vec::new();
    while found.len() < count {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the app goes on").unwrap();
        found.extend(promised(&line.expect("the app goes on until it is killed")));
    }
    child.kill().await.unwrap();
    let mut rest = String::new();
    lines.into_inner().read_to_string(&mut rest).await.unwrap();
    // The last line may be cut off.
    let whole = rest.rsplit_once('\n').map_or("", |(whole, _)| whole);
    found.extend(whole.lines().filter_map(promised));
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_promised_is_lost_when_the_app_is_killed() {
    let quic = QuicPop::new(2);
    let folder = tempfile::tempdir().unwrap();
    let mut promised = Vec::new();
    let rounds = [Manner::Serve, Manner::Silent, Manner::LoseReplies(4), Manner::Serve];
    for (round, manner) in rounds.into_iter().enumerate() {
        for node in 1..=2 {
            quic.pop.set(node, manner.clone());
        }
        promised.extend(promises_until_killed(start(&quic, folder.path()), 60 + 30 * round).await);
    }
    for node in 1..=2 {
        quic.pop.set(node, Manner::Serve);
    }
    let mut config = quic.config();
    config.queue_dir = Some(folder.path().to_owned());
    let client = Client::connect(config).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
    let counted = quic.pop.event_ids();
    let set: HashSet<_> = counted.iter().copied().collect();
    let lost: Vec<_> = promised.iter().filter(|id| !set.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} promised events are lost: {lost:?}", lost.len(), promised.len());
    assert_eq!(set.len(), counted.len(), "none is counted twice");
    assert!(counted.is_sorted(), "they arrive in the order they were tracked, over four lives of the app");
    // What was never promised but had reached the disk may arrive, too: at most one call each life.
    assert!(
        counted.len() <= promised.len() + 4 * 3,
        "{} counted, {} promised",
        counted.len(),
        promised.len()
    );
    println!("{} promised, {} counted, {} sent again", promised.len(), counted.len(), quic.pop.duplicates());
}
