//! cargo run -p client-sdk --example quickstart -- 127.0.0.1:7000 pki/ca.pem app.key
//!
//! Asks for five items, clicks the first, and asks again: the answer has seen the click.

use client_sdk::{Client, Config, EventKind, SlotId, SlotRequest, Trust, UserId, VisitorId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |what: &str| args.next().ok_or(format!("{what} is missing"));
    let nodes = arg("the nodes' addresses, separated by commas,")?.split(',').map(str::to_owned).collect();
    let trust = Trust::CaFile(arg("the CA's file")?.into());
    let app_key = std::fs::read_to_string(arg("the app key's file")?)?.trim().to_owned();
    let name = "edge.pop-a.rockpool.internal".to_owned();

    let mut config = Config::new(nodes, name, trust, app_key);
    // Events wait here until a PoP holds them, though the app is killed.
    config.queue_dir = Some(std::env::temp_dir().join("quickstart-events"));
    let client = Client::connect(config).await?;
    let (visitor, slot) = (VisitorId::User(UserId::new("42")?), SlotId::new("home")?);

    let answer = client.recommend(SlotRequest::new(visitor.clone(), slot.clone()).count(5)).await?;
    show("before", &answer);
    if let Some(best) = answer.items.first() {
        let (item, answer) = (best.item.clone(), Some(answer.id));
        client.track(&visitor, EventKind::Click { item, slot: slot.clone(), answer }).await?;
        client.flush(std::time::Duration::from_secs(5)).await?;
    }
    show("after", &client.recommend(SlotRequest::new(visitor, slot).count(5)).await?);
    client.close().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows what it got")]
fn show(when: &str, answer: &client_sdk::Answer) {
    let items: Vec<_> = answer.items.iter().map(|ranked| ranked.item.as_str()).collect();
    println!("{when}: {} ({:?})", items.join(", "), answer.served_by);
}
