//! The binary itself: what it prints, how it ends, what a kill -9 leaves.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use cloud::server::Addresses;

use crate::{Deployment, PATIENCE, TOKEN, events, keep_appending, read_json};

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts the cloud and waits for its addresses.
    async fn start(deployment: &Deployment) -> (Self, Addresses) {
        let path = deployment.dir().join("addresses.json");
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloud"));
        command.envs(deployment.variables(&[])).env("ROCKPOOL_ADMIN_TOKEN", TOKEN).stderr(Stdio::null());
        let mut process = Self(command.spawn().unwrap());
        let begun = Instant::now();
        while !path.exists() {
            assert!(begun.elapsed() < PATIENCE, "the cloud did not come up");
            assert!(process.0.try_wait().unwrap().is_none(), "the cloud ended at its start");
            tokio::task::yield_now().await;
        }
        (process, read_json(&path))
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

#[test]
fn the_printed_settings_are_the_defaults() {
    let printed = Command::new(env!("CARGO_BIN_EXE_cloud")).arg("--print-config").output().unwrap();
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), cloud::config::DEFAULTS);
}

#[test]
fn a_wrong_setting_ends_it_with_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cloud.toml");
    std::fs::write(&file, "[api]\ncolour = \"red\"\n").unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_cloud")).arg("--config").arg(&file).output().unwrap();
    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("colour"));
}

#[tokio::test]
async fn sigterm_ends_it_in_good_order() {
    let deployment = Deployment::new();
    let (mut process, addresses) = Process::start(&deployment).await;
    let node = deployment.node(&addresses.uplink, "fra", 1).await;
    assert_eq!(node.acknowledged(1, events(0..10)).await, 10);
    process.signal("TERM");
    let waited = tokio::task::spawn_blocking(move || process.0.wait().unwrap());
    let status = tokio::time::timeout(PATIENCE, waited).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn kill_9_amid_appends_loses_and_doubles_nothing() {
    let deployment = Deployment::new();
    let mut acknowledged = 0;
    for round in 1..=3_u64 {
        let (process, addresses) = Process::start(&deployment).await;
        let node = deployment.node(&addresses.uplink, "fra", round).await;
        let position = node.position().await;
        assert!(position >= acknowledged, "round {round}: {position} held, {acknowledged} acknowledged");
        let (sender, mut seen) = keep_appending(node, position);
        seen.wait_for(|upto| *upto >= position + 1_000).await.unwrap();
        process.signal("KILL");
        acknowledged = sender.await.unwrap();
    }
    let cloud = deployment.start().await;
    let counts = cloud.counts().await;
    let node = deployment.node(cloud.uplink(), "fra", 9).await;
    let position = node.position().await;
    assert!(acknowledged >= 3_000 && position >= acknowledged);
    assert_eq!(counts.total, position, "each event that was stored is counted once");
    cloud.stop().await;
}
