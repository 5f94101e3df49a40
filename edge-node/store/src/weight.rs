//! How many bytes commands take at most when they are encoded: what queues and groups are measured by, without encoding.

use proto::command::Command;
use proto::event::{Attributes, Event, EventKind};
use proto::{ItemId, VisitorId};

/// Everything in an event that is not text: id, times, trace, tags and lengths, each at its largest.
const EVENT_FIXED: usize = 96;
/// Everything in a command that is not counted on its own.
const COMMAND_FIXED: usize = 32;
/// A key of a purge.
const PURGE_KEY: usize = 9;

/// Upper bound of a command's encoding, in bytes.
pub fn command(command: &Command) -> usize {
    COMMAND_FIXED
        + match command {
            Command::Track { events, .. } => events.iter().map(event).sum(),
            Command::Served { visitor, items, .. } => {
                self::visitor(visitor) + items.iter().map(item).sum::<usize>()
            }
            Command::Activate { manifest } => manifest.manifest.len() + manifest.signature.len(),
            Command::Acknowledge { .. } => 0,
            Command::Purge { keys, .. } => keys.len() * PURGE_KEY,
            Command::Erase { visitor, .. } => self::visitor(visitor),
        }
}

/// Upper bound of an event's encoding, in bytes.
pub fn event(event: &Event) -> usize {
    EVENT_FIXED
        + visitor(&event.visitor)
        + match &event.kind {
            EventKind::Impression { item, slot, .. } | EventKind::Click { item, slot, .. } => {
                self::item(item) + slot.as_str().len() + 5
            }
            EventKind::Conversion { item, .. } | EventKind::Rating { item, .. } => self::item(item),
            EventKind::Custom { name, attributes } => name.len() + 5 + self::attributes(attributes),
        }
}

fn visitor(visitor: &VisitorId) -> usize {
    5 + match visitor {
        VisitorId::User(id) => id.as_str().len(),
        VisitorId::Device(id) => id.as_str().len(),
    }
}

fn item(item: &ItemId) -> usize {
    item.as_str().len() + 5
}

fn attributes(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| name.len() + value.len() + 10).sum()
}
