//! One in-memory link, both ends: what is on its way, what has ended, what is blocked. The rules are plain functions of
//! the state and of the time; [`Wire::wait`] is the only thing that sleeps.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::Code;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Random, Settings};
use crate::error::LinkErrorKind;

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialer = 0,
    Listener = 1,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Side::Dialer => Side::Listener,
            Side::Listener => Side::Dialer,
        }
    }
}

/// What a rule answers: done with a result, or wait until something changes or that time comes.
pub(super) type Step<T> = ControlFlow<T, Option<Instant>>;

#[derive(Debug)]
pub(super) struct Wire {
    hosts: [String; 2],
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    settings: Settings,
    random: Random,
    streams: BTreeMap<u64, StreamState>,
    next_stream: u64,
    /// Streams that a side may accept, and from when on.
    arrivals: [Vec<(Instant, u64)>; 2],
    /// Streams opened by a side that count against the cap.
    open: [usize; 2],
    /// Streams that a side holds.
    held: [usize; 2],
    /// From this side to the other nothing passes.
    blocked: [bool; 2],
    /// Since when something is blocked, or a side dead.
    cut_since: Option<Instant>,
    killed: [bool; 2],
    released: [bool; 2],
    born: Instant,
    ending: Option<Ending>,
    /// When winding down began, and when the dialer hears of it.
    drain: Option<(Instant, Instant)>,
}

#[derive(Debug)]
struct Ending {
    /// When the other side hears of it.
    at: Instant,
    /// Who ended it; `None`: nobody asked.
    by: Option<Side>,
    reason: Arc<str>,
}

#[derive(Debug)]
struct StreamState {
    opener: Side,
    announced: bool,
    /// The sides that still have their half.
    halves: [bool; 2],
    /// Bytes sent by a side.
    pipes: [Pipe; 2],
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Bytes)>,
    buffered: usize,
    last_at: Option<Instant>,
    end: Option<(Instant, End)>,
    /// The reader wants no more.
    stopped: Option<(Instant, Option<Code>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Reset(Option<Code>),
}

impl Wire {
    pub(super) fn new(hosts: [String; 2], settings: Settings, seed: u64) -> Arc<Self> {
        let state = State {
            settings,
            random: Random::new(seed),
            streams: BTreeMap::new(),
            next_stream: 0,
            arrivals: [Vec::new(), Vec::new()],
            open: [0; 2],
            held: [0; 2],
            blocked: [false; 2],
            cut_since: None,
            killed: [false; 2],
            released: [false; 2],
            born: Instant::now(),
            ending: None,
            drain: None,
        };
        Arc::new(Self { hosts, state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits on it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let result = change(&mut self.lock(), Instant::now());
        self.changed.notify_waiters();
        result
    }

    /// Waits until `rule` is done. A rule that is not done must have changed nothing: nobody would be woken for it.
    pub(super) async fn wait<T>(&self, mut rule: impl FnMut(&mut State, Instant) -> Step<T> + Send) -> T {
        loop {
            // Made before the look at the state, so that no change between look and wait is missed.
            let changed = self.changed.notified();
            let wake = {
                let (mut state, now) = (self.lock(), Instant::now());
                match rule(&mut state, now) {
                    ControlFlow::Break(result) => {
                        drop(state);
                        self.changed.notify_waiters();
                        return result;
                    }
                    ControlFlow::Continue(at) => state.next_event(at, now),
                }
            };
            match wake {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    pub(super) fn connects(&self, a: &str, b: &str) -> bool {
        let [from, to] = &self.hosts;
        (from == a && to == b) || (from == b && to == a)
    }

    pub(super) fn set_blocked(&self, from: &str, to: &str, blocked: bool) {
        for side in [Side::Dialer, Side::Listener] {
            if self.hosts[side as usize] == from && self.hosts[side.other() as usize] == to {
                self.change(|state, now| state.set_blocked(side, blocked, now));
            }
        }
    }

    pub(super) fn kill(&self, host: &str) {
        for side in [Side::Dialer, Side::Listener] {
            if self.hosts[side as usize] == host {
                self.change(|state, now| {
                    state.killed[side as usize] = true;
                    state.cut_since.get_or_insert(now);
                });
            }
        }
    }

    pub(super) fn end_both(&self, reason: &str) {
        self.change(|state, now| state.end(None, reason, now));
    }

    /// Waits until `side` knows that the link has ended.
    pub(super) async fn ended(&self, side: Side) {
        let ended = |state: &mut State, now| match state.ended(side, now) {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(None),
        };
        self.wait(ended).await;
    }

    /// Tends the link until it ends: winds it down when it is old or let go, and ends it when that is done.
    pub(super) async fn tend(self: Arc<Self>) {
        while self.wait(State::tend).await {}
    }
}

impl State {
    /// Why `side` cannot use the link any more.
    pub(super) fn ended(&mut self, side: Side, now: Instant) -> Option<LinkErrorKind> {
        if self.killed[side as usize] {
            return Some(LinkErrorKind::Closed("this host was killed".into()));
        }
        if self.silent_at().is_some_and(|at| now >= at) {
            self.end(None, "the other side fell silent", now);
        }
        let ending = self.ending.as_ref()?;
        let heard = match ending.by {
            None => true,
            Some(by) if by == side => true,
            Some(by) => now >= ending.at && !self.blocked[by as usize],
        };
        heard.then(|| LinkErrorKind::Closed(Arc::clone(&ending.reason)))
    }

    /// Why `side` must open no more streams, although those it has may finish.
    pub(super) fn drained(&self, side: Side, now: Instant) -> Option<LinkErrorKind> {
        let (_, heard_at) = self.drain?;
        let heard = side == Side::Dialer && now >= heard_at && !self.blocked[Side::Listener as usize];
        heard.then(|| LinkErrorKind::Closed("winding down".into()))
    }

    fn silent_at(&self) -> Option<Instant> {
        self.cut_since.map(|since| since + Duration::from_millis(self.settings.idle_timeout_ms))
    }

    /// The next time at which something may become true without anybody doing anything.
    fn next_event(&self, at: Option<Instant>, now: Instant) -> Option<Instant> {
        let ending = self.ending.as_ref().map(|ending| ending.at);
        let drain = self.drain.map(|(_, heard_at)| heard_at);
        [at, self.silent_at(), ending, drain].into_iter().flatten().filter(|at| *at > now).min()
    }

    pub(super) fn end(&mut self, by: Option<Side>, reason: &str, now: Instant) {
        if self.ending.is_none() {
            let at = self.arrival(now);
            self.ending = Some(Ending { at, by, reason: reason.into() });
        }
    }

    pub(super) fn release(&mut self, side: Side) {
        self.released[side as usize] = true;
    }

    pub(super) fn start_drain(&mut self, now: Instant) {
        if self.drain.is_none() {
            self.drain = Some((now, self.arrival(now)));
        }
    }

    /// Whether there is more to tend to.
    fn tend(&mut self, now: Instant) -> Step<bool> {
        // Either side's view ends a silent link.
        let both = [Side::Dialer, Side::Listener];
        if both.into_iter().all(|side| self.ended(side, now).is_some()) || self.ending.is_some() {
            return ControlFlow::Break(false);
        }
        if self.released[Side::Dialer as usize] && self.held[Side::Dialer as usize] == 0 {
            self.end(Some(Side::Dialer), "", now);
            return ControlFlow::Break(false);
        }
        let old_at = self.born + Duration::from_millis(self.settings.connection_age_max_ms);
        let Some((began_at, _)) = self.drain else {
            if now >= old_at || self.released[Side::Listener as usize] {
                self.start_drain(now);
                return ControlFlow::Break(true);
            }
            return ControlFlow::Continue(Some(old_at));
        };
        if self.drained(Side::Dialer, now).is_some() && self.held[Side::Dialer as usize] == 0 {
            self.end(Some(Side::Dialer), "done", now);
            return ControlFlow::Break(false);
        }
        let over_at = began_at + Duration::from_millis(self.settings.drain_ms);
        if now >= over_at {
            self.end(Some(Side::Listener), "winding down took too long", now);
            return ControlFlow::Break(false);
        }
        ControlFlow::Continue(Some(over_at))
    }

    fn set_blocked(&mut self, from: Side, blocked: bool, now: Instant) {
        self.blocked[from as usize] = blocked;
        if self.blocked.contains(&true) {
            self.cut_since.get_or_insert(now);
        } else if !self.killed.contains(&true) && self.silent_at().is_some_and(|at| now < at) {
            self.cut_since = None;
        }
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        let jitter_ms = self.random.below(self.settings.jitter_ms.saturating_add(1));
        now + Duration::from_millis(self.settings.latency_ms.saturating_add(jitter_ms))
    }

    pub(super) fn open(&mut self, side: Side, now: Instant) -> Step<Result<u64, LinkErrorKind>> {
        if let Some(kind) = self.ended(side, now).or_else(|| self.drained(side, now)) {
            return ControlFlow::Break(Err(kind));
        }
        if self.open[side as usize] >= self.settings.max_bidi_streams {
            return ControlFlow::Continue(None);
        }
        let id = self.next_stream;
        self.next_stream += 1;
        self.open[side as usize] += 1;
        self.held[side as usize] += 1;
        let stream = StreamState {
            opener: side,
            announced: false,
            halves: [true; 2],
            pipes: [Pipe::default(), Pipe::default()],
        };
        self.streams.insert(id, stream);
        ControlFlow::Break(Ok(id))
    }

    pub(super) fn accept(&mut self, side: Side, now: Instant) -> Step<Result<u64, LinkErrorKind>> {
        if let Some(kind) = self.ended(side, now) {
            return ControlFlow::Break(Err(kind));
        }
        if self.blocked[side.other() as usize] {
            return ControlFlow::Continue(None);
        }
        let arrivals = &mut self.arrivals[side as usize];
        match arrivals.iter().position(|(at, _)| *at <= now) {
            Some(at) => {
                self.held[side as usize] += 1;
                ControlFlow::Break(Ok(arrivals.remove(at).1))
            }
            None => ControlFlow::Continue(arrivals.iter().map(|(at, _)| *at).min()),
        }
    }

    /// When what `side` sends on a stream now arrives; never before what it sent earlier. Announces the stream.
    fn sent(&mut self, id: u64, side: Side, now: Instant) -> Instant {
        let fresh = self.arrival(now);
        let Some(stream) = self.streams.get_mut(&id) else { return fresh };
        let pipe = &mut stream.pipes[side as usize];
        let at = pipe.last_at.map_or(fresh, |last| last.max(fresh));
        pipe.last_at = Some(at);
        if !stream.announced && side == stream.opener {
            stream.announced = true;
            self.arrivals[side.other() as usize].push((at, id));
        }
        at
    }

    /// Moves as much of `bytes` onto its way as the window has room for; waits while it has none.
    pub(super) fn write(
        &mut self,
        id: u64,
        side: Side,
        bytes: &mut Bytes,
        now: Instant,
    ) -> Step<Result<(), LinkErrorKind>> {
        let wake = match self.given_up(id, side, now) {
            ControlFlow::Break(kind) => return ControlFlow::Break(Err(kind)),
            ControlFlow::Continue(at) => at,
        };
        let window = self.settings.stream_window_bytes;
        let Some(pipe) = self.streams.get(&id).map(|stream| &stream.pipes[side as usize]) else {
            return ControlFlow::Break(Err(LinkErrorKind::Closed("the stream is gone".into())));
        };
        if pipe.end.is_some() {
            let kind = LinkErrorKind::Closed("the stream was finished or reset here".into());
            return ControlFlow::Break(Err(kind));
        }
        let part = bytes.split_to(bytes.len().min(window.saturating_sub(pipe.buffered)));
        if part.is_empty() {
            return ControlFlow::Continue(wake);
        }
        let at = self.sent(id, side, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            let pipe = &mut stream.pipes[side as usize];
            pipe.buffered += part.len();
            pipe.chunks.push_back((at, part));
        }
        ControlFlow::Break(Ok(()))
    }

    /// Why what `side` sends on a stream is of no more use.
    pub(super) fn given_up(&mut self, id: u64, side: Side, now: Instant) -> Step<LinkErrorKind> {
        if let Some(kind) = self.ended(side, now) {
            return ControlFlow::Break(kind);
        }
        let stopped = self.streams.get(&id).and_then(|stream| stream.pipes[side as usize].stopped);
        match stopped {
            Some((at, code)) if now >= at && !self.blocked[side.other() as usize] => {
                ControlFlow::Break(LinkErrorKind::Reset(code))
            }
            stopped => ControlFlow::Continue(stopped.map(|(at, _)| at)),
        }
    }

    pub(super) fn read(
        &mut self,
        id: u64,
        side: Side,
        now: Instant,
    ) -> Step<Result<Option<Bytes>, LinkErrorKind>> {
        if let Some(kind) = self.ended(side, now) {
            return ControlFlow::Break(Err(kind));
        }
        let blocked = self.blocked[side.other() as usize];
        let Some(pipe) = self.streams.get_mut(&id).map(|stream| &mut stream.pipes[side.other() as usize])
        else {
            return ControlFlow::Break(Err(LinkErrorKind::Closed("the stream is gone".into())));
        };
        if pipe.stopped.is_some() {
            return ControlFlow::Break(Err(LinkErrorKind::Closed("the stream was reset here".into())));
        }
        if blocked {
            return ControlFlow::Continue(None);
        }
        match (pipe.chunks.front(), pipe.end) {
            (_, Some((at, End::Reset(code)))) if at <= now => {
                ControlFlow::Break(Err(LinkErrorKind::Reset(code)))
            }
            (Some((at, _)), _) if *at <= now => {
                let chunk = pipe.chunks.pop_front().map(|(_, chunk)| chunk);
                pipe.buffered -= chunk.as_ref().map_or(0, Bytes::len);
                ControlFlow::Break(Ok(chunk))
            }
            (Some((at, _)), _) => ControlFlow::Continue(Some(*at)),
            (None, Some((at, End::Finished))) if at <= now => ControlFlow::Break(Ok(None)),
            (None, end) => ControlFlow::Continue(end.map(|(at, _)| at)),
        }
    }

    pub(super) fn finish(&mut self, id: u64, side: Side, now: Instant) {
        self.end_pipe(id, side, End::Finished, now);
    }

    /// Gives both directions up.
    pub(super) fn reset(&mut self, id: u64, side: Side, code: Option<Code>, now: Instant) {
        self.end_pipe(id, side, End::Reset(code), now);
        self.stop(id, side, code, now);
    }

    fn end_pipe(&mut self, id: u64, side: Side, end: End, now: Instant) {
        let ended = self.streams.get(&id).and_then(|stream| stream.pipes[side as usize].end);
        let settled = match (ended, end) {
            (None, _) => false,
            // As in QUIC, a stream that was finished may still be reset.
            (Some((_, End::Finished)), End::Reset(_)) => false,
            (Some(_), _) => true,
        };
        if settled {
            return;
        }
        let at = self.sent(id, side, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pipes[side as usize].end = Some((at, end));
        }
    }

    /// Tells the other side to send no more.
    fn stop(&mut self, id: u64, side: Side, code: Option<Code>, now: Instant) {
        let at = self.arrival(now);
        if let Some(stream) = self.streams.get_mut(&id) {
            let pipe = &mut stream.pipes[side.other() as usize];
            pipe.stopped.get_or_insert((at, code));
            pipe.chunks.clear();
            pipe.buffered = 0;
        }
    }

    /// A side lets go of its half: finishes it and stops the other's.
    pub(super) fn drop_half(&mut self, id: u64, side: Side, now: Instant) {
        self.finish(id, side, now);
        self.stop(id, side, None, now);
        self.held[side as usize] -= 1;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.halves[side as usize] = false;
        // The cap counts a stream until the side that accepted it is done with it.
        if side != stream.opener {
            self.open[stream.opener as usize] -= 1;
        }
        if stream.halves == [false; 2] {
            self.streams.remove(&id);
        }
    }
}
