//! A cloud from a backup, under load: what is lost is exactly what it acknowledged after the backup, that is counted and said, and
//! everything else arrives once. ROCKPOOL_RESTORE_DRILLS says how often.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client_sdk::Client;
use proto::control::{AuditView, PopView, RolloutStage};
use proto::{NodeId, PopId, Revision};
use rockpool::commands::status;
use rockpool::load;
use rockpool::local::{Deployment, Overrides};
use serde::Deserialize;
use tokio::process::Command;

use crate::support::{Pop, READY, light, tiny_artifacts, visitors};

/// Drills where nobody says how many: each takes some ten seconds.
const DRILLS: usize = 3;

#[derive(Deserialize)]
struct Status {
    revision: u64,
}

fn drills() -> usize {
    std::env::var("ROCKPOOL_RESTORE_DRILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(DRILLS)
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// The `rockpool` binary with these words, against a deployment's cloud.
pub async fn rockpool(deployment: &Deployment, words: &[&str]) -> (bool, String) {
    let tests = std::env::current_exe().unwrap();
    let binary = tests.ancestors().nth(2).unwrap().join("rockpool");
    let token = deployment.dir().join("cloud/admin.token");
    let output = Command::new(binary)
        .args(words)
        .args(["--api", &deployment.api(), "--token-file"])
        .arg(token)
        .output()
        .await
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

async fn view(deployment: &Deployment) -> anyhow::Result<PopView> {
    let pop: &PopId = deployment.pop();
    deployment.control()?.get(&format!("/v1/pops/{pop}")).await
}

async fn all_serve(deployment: &Deployment, revision: u64) {
    deployment
        .until(&format!("all nodes serve {revision}"), READY, async |this: &Deployment| {
            for node in 1..=3 {
                let status: Status = this.admin(NodeId(node))?.status().await?;
                anyhow::ensure!(status.revision == revision, "node {node} serves {}", status.revision);
            }
            Ok(())
        })
        .await
        .unwrap();
}

async fn publish(deployment: &Deployment) -> u64 {
    let control = deployment.control().unwrap();
    let published = rockpool::publish::publish(&control, tiny_artifacts(), "drill").await.unwrap().revision;
    promoted(deployment, published).await;
    all_serve(deployment, published.0).await;
    published.0
}

async fn promoted(deployment: &Deployment, revision: Revision) {
    deployment
        .until(&format!("{revision} is promoted"), READY, async |this: &Deployment| {
            let rollouts = this.control()?.rollouts().await?;
            let rollout = rollouts.into_iter().find(|rollout| rollout.revision == revision);
            anyhow::ensure!(
                rollout.as_ref().is_some_and(|r| r.stage == RolloutStage::Promoted),
                "{rollout:?}"
            );
            Ok(())
        })
        .await
        .unwrap();
}

/// Events that arrive: some more than now.
async fn some_arrive(deployment: &Deployment) {
    let before = view(deployment).await.unwrap().upto.0;
    deployment
        .until("events arrive", READY, async |this: &Deployment| {
            let now = view(this).await?.upto.0;
            anyhow::ensure!(now >= before + 40, "{now}, {before} before");
            Ok(())
        })
        .await
        .unwrap();
}

/// One drill; how many events are lost.
async fn drill(deployment: &mut Deployment, backup: &Path) -> u64 {
    let folder = deployment.dir().join("cloud");
    // As a power switch leaves it: database and write-ahead log of one moment.
    deployment.kill_cloud().await.unwrap();
    copy(&folder, backup);
    deployment.start_cloud().await.unwrap();
    let of_backup = view(deployment).await.unwrap().upto.0;
    some_arrive(deployment).await;
    let gone = publish(deployment).await;
    some_arrive(deployment).await;
    deployment.kill_cloud().await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    copy(backup, &folder);
    std::fs::remove_dir_all(backup).unwrap();
    deployment.start_cloud().await.unwrap();

    // It is seen without being looked for, and nothing goes on by itself.
    deployment
        .until("the cloud sees that the PoP is ahead", READY, async |this: &Deployment| {
            let ahead = view(this).await?.ahead;
            anyhow::ensure!(
                ahead.as_ref().is_some_and(|ahead| ahead.events() > 0 && ahead.bundle.is_some()),
                "{ahead:?}"
            );
            Ok(())
        })
        .await
        .unwrap();
    let seen = view(deployment).await.unwrap();
    let ahead = seen.ahead.clone().unwrap();
    assert!(ahead.upto.0 >= of_backup, "{ahead:?} {of_backup}");
    assert_eq!(ahead.bundle.map(|bundle| bundle.0), Some(gone));
    let screen = status::screen(&[seen], status::now_ms());
    assert!(screen.lines().next().unwrap().starts_with("pop-a is ahead of this cloud"), "{screen}");
    let (good, text) = rockpool(deployment, &["status"]).await;
    assert!(good && text.starts_with("pop-a is ahead of this cloud"), "{text}");

    let (good, said) = rockpool(deployment, &["cloud", "accept-loss", "--reason", "a drill"]).await;
    assert!(good, "{said}");
    let (first, last) = (ahead.upto.0 + 1, ahead.acknowledged.0);
    let lost = last + 1 - first;
    assert!(said.contains(&format!("events (offsets {first} to {last}) are given up")), "{said}");
    let audit: Vec<AuditView> = deployment.control().unwrap().get("/v1/audit?limit=20").await.unwrap();
    let line = audit.iter().find(|line| line.what == "cloud.accept_loss").expect("it is audited");
    assert!(line.detail.contains(&format!("{lost} events are lost, offsets {first} to {last}")), "{line:?}");
    // Bundles go on above what the PoP has: what is offered at once, and what is published next.
    all_serve(deployment, gone + 1).await;
    some_arrive(deployment).await;
    let next = publish(deployment).await;
    assert!(next > gone + 1, "{next} after {gone}");
    deployment
        .until("nothing is wrong any more", READY, async |this: &Deployment| {
            let now = view(this).await?;
            anyhow::ensure!(now.ahead.is_none() && now.diverged.is_none(), "{now:?}");
            Ok(())
        })
        .await
        .unwrap();
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_from_a_backup_loses_the_gap_and_nothing_else() {
    let setting = |(path, value): (&str, i64)| (path.to_owned(), value.into());
    let quick = Overrides {
        node: [("uplink.report_every_ms", 200), ("uplink.backoff_ms", 100), ("uplink.backoff_max_ms", 500)]
            .map(setting)
            .to_vec(),
        cloud: [("rollout.hold_s", 1), ("rollout.verdict_within_s", 60)].map(setting).to_vec(),
    };
    let mut pop = Pop::serving_with(quick).await;
    // An odd number, so that each visitor comes by both clients and clicks: else one node would have all who are answered without a
    // model, and the verdict on a bundle hang on whose report came first.
    let (clients, visitors) = (pop.clients(2).await, visitors(21));
    let (ends, apps) = (Arc::new(AtomicBool::new(false)), clients.clone());
    let going = ends.clone();
    let loading = tokio::spawn(async move {
        while !going.load(Ordering::Relaxed) {
            let measured = load::run(&light(Duration::from_secs(1)), &apps, &visitors).await.unwrap();
            assert_eq!(measured.errors, 0, "apps notice nothing: {:?}", measured.error_kinds);
        }
    });
    promoted(&pop.deployment, Revision(1)).await;
    let (mut lost, backup) = (0, pop.deployment.dir().join("backup"));
    for _ in 0..drills() {
        lost += drill(&mut pop.deployment, &backup).await;
    }
    ends.store(true, Ordering::Relaxed);
    loading.await.unwrap();
    for client in &clients {
        client.flush(READY).await.unwrap();
    }
    let acknowledged: u64 =
        clients.iter().map(Client::stats).map(|stats| stats.accepted + stats.duplicates).sum();
    let wanted = acknowledged - lost;
    pop.deployment
        .until("all but the gaps arrive", READY, async |this: &Deployment| {
            let total = this.control()?.event_counts().await?.total;
            anyhow::ensure!(total >= wanted, "{total} of {wanted}");
            Ok(())
        })
        .await
        .unwrap();
    let total = pop.deployment.control().unwrap().event_counts().await.unwrap().total;
    assert_eq!(
        total, wanted,
        "{acknowledged} acknowledged, {lost} lost: nothing else is missing, nothing counts twice"
    );
    assert_eq!(view(&pop.deployment).await.unwrap().lost, lost, "all are counted");
    // There is nothing to give up any more, and a PoP that is none has nothing.
    for words in [&["cloud", "accept-loss"][..], &["cloud", "accept-loss", "--pop", "nowhere"]] {
        let (good, text) = rockpool(&pop.deployment, words).await;
        assert!(!good, "{text}");
    }
    let rollouts = pop.deployment.control().unwrap().rollouts().await.unwrap();
    assert!(rollouts.iter().all(|rollout| rollout.stage != RolloutStage::Stopped), "{rollouts:?}");
}
