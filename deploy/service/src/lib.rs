//! What every deployed process needs, and a phone never links: telemetry, settings, shutdown, secrets, an admin port.

pub mod admin;
pub mod files;
pub mod http;
pub mod resources;
pub mod secrets;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
