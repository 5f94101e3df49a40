//! Is what clients saw of one key linearizable? A search for an order of its operations that keeps to real time and in which
//! every read shows exactly the writes before it.
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", JPDC 17, 1993) with the memory of Lowe ("Testing
//! for Linearizability", CPE 29(4), 2017), as Knossos and Porcupine do it. A key's state is the set of serials written, so it
//! follows from *which* writes were put in order: the memory holds sets of operations, and no states beside them. The oracles of
//! [`crate::invariants`] look at single facts; this looks at all that several clients did to one key at the same time.
//!
//! Pure, and capped: a history that is not decided within [`Limits`] is said to be undecided, which is no pass.
//!
//! Process runs record through `processes::watch`. The simulation may do the same: a [`History`] beside its oracle,
//! [`History::add`] where a client is answered or gives up, and [`History::judge`] once all has healed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use crate::invariants::{Serial, Visitor};

/// Serials of one key are below this.
pub const SERIALS_MAX: u64 = 256;
/// Operations kept of one key: one with more is undecided.
const OPERATIONS_MAX: usize = 4_096;

/// Serials of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Serials([u64; (SERIALS_MAX / 64) as usize]);

impl Serials {
    /// Whether a serial is among them.
    pub fn holds(&self, serial: Serial) -> bool {
        serial < SERIALS_MAX && self.0[(serial / 64) as usize] & (1 << (serial % 64)) != 0
    }

    /// These and those.
    #[must_use]
    pub fn with(mut self, other: &Serials) -> Serials {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own |= other;
        }
        self
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Serial> {
        let serials = *self;
        (0..SERIALS_MAX).filter(move |serial| serials.holds(*serial))
    }
}

impl FromIterator<Serial> for Serials {
    /// # Panics
    /// Where a serial is not below [`SERIALS_MAX`].
    fn from_iter<T: IntoIterator<Item = Serial>>(serials: T) -> Self {
        let mut set = Self::default();
        for serial in serials {
            assert!(serial < SERIALS_MAX, "serial {serial}: at most {SERIALS_MAX} of a key");
            set.0[(serial / 64) as usize] |= 1 << (serial % 64);
        }
        set
    }
}

impl fmt::Display for Serials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serials: Vec<_> = self.iter().map(|serial| serial.to_string()).collect();
        write!(f, "{{{}}}", serials.join(" "))
    }
}

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Wrote serials that nobody else writes, all at once.
    Write(Serials),
    /// Was shown these.
    Read(Serials),
}

/// What a client knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, then.
    Ended(Duration),
    /// It surely did not happen: it was refused, or never sent.
    Refused,
    /// It may happen at any time, or never.
    Unknown,
}

/// An operation on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Whose.
    pub client: u64,
    /// What.
    pub work: Work,
    /// When it was first sent.
    pub began: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, serials) = match &self.work {
            Work::Write(serials) => ("write of", serials),
            Work::Read(serials) => ("read of", serials),
        };
        write!(f, "client {}: {word} {serials} from {} ms", self.client, self.began.as_millis())?;
        match self.outcome {
            Outcome::Ended(Duration::MAX) => write!(f, " on, which happened"),
            Outcome::Ended(at) => write!(f, " to {} ms", at.as_millis()),
            Outcome::Refused => write!(f, ", refused"),
            Outcome::Unknown => write!(f, " on, never answered"),
        }
    }
}

/// How much a search may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Operations tried: some 50 ns each.
    pub steps: u64,
    /// Bytes of its memory.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 20_000_000, bytes: 128 << 20 }
    }
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none; how far the best one comes.
    Not(String),
    /// Not known: the limits were reached.
    Undecided,
}

/// What was done to all keys.
#[derive(Debug, Clone, Default)]
pub struct History {
    keys: BTreeMap<Visitor, Vec<Operation>>,
}

/// What came of all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Keys that were looked at.
    pub keys: u64,
    /// Their operations.
    pub operations: u64,
    /// Keys that several clients wrote.
    pub shared: u64,
    /// Writes that nobody was told of, resolved by what was there in the end.
    pub resolved: u64,
    /// Keys without an order, and why.
    pub broken: Vec<(Visitor, String)>,
    /// Keys that were not decided.
    pub undecided: Vec<Visitor>,
}

impl History {
    /// Takes in an operation that ended, or that its client gave up.
    pub fn add(&mut self, key: Visitor, operation: Operation) {
        let operations = self.keys.entry(key).or_default();
        // One beyond the limit says that there were more.
        if operations.len() <= OPERATIONS_MAX {
            operations.push(operation);
        }
    }

    /// Judges every key. `held`: what is there in the end, of writes whose outcome nobody was told. What is there happened,
    /// and what is not never did: that keeps the search short.
    pub fn judge(&self, held: impl Fn(Visitor, Serial) -> bool, limits: Limits) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for (key, operations) in &self.keys {
            let mut operations = operations.clone();
            for operation in &mut operations {
                if let (Outcome::Unknown, Work::Write(serials)) = (operation.outcome, &operation.work) {
                    let happened = serials.iter().any(|serial| held(*key, serial));
                    operation.outcome =
                        if happened { Outcome::Ended(Duration::MAX) } else { Outcome::Refused };
                    verdicts.resolved += 1;
                }
            }
            let mut writers =
                operations.iter().filter(|o| matches!(o.work, Work::Write(_))).map(|o| o.client);
            let first = writers.next();
            verdicts.shared += u64::from(writers.any(|writer| Some(writer) != first));
            verdicts.keys += 1;
            verdicts.operations += operations.len() as u64;
            match check(&operations, limits) {
                _ if operations.len() > OPERATIONS_MAX => verdicts.undecided.push(*key),
                Verdict::Linearizable => {}
                Verdict::Not(why) => verdicts.broken.push((*key, why)),
                Verdict::Undecided => verdicts.undecided.push(*key),
            }
        }
        verdicts
    }
}

/// Looks for an order of the operations of one key.
pub fn check(operations: &[Operation], limits: Limits) -> Verdict {
    Search::new(operations).run(limits)
}

/// Before the first entry.
const HEAD: usize = 0;

/// The call or the return of an operation.
#[derive(Debug, Clone, Copy)]
struct Entry {
    operation: usize,
    /// Of a call: where its return is, if it returned.
    returns: Option<usize>,
    is_call: bool,
    before: usize,
    after: usize,
}

/// Calls and returns in the order of their times, as a list from which what has been put in order is lifted out, and into which
/// it is put back.
struct Search<'a> {
    operations: Vec<&'a Operation>,
    /// The first stands before all others.
    entries: Vec<Entry>,
    /// What is in order so far.
    placed: Vec<u64>,
    state: Serials,
    /// The order: calls, and the state before each.
    order: Vec<(usize, Serials)>,
    /// Operations that must be placed yet.
    left: usize,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let operations: Vec<&Operation> =
            operations.iter().filter(|operation| operation.outcome != Outcome::Refused).collect();
        let mut times = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            // What ends when another begins is concurrent with it: calls come first.
            times.push((operation.began, true, at));
            if let Outcome::Ended(ended) = operation.outcome {
                times.push((ended, false, at));
            }
        }
        times.sort_by_key(|(time, is_call, at)| (*time, !is_call, *at));
        let head = Entry { operation: 0, returns: None, is_call: false, before: HEAD, after: 1 };
        let mut entries = vec![head];
        let mut calls = vec![HEAD; operations.len()];
        for (number, (_, is_call, operation)) in times.into_iter().enumerate() {
            let here = number + 1;
            entries.push(Entry { operation, returns: None, is_call, before: here - 1, after: here + 1 });
            match is_call {
                true => calls[operation] = here,
                false => entries[calls[operation]].returns = Some(here),
            }
        }
        let left = entries.iter().filter(|entry| entry.returns.is_some()).count();
        let placed = vec![0; operations.len().div_ceil(64)];
        Self { operations, entries, placed, state: Serials::default(), order: Vec::new(), left }
    }

    fn run(mut self, limits: Limits) -> Verdict {
        let mut known: HashSet<Box<[u64]>> = HashSet::new();
        // A set of placed operations, where it lies, and what the table keeps beside it.
        let bytes = self.placed.len() * 8 + 32;
        let (mut steps, mut best) = (0, (0, None));
        let mut at = self.entries[HEAD].after;
        while self.left > 0 {
            steps += 1;
            if steps > limits.steps || known.len() * bytes > limits.bytes {
                return Verdict::Undecided;
            }
            match self.entries.get(at).copied() {
                Some(entry) if entry.is_call => {
                    let placed =
                        self.after(entry.operation).filter(|_| known.insert(self.placing(entry.operation)));
                    at = match placed {
                        Some(state) => {
                            self.place(at, state);
                            self.entries[HEAD].after
                        }
                        None => entry.after,
                    };
                }
                // Something returned, or nothing is left, before everything that had to be in order was: another order.
                stuck => {
                    if best.1.is_none() || self.order.len() > best.0 {
                        best = (self.order.len(), stuck.map(|entry| entry.operation));
                    }
                    let Some(last) = self.take_back() else { return Verdict::Not(self.why(best)) };
                    at = self.entries[last].after;
                }
            }
        }
        Verdict::Linearizable
    }

    /// The state after an operation, if it can come next.
    fn after(&self, operation: usize) -> Option<Serials> {
        match &self.operations[operation].work {
            Work::Write(serials) => Some(self.state.with(serials)),
            Work::Read(seen) => (*seen == self.state).then_some(self.state),
        }
    }

    fn placing(&self, operation: usize) -> Box<[u64]> {
        let mut placed = self.placed.clone();
        placed[operation / 64] |= 1 << (operation % 64);
        placed.into()
    }

    fn place(&mut self, call: usize, state: Serials) {
        let Entry { operation, returns, .. } = self.entries[call];
        self.placed[operation / 64] |= 1 << (operation % 64);
        self.order.push((call, self.state));
        self.state = state;
        self.left -= usize::from(returns.is_some());
        for entry in [Some(call), returns].into_iter().flatten() {
            let Entry { before, after, .. } = self.entries[entry];
            self.entries[before].after = after;
            if let Some(next) = self.entries.get_mut(after) {
                next.before = before;
            }
        }
    }

    fn take_back(&mut self) -> Option<usize> {
        let (call, state) = self.order.pop()?;
        let Entry { operation, returns, .. } = self.entries[call];
        self.placed[operation / 64] &= !(1 << (operation % 64));
        self.state = state;
        self.left += usize::from(returns.is_some());
        // In the other order than they were lifted.
        for entry in [returns, Some(call)].into_iter().flatten() {
            let Entry { before, after, .. } = self.entries[entry];
            self.entries[before].after = entry;
            if let Some(next) = self.entries.get_mut(after) {
                next.before = entry;
            }
        }
        Some(call)
    }

    fn why(&self, (longest, stuck): (usize, Option<usize>)) -> String {
        let all = self.operations.len();
        let stuck = stuck.map_or_else(String::new, |at| format!(": {}", self.operations[at]));
        format!(
            "no order explains what clients saw; the longest holds {longest} of {all} operations, and not{stuck}"
        )
    }
}

#[cfg(test)]
mod tests;
