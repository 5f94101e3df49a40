//! The pure state machine.

/// Why the machine could not read what lies below it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(String);

/// Most events that wait for the cloud; the same on every node, so that every replica refuses the same command.
pub const OUTBOX_LEN_MAX: u64 = 4_000_000;
