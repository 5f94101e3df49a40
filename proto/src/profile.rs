//! What a PoP knows of a visitor. Stored by the store, read by serving, so it is said here.

use serde::{Deserialize, Serialize};

use crate::event::{Attributes, Event, EventKind};
use crate::ids::{ItemId, VisitorId};
use crate::limits::{ATTRIBUTES_MAX, EVENT_FUTURE_MS_MAX, PROFILE_RING_LEN, PROFILE_SEEN_LEN};

/// A rating of so many stars, of 5, or fewer is a dislike.
pub const DISLIKED_STARS_MAX: f32 = 2.0;

/// How a visitor met an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// Chose it.
    Click,
    /// Did what it is offered for.
    Conversion,
    /// Judged it.
    Rating,
}

/// One entry of the ring of recent interactions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interaction {
    /// With what.
    pub item: ItemId,
    /// How.
    pub signal: Signal,
    /// Stars from 0 to 5 for a rating; else 0.
    pub stars: f32,
    /// When, in milliseconds since 1970 UTC, by the client's clock.
    pub at_ms: u64,
}

/// How often an item was put before a visitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Which item.
    pub item: ItemId,
    /// Answers that offered it.
    pub served: u16,
    /// Impressions that the client confirmed.
    pub seen: u16,
}

impl Interaction {
    /// A rating of at most [`DISLIKED_STARS_MAX`]: it says what the visitor does not want more of.
    pub fn disliked(&self) -> bool {
        self.signal == Signal::Rating && self.stars <= DISLIKED_STARS_MAX
    }
}

/// What a PoP knows of a visitor. Both lists are rings: bounded, the oldest falls off first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// The latest interactions by the clients' clocks, oldest first, at most [`PROFILE_RING_LEN`]: what arrives late takes
    /// the place that its time gives it.
    pub interactions: Vec<Interaction>,
    /// Items offered or seen, least recently touched first, at most [`PROFILE_SEEN_LEN`].
    pub seen: Vec<Seen>,
    /// Traits set by `identify` events: age, gender, plan …; at most [`ATTRIBUTES_MAX`].
    pub traits: Attributes,
    /// Events counted for this visitor.
    pub events: u64,
    /// Grows with every change of [`Profile::interactions`] or [`Profile::traits`]: equal numbers mean equal input to
    /// the models.
    pub version: u64,
    /// When each of [`Profile::traits`] was set, by the clients' clocks, in their order.
    pub trait_times: Vec<u64>,
    /// What happened up to then was erased, and is not taken in when it arrives late. Milliseconds since 1970 UTC; 0: never.
    pub erased_at_ms: u64,
}

/// The form of version 1, as nodes up to 0.1 stored it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile1 {
    /// In the order in which they arrived.
    pub interactions: Vec<Interaction>,
    /// As [`Profile::seen`].
    pub seen: Vec<Seen>,
    /// As [`Profile::traits`].
    pub traits: Attributes,
    /// As [`Profile::events`].
    pub events: u64,
    /// As [`Profile::version`].
    pub version: u64,
}

impl From<Profile1> for Profile {
    fn from(old: Profile1) -> Self {
        let Profile1 { mut interactions, seen, traits, events, version } = old;
        interactions.sort_by_key(|interaction| interaction.at_ms);
        let trait_times = vec![0; traits.len()];
        Self { interactions, seen, traits, events, version, trait_times, erased_at_ms: 0 }
    }
}

impl Profile {
    /// Takes in one event. Pure: the same events in the same order give the same profile on every replica. What happened
    /// before an erasure changes nothing.
    pub fn record(&mut self, event: &Event) {
        if event.at_ms <= self.erased_at_ms {
            return;
        }
        self.events += 1;
        match &event.kind {
            EventKind::Impression { item, .. } => self.touch(item, 0, 1),
            EventKind::Click { item, .. } => self.interact(item, Signal::Click, 0.0, event.at_ms),
            EventKind::Conversion { item, .. } => self.interact(item, Signal::Conversion, 0.0, event.at_ms),
            EventKind::Rating { item, stars } => self.interact(item, Signal::Rating, *stars, event.at_ms),
            EventKind::Custom { name, attributes } if name == "identify" => {
                self.identify(attributes, event.at_ms)
            }
            EventKind::Custom { .. } => {}
        }
    }

    /// Notes that an answer offered `items`.
    pub fn serve(&mut self, items: &[ItemId], at_ms: u64) {
        if at_ms <= self.erased_at_ms {
            return;
        }
        for item in items {
            self.touch(item, 1, 0);
        }
    }

    /// Forgets all that happened up to a time, by clients' clocks that may be [`EVENT_FUTURE_MS_MAX`] ahead, and how often
    /// items were shown: what is left of it is that time, so that nothing older comes back. Doing it twice does nothing.
    pub fn erase(&mut self, at_ms: u64) {
        if at_ms <= self.erased_at_ms {
            return;
        }
        let certainly_ms = at_ms.saturating_add(EVENT_FUTURE_MS_MAX);
        let mut later = Self { version: self.version + 1, erased_at_ms: at_ms, ..Self::default() };
        later.interactions = std::mem::take(&mut self.interactions);
        later.interactions.retain(|met| met.at_ms > certainly_ms);
        for (set, set_at_ms) in std::mem::take(&mut self.traits).into_iter().zip(&self.trait_times) {
            if *set_at_ms > certainly_ms {
                later.traits.push(set);
                later.trait_times.push(*set_at_ms);
            }
        }
        later.events = later.interactions.len() as u64;
        *self = later;
    }

    /// How often `item` was put before the visitor.
    pub fn seen(&self, item: &str) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.item.as_str() == item)
    }

    fn interact(&mut self, item: &ItemId, signal: Signal, stars: f32, at_ms: u64) {
        let interaction = Interaction { item: item.clone(), signal, stars, at_ms };
        let ring = &mut self.interactions;
        let at = ring.partition_point(|known| known.at_ms <= at_ms);
        let of_that_time = ring[..at].iter().rev().take_while(|known| known.at_ms == at_ms);
        // A past that is imported twice is one past.
        if of_that_time.into_iter().any(|known| *known == interaction) {
            return;
        }
        if ring.len() < PROFILE_RING_LEN {
            ring.insert(at, interaction);
        } else if at > 0 {
            let surplus = ring.len() - PROFILE_RING_LEN;
            ring[..at].rotate_left(1);
            ring[at - 1] = interaction;
            ring.drain(..surplus);
        } else {
            return; // older than all that a full ring remembers
        }
        self.version += 1;
    }

    /// A trait that was set later than this event happened keeps its value.
    fn identify(&mut self, attributes: &Attributes, at_ms: u64) {
        self.version += 1;
        self.trait_times.resize(self.traits.len(), 0);
        for (name, value) in attributes {
            match self.traits.iter().position(|(known, _)| known == name) {
                Some(at) if self.trait_times[at] <= at_ms => {
                    self.traits[at].1.clone_from(value);
                    self.trait_times[at] = at_ms;
                }
                None if self.traits.len() < ATTRIBUTES_MAX => {
                    self.traits.push((name.clone(), value.clone()));
                    self.trait_times.push(at_ms);
                }
                Some(_) | None => {}
            }
        }
    }

    fn touch(&mut self, item: &ItemId, served: u16, seen: u16) {
        let mut entry = match self.seen.iter().position(|entry| entry.item == *item) {
            Some(at) => self.seen.remove(at),
            None => Seen { item: item.clone(), served: 0, seen: 0 },
        };
        entry.served = entry.served.saturating_add(served);
        entry.seen = entry.seen.saturating_add(seen);
        push_bounded(&mut self.seen, entry, PROFILE_SEEN_LEN);
    }
}

fn push_bounded<T>(ring: &mut Vec<T>, entry: T, len_max: usize) {
    if ring.len() >= len_max {
        ring.drain(..=ring.len() - len_max);
    }
    ring.push(entry);
}

/// A visitor's profile as one node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Whose.
    pub visitor: VisitorId,
    /// Empty for an unknown visitor.
    pub profile: Profile,
    /// Log index the node had applied when it read.
    pub applied: u64,
}

#[cfg(test)]
mod tests;
