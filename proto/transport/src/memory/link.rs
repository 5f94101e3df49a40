//! An in-memory link's handle and its streams.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proto::Code;
use tokio::time::Instant;

use super::wire::{Side, State, Wire};
use crate::error::{LinkError, LinkErrorKind};
use crate::link::{Link, Remote};
use crate::stream::{FrameBudget, Raw, Stream};

/// One end of an in-memory link.
pub(super) struct MemoryLink {
    wire: Arc<Wire>,
    side: Side,
    remote: Remote,
    remote_text: Arc<str>,
    budget: Arc<FrameBudget>,
}

impl MemoryLink {
    pub(super) fn new(wire: Arc<Wire>, side: Side, remote: Remote, budget: Arc<FrameBudget>) -> Self {
        Self { wire, side, remote_text: remote.address.as_str().into(), remote, budget }
    }

    fn stream(&self, id: u64) -> Stream {
        let raw = RawStream { wire: Arc::clone(&self.wire), id, side: self.side };
        Stream::new(Raw::Memory(raw), Arc::clone(&self.budget), Arc::clone(&self.remote_text))
    }

    fn unusable(&self, state: &mut State, now: Instant) -> Option<LinkErrorKind> {
        state.ended(self.side, now).or_else(|| state.drained(self.side, now))
    }
}

#[async_trait]
impl Link for MemoryLink {
    async fn open(&self) -> Result<Stream, LinkError> {
        match self.wire.wait(|state, now| state.open(self.side, now)).await {
            Ok(id) => Ok(self.stream(id)),
            Err(kind) => Err(kind.at("open a stream", Arc::clone(&self.remote_text))),
        }
    }

    async fn accept(&self) -> Result<Stream, LinkError> {
        match self.wire.wait(|state, now| state.accept(self.side, now)).await {
            Ok(id) => Ok(self.stream(id)),
            Err(kind) => Err(kind.at("accept a stream", Arc::clone(&self.remote_text))),
        }
    }

    fn remote(&self) -> &Remote {
        &self.remote
    }

    fn close(&self, reason: &str) {
        self.wire.change(|state, now| state.end(Some(self.side), reason, now));
    }

    async fn closed(&self) -> LinkError {
        let unusable = |state: &mut State, now| match self.unusable(state, now) {
            Some(kind) => ControlFlow::Break(kind),
            None => ControlFlow::Continue(None),
        };
        self.wire.wait(unusable).await.at("use the link", Arc::clone(&self.remote_text))
    }

    fn is_closed(&self) -> bool {
        self.wire.change(|state, now| self.unusable(state, now)).is_some()
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.wire.change(|state, _| state.release(self.side));
    }
}

impl fmt::Debug for MemoryLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLink").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// One end of an in-memory stream.
pub(crate) struct RawStream {
    wire: Arc<Wire>,
    id: u64,
    side: Side,
}

impl RawStream {
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), LinkErrorKind> {
        while !bytes.is_empty() {
            self.wire.wait(|state, now| state.write(self.id, self.side, &mut bytes, now)).await?;
        }
        Ok(())
    }

    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, LinkErrorKind> {
        self.wire.wait(|state, now| state.read(self.id, self.side, now)).await
    }

    pub(crate) async fn given_up(&mut self) -> LinkErrorKind {
        self.wire.wait(|state, now| state.given_up(self.id, self.side, now)).await
    }

    pub(crate) fn finish(&mut self) {
        self.wire.change(|state, now| state.finish(self.id, self.side, now));
    }

    pub(crate) fn reset(&mut self, code: Option<Code>) {
        self.wire.change(|state, now| state.reset(self.id, self.side, code, now));
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        self.wire.change(|state, now| state.drop_half(self.id, self.side, now));
    }
}
