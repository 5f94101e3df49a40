//! `rockpool up` as people and scripts run it: the binary, real data, the committed models.

use std::path::Path;

use proto::NodeId;
use proto::peer::MemberChange;
use rockpool::local::{Deployment, Options, Overrides};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{READY, tiny_artifacts, turn};

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_measures_counts_and_says_so_as_json() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("up.json");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tests = std::env::current_exe().unwrap();
    let binary = tests.ancestors().nth(2).unwrap().join("rockpool");
    let output = Command::new(&binary)
        .args(["up", "--for", "6s", "--json"])
        .arg(&json)
        .current_dir(root)
        .output()
        .await
        .unwrap_or_else(|e| panic!("{}: {e}; build it first: cargo build --bins", binary.display()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert!(number("requests") >= 1_000.0);
    assert_eq!(number("errors"), 0.0);
    for (less, more) in [("p50_us", "p99_us"), ("p99_us", "p999_us")] {
        assert!(number(less) > 0.0 && number(less) <= number(more), "{less}, {more} in {report}");
    }
    assert!(number("mean_us") > 0.0);
    assert!(number("events_acknowledged") > 1_000.0);
    assert_eq!(number("events_acknowledged"), number("events_in_cloud"));
    assert!(report["killed_node"].is_u64(), "the leader was killed on the way");

    let roles: Vec<_> = report["nodes"].as_array().unwrap().iter().map(|node| &node["role"]).collect();
    assert_eq!((roles.len(), roles.iter().filter(|role| **role == "leader").count()), (3, 1), "{roles:?}");
    let models: Vec<_> = report["models"].as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(models, ["sasrec", "dcn-v2"]);
    assert!(report["models"][0]["version"].as_str().unwrap().starts_with("retrieval-"));

    let answers = report["answers"].as_array().unwrap();
    assert_eq!((&answers[0]["served_by"], &answers[1]["served_by"]), (&"popular".into(), &"ranked".into()));
    let first = &answers[0]["items"][0];
    assert!(!first["title"].as_str().unwrap().is_empty() && said.contains(first["title"].as_str().unwrap()));
    let items = |n: usize| answers[n]["items"].as_array().unwrap().iter().map(|item| &item["item"]);
    assert!(!items(1).any(|item| *item == first["item"]), "what was clicked is gone from the next answer");
    assert!(items(0).skip(1).ne(items(1)), "and a click changes the others, too");
}

/// The same folder a second time: the same addresses where they are free; and where they are not, everybody is found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_gone_on_with() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options { dir: folder.path().to_owned(), nodes: 3, overrides: Overrides::default() };
    let first = Deployment::start(options.clone()).await.unwrap();
    let control = first.control().unwrap();
    rockpool::publish::publish(&control, tiny_artifacts(), "test").await.unwrap();
    first.until_ready(READY).await.unwrap();
    let ports = first.ports().clone();
    first.stop().await.unwrap();

    let second = Deployment::start(options.clone()).await.unwrap();
    assert_eq!(*second.ports(), ports);
    second.until_ready(READY).await.unwrap();
    second.stop().await.unwrap();

    // All of them are somebody else's by now.
    let taken: Vec<_> =
        ports.values().map(|ports| std::net::UdpSocket::bind(&ports.peers).unwrap()).collect();
    let third = Deployment::start(options).await.unwrap();
    assert!(third.ports().iter().all(|(node, now)| now.peers != ports[node].peers));
    third.until_ready(READY).await.unwrap();
    drop(taken);
    // And the members' addresses come to be what they are.
    let (via, moved) = (NodeId(1), NodeId(2));
    let (admin, token) = (third.admin(via).unwrap(), third.node_token(via).unwrap());
    let address = third.ports()[&moved].peers.clone();
    admin.member(&MemberChange::Move { node: moved, address: address.clone() }, &token).await.unwrap();
    let status: Value = admin.status().await.unwrap();
    let members = status["members"].as_array().unwrap();
    let member = members.iter().find(|member| member["node"] == moved.0).unwrap();
    assert_eq!(member["address"], address.as_str());
    third.stop().await.unwrap();
}
