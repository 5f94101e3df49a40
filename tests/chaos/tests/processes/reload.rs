//! SIGHUP: what can change while a node runs does, and of the rest the log says that it waits for the next start.

use std::path::Path;

use proto::{Digest, NodeId};
use rockpool::local::Deployment;

use crate::support::{Pop, READY};

const NODE: NodeId = NodeId(2);

fn log(deployment: &Deployment, node: NodeId) -> String {
    std::fs::read_to_string(deployment.node_dir(node).join("edge-node.log")).unwrap_or_default()
}

async fn hang_up(deployment: &Deployment, process: u32) {
    let _ = deployment;
    let done =
        tokio::process::Command::new("kill").args(["-HUP", &process.to_string()]).status().await.unwrap();
    assert!(done.success());
}

/// Waits until the log has a word so often.
async fn says(deployment: &Deployment, word: &str, times: usize) {
    deployment
        .until(&format!("the log says {word:?} {times} times"), READY, async |this: &Deployment| {
            let found = log(this, NODE).matches(word).count();
            anyhow::ensure!(found >= times, "{found} times");
            Ok(())
        })
        .await
        .unwrap();
}

fn change(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} in {text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_changes_app_keys_and_names_what_waits() {
    let pop = Pop::serving().await;
    let deployment = &pop.deployment;
    let (file, process) =
        (deployment.node_dir(NODE).join("edge-node.toml"), deployment.process_id(NODE).unwrap());
    let config = deployment.client_config(&[NODE]).unwrap();
    let dial =
        async |config| client_sdk::Client::connect_with(deployment.app_dialer().unwrap(), config).await;
    let before = dial(config.clone()).await.unwrap();

    // Wrong settings change nothing, and the node goes on.
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\nnonsense = 1\n")).unwrap();
    hang_up(deployment, process).await;
    says(deployment, "SIGHUP: the settings are wrong", 1).await;
    dial(config.clone()).await.unwrap();

    // The key is another's from now on, for who is connected and for who comes; the queue's length waits.
    std::fs::write(&file, good).unwrap();
    let (old, new) = (Digest::of(deployment.app_key().as_bytes()), Digest::of(b"another key"));
    change(&file, &old.to_string(), &new.to_string());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[serving]\nqueue_len_max = 77\n")).unwrap();
    hang_up(deployment, process).await;
    says(deployment, "SIGHUP: settings and certificate files were read again", 1).await;
    says(deployment, "serving.queue_len_max", 1).await;
    assert!(
        !log(deployment, NODE)
            .contains("take effect when the node is started again settings=[\"clients.apps")
    );
    let refused = dial(config.clone()).await.unwrap_err();
    assert!(
        refused.to_string().contains("unauthenticated") || format!("{refused:?}").contains("Unauthenticated"),
        "{refused:?}"
    );
    drop(before);

    let mut changed = config;
    changed.app_key = "another key".into();
    dial(changed).await.unwrap();
    deployment.check().unwrap();
}
