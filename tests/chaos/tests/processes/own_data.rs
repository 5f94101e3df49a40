//! Own data, round and round: a newcomer's files, what visitors did, exported and trained on again; rules; erasure. All by the command line
//! and the API that people use.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use client_sdk::{Client, EventKind, ItemId, SlotRequest, VisitorId};
use proto::NodeId;
use proto::control::AuditView;
use proto::profile::Profile;
use rockpool::local::{Deployment, Overrides};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::http::{counts, post};
use crate::support::{Pop, READY, visitors};

const GENRES: usize = 8;
/// Items of a genre. Visitors go through them in turn.
const ROUND: usize = 30;
const VISITORS: usize = 60;
/// What is watched by each visitor before the beginning, and while the PoP serves.
const BEFORE: usize = 3;
const MEANWHILE: usize = 7;

/// The binary beside this test's.
fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join(name);
    assert!(path.is_file(), "{} is missing: cargo build -p rockpool -p training --bins", path.display());
    path
}

/// Runs `rockpool` as a person would, in a folder that is no source tree.
async fn run(pop: &Pop, cloud: bool, words: &[&str]) -> Output {
    let dir = pop.deployment.dir();
    let mut command = Command::new(binary("rockpool"));
    command.args(words).current_dir(dir);
    if cloud {
        let token = dir.join("cloud/admin.token");
        command.args(["--api", &pop.deployment.api(), "--token-file"]).arg(token);
    }
    tokio::time::timeout(Duration::from_secs(300), command.output()).await.unwrap().unwrap()
}

async fn rockpool(pop: &Pop, cloud: bool, words: &[&str]) -> String {
    let output = run(pop, cloud, words).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "rockpool {}: {errors}", words.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

fn item(genre: usize, number: usize) -> String {
    format!("g{genre}-{}", number % ROUND)
}

/// Visitor `n` goes through genre `n % GENRES`, beginning anywhere: its `step`-th item.
fn step(n: usize, step: usize) -> String {
    item(n % GENRES, n / GENRES * 5 + step)
}

/// Items that are there at first, and those of today: some have come, and one that hardly anybody wanted is gone.
fn items(today: bool) -> String {
    let mut text = "item_id,title,categories\n".to_owned();
    for (genre, number) in (0..GENRES).flat_map(|genre| (0..ROUND).map(move |number| (genre, number))) {
        writeln!(text, "{},Part {number} of {genre},genre-{genre}", item(genre, number)).unwrap();
    }
    match today {
        false => text.push_str("gone,Gone tomorrow,genre-0\n"),
        true => (0..6).for_each(|n| writeln!(text, "new-{n},Just come {n},genre-{n}").unwrap()),
    }
    text
}

/// What visitors say of what they watch.
#[derive(Clone, Copy, PartialEq)]
enum Feedback {
    /// How many stars it has.
    Stars,
    /// Nothing: they choose it, and that is all.
    Choice,
}

impl Feedback {
    /// What visitors did before the beginning, a minute apart.
    fn past(self) -> String {
        let stars = |stars: usize| if self == Feedback::Stars { format!(",{stars}") } else { String::new() };
        let rating = if self == Feedback::Stars { ",rating" } else { "" };
        let mut text =
            format!("visitor_id,item_id,timestamp{rating}\nvisitor-0,gone,1759000000{}\n", stars(1));
        for n in 0..VISITORS {
            for at in 0..BEFORE {
                let second = 1_759_000_000 + 60 * (n * BEFORE + at);
                writeln!(text, "visitor-{n},{},{second}{}", step(n, at), stars(3 + (n + at) % 3)).unwrap();
            }
        }
        text
    }

    /// Visitors watch on, one item after the other.
    async fn simulate(self, client: &Client, everybody: &[VisitorId]) {
        for at in BEFORE..BEFORE + MEANWHILE {
            for (n, visitor) in everybody.iter().enumerate() {
                let item = step(n, at).parse().unwrap();
                let watched = match self {
                    Feedback::Stars => EventKind::Rating { item, stars: f32::from(3 + ((n + at) % 3) as u8) },
                    Feedback::Choice => {
                        EventKind::Click { item, slot: "home".parse().unwrap(), answer: None }
                    }
                };
                client.track(visitor, watched).await.unwrap();
            }
        }
        client.flush(READY).await.unwrap();
    }
}

/// Of how many visitors the next item is among those that they are offered.
async fn hits(client: &Client, everybody: &[VisitorId], revision: u64) -> usize {
    let mut hits = 0;
    for (n, visitor) in everybody.iter().enumerate() {
        let ask = SlotRequest::new(visitor.clone(), "home".parse().unwrap()).deadline(Duration::from_secs(5));
        let answer = client.recommend(ask.count(10)).await.unwrap();
        assert_eq!(answer.revision.0, revision);
        let next: ItemId = step(n, BEFORE + MEANWHILE).parse().unwrap();
        hits += usize::from(answer.items.iter().any(|ranked| ranked.item == next));
    }
    hits
}

async fn serves(deployment: &Deployment, revision: u64) {
    #[derive(serde::Deserialize)]
    struct Says {
        revision: u64,
    }
    let serves = async |this: &Deployment| {
        for node in this.running() {
            let says: Says = this.admin(node)?.status().await?;
            anyhow::ensure!(says.revision == revision, "node {node} serves {}", says.revision);
        }
        Ok(())
    };
    deployment.until(&format!("all nodes serve revision {revision}"), READY, serves).await.unwrap();
}

/// Trains on a folder, and publishes what came out.
async fn train_and_publish(pop: &Pop, data: &str, models: &str) {
    // What `rockpool train` hands over to.
    binary("rockpool-train");
    rockpool(pop, false, &["train", "--data", data, "--out", models]).await;
    rockpool(pop, true, &["bundle", "publish", "--data", data, "--models", models]).await;
}

fn folder(pop: &Pop, name: &str, files: &[(&str, String)]) -> PathBuf {
    let folder = pop.deployment.dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    folder
}

async fn give_past(pop: &Pop, data: &str) -> String {
    let nodes: Vec<_> = pop.deployment.ports().values().map(|ports| ports.clients.clone()).collect();
    let (ca, key) = (pop.deployment.ca_file(), pop.deployment.dir().join("app.key"));
    let (ca, key) = (ca.to_str().unwrap(), key.to_str().unwrap());
    let nodes = nodes.join(",");
    let words = ["history", "import", "--data", data, "--nodes", &nodes, "--ca", ca, "--app-key-file", key];
    rockpool(pop, false, &words).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_model_knows_what_visitors_did_meanwhile() {
    the_loop_closes(Feedback::Stars).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_model_knows_what_visitors_chose_without_stars() {
    the_loop_closes(Feedback::Choice).await;
}

async fn the_loop_closes(feedback: Feedback) {
    let pop = Pop::start(1, Overrides::default()).await;
    folder(&pop, "first", &[("items.csv", items(false)), ("interactions.csv", feedback.past())]);
    train_and_publish(&pop, "first", "models-1").await;
    pop.deployment.until_ready(READY).await.unwrap();
    // Known visitors have their past, and are answered by taste from their first request on. Twice is once.
    let imported = give_past(&pop, "first").await;
    let events = (VISITORS * BEFORE + 1) as u64;
    assert!(imported.contains(&format!("{VISITORS} visitors")), "{imported}");
    assert!(give_past(&pop, "first").await.contains(&format!("0 events taken, {events} were known")));
    let (client, everybody) = (pop.client().await, visitors(VISITORS));
    let ask = SlotRequest::new(everybody[3].clone(), "home".parse().unwrap());
    let answer = client.recommend(ask.deadline(Duration::from_secs(5))).await.unwrap();
    assert!(answer.retrieval.is_some() && answer.ranker.is_some(), "{answer:?}");
    // They watch on.
    feedback.simulate(&client, &everybody).await;
    let all = events + (VISITORS * MEANWHILE) as u64;
    counts(&pop, all).await;
    let first = hits(&client, &everybody, 1).await;
    // Export, today's items, train, publish.
    let said = rockpool(&pop, true, &["events", "export", "--out", "second"]).await;
    assert!(said.contains(&format!("exported {all} events about items and 0 others")), "{said}");
    folder(&pop, "second", &[("items.csv", items(true))]);
    train_and_publish(&pop, "second", "models-2").await;
    serves(&pop.deployment, 2).await;
    let second = hits(&client, &everybody, 2).await;
    assert!(second > first, "{second} hits of {VISITORS} with the second model, {first} with the first");
    // New items are found, what is gone is not, and an export that is there is not overwritten.
    let mut shown = BTreeSet::new();
    for visitor in &everybody {
        let ask = SlotRequest::new(visitor.clone(), "home".parse().unwrap()).deadline(Duration::from_secs(5));
        shown.extend(client.recommend(ask).await.unwrap().items.into_iter().map(|r| r.item.to_string()));
    }
    assert!((0..6).all(|n| shown.contains(&format!("new-{n}"))), "{shown:?}");
    assert!(!shown.contains("gone"));
    let again = run(&pop, true, &["events", "export", "--out", "second"]).await;
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("exists already"));
    // Parquet has the same.
    rockpool(&pop, true, &["events", "export", "--out", "third", "--format", "parquet"]).await;
    let rows = |name: &str| dataset_rows(&folder(&pop, name, &[("items.csv", items(true))]));
    assert_eq!(rows("second"), rows("third"));
    client.close().await;
}

fn dataset_rows(folder: &Path) -> Vec<dataset::Interaction> {
    let options = dataset::ReadOptions { bad_rows_max: 0.01, ..dataset::ReadOptions::default() };
    dataset::open(folder.to_str().unwrap(), &options).unwrap().interactions
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_set_without_data_and_stay_when_a_bundle_is_published() {
    let pop = Pop::serving().await;
    let offered = async || {
        let asked =
            json!({"user_id": "new", "slot": "home", "count": 5, "fields": ["title", "categories", "year"]});
        let heard = post(&pop, "/v1/recommend", &asked).await;
        assert_eq!(heard.status, 200, "{}", heard.body);
        heard.json()
    };
    let before = offered().await;
    let first = before["items"][0].clone();
    assert!(
        first["title"].is_string()
            && first["categories"].is_array()
            && first["attributes"]["year"].is_string()
    );
    assert_eq!(first["attributes"].as_object().unwrap().len(), 1, "only what was asked for");
    assert_eq!((&before["degraded"], &before["fresh"]), (&json!([]), &json!(true)));
    let blocked = first["item"].as_str().unwrap();
    let rules = json!({"block": [blocked], "caps": {"category": 1}, "diversity": 0.5, "repeat_bought": true});
    folder(&pop, ".", &[("rules.json", rules.to_string()), ("wrong.json", r#"{"blocked": []}"#.into())]);
    rockpool(&pop, true, &["rules", "set", "rules.json", "--note", "recalled"]).await;
    serves(&pop.deployment, 2).await;
    let after = offered().await;
    let items: Vec<&Value> = after["items"].as_array().unwrap().iter().collect();
    assert!(!items.is_empty() && items.iter().all(|item| item["item"] != blocked));
    let categories: Vec<&str> = items
        .iter()
        .flat_map(|item| item["categories"].as_array().unwrap())
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(categories.iter().collect::<BTreeSet<_>>().len(), categories.len(), "one of a kind");
    let scores: Vec<f64> = items.iter().map(|item| item["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let shown: Value = serde_json::from_str(&rockpool(&pop, true, &["rules", "show"]).await).unwrap();
    assert_eq!((&shown["block"], &shown["explore_share"]), (&json!([blocked]), &json!(0.1)));
    let audit: Vec<AuditView> = pop.deployment.control().unwrap().get("/v1/audit?limit=1").await.unwrap();
    assert!(audit[0].what == "rules.set" && audit[0].detail.contains("recalled"), "{audit:?}");
    let wrong = run(&pop, true, &["rules", "set", "wrong.json"]).await;
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("\"explore_share\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_visitor_is_unknown_on_every_node_and_in_the_cloud() {
    let pop = Pop::serving().await;
    let event = |user: &str, timestamp: Option<&str>, item: &str| {
        let click =
            json!({"user_id": user, "type": "click", "item": item, "slot": "home", "timestamp": timestamp});
        json!({"events": [click]})
    };
    let items = ["i1", "i2", "i3"];
    for (user, item) in ["ada", "bob"].into_iter().flat_map(|user| items.map(|item| (user, item))) {
        assert_eq!(post(&pop, "/v1/events", &event(user, None, item)).await.status, 200);
    }
    counts(&pop, 6).await;
    let export = async |visitor: &str| {
        let (node, token) = admin(&pop, NodeId(1));
        let words = ["visitor", "export", visitor, "--node", &node, "--node-token-file", &token];
        serde_json::from_str::<Value>(&rockpool(&pop, true, &words).await).unwrap()
    };
    let known = export("u:ada").await;
    assert_eq!(known["events"].as_array().unwrap().len(), 3);
    assert_eq!(known["profile"]["interactions"].as_array().unwrap().len(), 3);
    let said = rockpool(&pop, true, &["visitor", "erase", "u:ada"]).await;
    assert!(said.contains("erased 3 events") && said.contains("every PoP has erased"), "{said}");
    let everywhere = async |visitor: &str, holds: &dyn Fn(&Profile) -> bool| {
        let visitor: VisitorId = visitor.parse().unwrap();
        let erased = async |this: &Deployment| {
            for node in this.running() {
                let profile = this.admin(node)?.profile(&visitor, &this.node_token(node)?).await?;
                anyhow::ensure!(holds(&profile), "node {node}: {profile:?}");
            }
            Ok(())
        };
        pop.deployment.until("every node has it so", READY, erased).await.unwrap();
    };
    everywhere("u:ada", &|profile| profile.interactions.is_empty() && profile.erased_at_ms > 0).await;
    everywhere("u:bob", &|profile| profile.interactions.len() == 3).await;
    // What is of before and comes late stays away, at the PoP and in the cloud; what is new is taken in.
    assert_eq!(post(&pop, "/v1/events", &event("ada", Some("2019-05-05T12:00:00Z"), "i4")).await.status, 200);
    assert_eq!(post(&pop, "/v1/events", &event("ada", None, "i5")).await.status, 200);
    counts(&pop, 8).await;
    everywhere("u:ada", &|profile| profile.interactions.len() == 1).await;
    let known = export("u:ada").await;
    let items: Vec<&str> =
        known["events"].as_array().unwrap().iter().filter_map(|e| e["item"].as_str()).collect();
    assert_eq!(items, ["i5"]);
    // Again: it erases what came since, and is in the audit log without the name.
    let said = rockpool(&pop, true, &["visitor", "erase", "u:ada"]).await;
    assert!(said.contains("erased 1 events"), "{said}");
    let audit: Vec<AuditView> = pop.deployment.control().unwrap().get("/v1/audit?limit=50").await.unwrap();
    let lines: Vec<_> = audit.iter().filter(|line| line.what == "visitor.erase").collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| !line.detail.contains("ada")), "{lines:?}");
    // A visitor is named with what it is.
    let refused = run(&pop, true, &["visitor", "erase", "ada"]).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("u:<user>"));
}

fn admin(pop: &Pop, node: NodeId) -> (String, String) {
    let token = pop.deployment.node_dir(node).join("admin.token");
    (pop.deployment.ports()[&node].admin.clone(), token.to_str().unwrap().to_owned())
}
