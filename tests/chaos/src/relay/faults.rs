//! What a relay does to a direction, and counters of what it really did.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest delay, jitter or hold-back.
pub const DELAY_MAX: Duration = Duration::from_secs(10);
/// Lowest rate: a datagram of 1,500 bytes takes a second.
pub const RATE_MIN_BYTES_PER_S: u64 = 1_500;

/// A way through the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From who dialed the relay to who stands behind it.
    Up = 0,
    /// Back.
    Down = 1,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];
}

/// What is done to a direction. The default is a good network.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    /// Everything takes this much longer.
    pub delay: Duration,
    /// And up to this much more, evenly distributed. Order is kept.
    pub jitter: Duration,
    /// Share of datagrams that are lost, 0 to 1. UDP only.
    pub loss: f64,
    /// Share that arrives twice. UDP only.
    pub duplicate: f64,
    /// Share that is held back, so that later ones overtake it. UDP only.
    pub reorder: f64,
    /// How long those are held back.
    pub hold: Duration,
    /// Bytes a second that get through; none: as many as come.
    pub rate_bytes_per_s: Option<u64>,
    /// Nothing gets through: a black hole where both directions are silent, one-way loss where one is. Datagrams are lost; a stream
    /// waits.
    pub silent: bool,
}

impl Faults {
    /// Nothing gets through.
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        for share in [self.loss, self.duplicate, self.reorder] {
            anyhow::ensure!((0.0..=1.0).contains(&share), "a share is from 0 to 1, not {share}");
        }
        for time in [self.delay, self.jitter, self.hold] {
            anyhow::ensure!(time <= DELAY_MAX, "at most {DELAY_MAX:?} of delay, not {time:?}");
        }
        anyhow::ensure!(
            self.reorder == 0.0 || !self.hold.is_zero(),
            "to reorder, hold must say how long datagrams are held back"
        );
        let rate = self.rate_bytes_per_s.unwrap_or(u64::MAX);
        anyhow::ensure!(rate >= RATE_MIN_BYTES_PER_S, "at least {RATE_MIN_BYTES_PER_S} bytes/s, not {rate}");
        Ok(())
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A kind of fault, as it is counted: once for each datagram (UDP), read (TCP) or connection that it happened to.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Kind::$name => $text,)* })
            }
        }
    };
}

kinds! {
    /// Arrived later by the delay.
    Delay = "delay";
    /// Arrived later by some jitter.
    Jitter = "jitter";
    /// Did not arrive.
    Loss = "loss";
    /// Arrived twice.
    Duplicate = "duplicate";
    /// Arrived after what was sent later.
    Reorder = "reorder";
    /// Did not arrive, while the other direction was open.
    OneWay = "one-way";
    /// Did not arrive, while neither direction was open.
    Blackhole = "blackhole";
    /// Waited for its turn in the rate, or found no place in its queue.
    Rate = "rate";
    /// Came from another port than before (UDP), or had its connection cut (TCP).
    Rebind = "rebind";
}

/// How often each kind of fault really happened.
#[derive(Debug, Default)]
pub struct Counts {
    kinds: [AtomicU64; Kind::ALL.len()],
    came: AtomicU64,
    passed: AtomicU64,
    overflowed: AtomicU64,
}

impl Counts {
    pub(super) fn add(&self, kind: Kind) {
        self.kinds[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn come(&self) {
        self.came.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn pass(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// How often one kind happened.
    pub fn of(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize].load(Ordering::Relaxed)
    }

    /// Datagrams and reads that came to the relay, and about which it has decided.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Datagrams and reads that went on, copies included.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Datagrams dropped because the relay itself held too much: no fault that anybody asked for.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// An error that names the kinds which a run claims and which never happened.
    ///
    /// # Errors
    /// Where there is one.
    pub fn require(&self, claimed: &[Kind]) -> anyhow::Result<()> {
        let missing: Vec<String> =
            claimed.iter().filter(|kind| self.of(**kind) == 0).map(ToString::to_string).collect();
        anyhow::ensure!(missing.is_empty(), "claimed, and never happened: {}", missing.join(", "));
        Ok(())
    }
}
