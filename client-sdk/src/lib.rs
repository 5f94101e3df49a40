//! The Rust SDK for apps: ask for recommendations, track what visitors do.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use client_sdk::{Client, Config, EventKind, SlotRequest, Trust, UserId, VisitorId};
//!
//! let nodes = vec!["127.0.0.1:7000".into(), "127.0.0.1:7001".into()];
//! let trust = Trust::CaFile("ca.pem".into());
//! let client = Client::connect(Config::new(nodes, "edge.pop-a.rockpool.internal", trust, "app key")).await?;
//!
//! let visitor = VisitorId::User(UserId::new("42")?);
//! let answer = client.recommend(SlotRequest::new(visitor.clone(), "home".parse()?).count(5)).await?;
//! if let Some(best) = answer.items.first() {
//!     let (item, slot) = (best.item.clone(), "home".parse()?);
//!     client.track(&visitor, EventKind::Click { item, slot, answer: Some(answer.id) }).await?;
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! | part | does |
//! |---|---|
//! | [`Client`] | the handle; clones are the same client |
//! | `session` | decides, purely: which node, when another, how long a pause, how large a batch |
//! | `pool` | holds connections, each opened with a session |
//! | `recommend`, `deliver`, `import`, `keep` | act: answer a slot, empty the queue, hand over a past, stay with the nearest node |
//! | `queue` | holds events until a node has acknowledged them, through crashes if it has a folder |

mod client;
mod config;
mod deliver;
mod error;
mod ids;
mod import;
mod keep;
mod pool;
mod queue;
mod recommend;
mod request;
mod session;
mod stats;

pub use client::Client;
pub use config::{AppKey, CERTIFICATE_GRACE_MS, Config, DeadLetterHook, Timing, Trust};
pub use error::SdkError;
pub use proto::client::{Answer, Degraded, DetailedAnswer, ItemDetails, Ranked, Reason, ServedBy, Tracked};
pub use proto::event::Attributes;
pub use proto::{
    AnswerId, Code, DeviceId, ErrorReply, Event, EventId, EventKind, Fault, ItemId, PopId, Retry, SlotId,
    TraceId, UserId, VisitorId,
};
pub use queue::DeadLetter;
pub use request::SlotRequest;
pub use stats::Stats;
