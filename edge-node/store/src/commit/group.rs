//! Commands that share a Raft entry, with who waits for each.

use proto::command::Command;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::Written;
use crate::error::StoreError;
use crate::weight;

/// What one caller proposes.
#[derive(Debug)]
pub struct Proposal {
    /// In order; one at least.
    pub commands: Vec<Command>,
    /// Upper bound of their encoding, in bytes.
    pub weight: usize,
    /// Came from another node, which looks for the leader itself.
    pub forwarded: bool,
    /// Until when it is tried.
    pub deadline: Instant,
    /// Who waits.
    pub done: oneshot::Sender<Result<Written, StoreError>>,
    /// Its part of the bytes that may wait.
    pub _bytes: OwnedSemaphorePermit,
}

impl Proposal {
    /// Whether writing it twice does what writing it once does: events dedupe by their ids, acknowledging is monotonic, what is
    /// void twice is void, and what is erased twice is erased.
    pub fn is_idempotent(&self) -> bool {
        let idempotent = |command: &Command| match command {
            Command::Track { .. }
            | Command::Acknowledge { .. }
            | Command::Purge { .. }
            | Command::Erase { .. } => true,
            Command::Served { .. } | Command::Activate { .. } => false,
        };
        // A follower's group was looked through by the follower.
        !self.forwarded && self.commands.iter().all(idempotent)
    }

    /// Tells who waits; whoever gave up does not mind.
    pub fn answer(self, written: Result<Written, StoreError>) {
        drop(self.done.send(written));
    }
}

/// Commands that share a Raft entry.
#[derive(Debug, Default)]
pub struct Group {
    /// In the order they came.
    pub proposals: Vec<Proposal>,
    /// After them.
    pub notes: Vec<Command>,
}

impl Group {
    /// Number of commands.
    pub fn len(&self) -> usize {
        self.proposals.iter().map(|proposal| proposal.commands.len()).sum::<usize>() + self.notes.len()
    }

    /// Upper bound of the encoding, in bytes.
    pub fn weight(&self) -> usize {
        self.proposals.iter().map(|proposal| proposal.weight).sum::<usize>()
            + self.notes.iter().map(weight::command).sum::<usize>()
    }

    /// All commands, in order.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.proposals.iter().flat_map(|proposal| &proposal.commands).chain(&self.notes)
    }

    /// The same, to be changed.
    pub fn commands_mut(&mut self) -> impl Iterator<Item = &mut Command> {
        self.proposals.iter_mut().flat_map(|proposal| &mut proposal.commands)
    }

    /// The latest deadline of those who wait; none where nobody does.
    pub fn deadline(&self) -> Option<Instant> {
        self.proposals.iter().map(|proposal| proposal.deadline).max()
    }

    /// Gives each who waits his part of the effects.
    pub fn written(self, index: u64, effects: Vec<proto::command::Effect>) {
        let mut effects = effects.into_iter();
        for proposal in self.proposals {
            let own = effects.by_ref().take(proposal.commands.len()).collect();
            proposal.answer(Ok((index, own)));
        }
    }

    /// Answers those for whom `error` makes one, and keeps the others.
    pub fn answer_some(&mut self, error: impl Fn(&Proposal) -> Option<StoreError>) {
        for proposal in std::mem::take(&mut self.proposals) {
            match error(&proposal) {
                Some(error) => proposal.answer(Err(error)),
                None => self.proposals.push(proposal),
            }
        }
    }
}
