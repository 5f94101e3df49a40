//! Load that is more than the processors bear.
//!
//! It shows as delay: what is ready to go on waits for its turn. Delay, not a number of requests, is what tells overload from much work
//! (Nichols and Jacobson, "Controlling queue delay", 2012; Cho et al., "Overload control for µs-scale RPCs with Breakwater", 2020), and
//! it is measured where it arises: a thread sends a pulse through the IO threads' queue, and how long it takes is what everything else
//! waits there. While that is too long, and it is requests that make it so, new ones are refused.
//!
//! Refusing costs, too: whoever is refused at once and asks again at once takes from those who are answered what reading and refusing
//! takes. Over HTTP, where we cannot know that callers wait as they are told, refusals are held back for about as long: what is held
//! costs nothing, and there is one request at a time on a connection (or on a stream).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prometheus::Histogram;
use proto::{Code, ErrorReply};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How often the queue is measured while there are requests.
const PULSE_EVERY: Duration = Duration::from_millis(5);
/// With no more under way on each IO thread, delay is not of the requests' making: something else has the processors.
const UNDER_WAY_LEAST: usize = 32;
/// When to come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Refusals are held back for a time between these, so that those who are refused together do not come again together.
const HELD_LEAST: Duration = Duration::from_millis(750);
const HELD_MOST: Duration = Duration::from_millis(1_250);
/// So many at most; the others leave at once.
const HELD_LEN_MAX: usize = 16_384;

/// Admits requests, or refuses them.
pub struct Shedder {
    pulse: Arc<Pulse>,
    /// The thread that sends it.
    beating: Thread,
    delay_max: Duration,
    under_way: AtomicUsize,
    under_way_least: usize,
    held: Semaphore,
}

impl Shedder {
    /// Begins to measure the runtime that this is called in.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub fn start(delay_max: Duration, delays: Histogram) -> anyhow::Result<Self> {
        let runtime = Handle::current();
        let threads = runtime.metrics().num_workers();
        let pulse = Arc::new(Pulse::new(delays));
        let beating = Arc::clone(&pulse);
        let thread = std::thread::Builder::new().name("pulse".to_owned());
        let thread =
            thread.spawn(move || beat(&beating, &runtime)).context("cannot start the pulse's thread")?;
        Ok(Self {
            pulse,
            beating: thread.thread().clone(),
            delay_max,
            under_way: AtomicUsize::new(0),
            under_way_least: UNDER_WAY_LEAST * threads,
            held: Semaphore::new(HELD_LEN_MAX),
        })
    }

    /// A place until it is dropped. None: the node is overloaded.
    pub fn admit(&self) -> Option<Place<'_>> {
        self.ask();
        let many = self.under_way.load(Ordering::Relaxed) >= self.under_way_least;
        if many && self.pulse.delay() > self.delay_max {
            return None;
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Some(Place(&self.under_way))
    }

    /// Says that there are requests.
    fn ask(&self) {
        if self.pulse.asked.load(Ordering::Relaxed) {
            return;
        }
        self.pulse.asked.store(true, Ordering::SeqCst);
        if self.pulse.resting.swap(false, Ordering::SeqCst) {
            self.beating.unpark();
        }
    }

    /// What is said to whom was not admitted.
    pub fn refusal(&self) -> ErrorReply {
        let retry_after_ms = u32::try_from(RETRY_AFTER.as_millis()).unwrap_or(u32::MAX);
        ErrorReply::new(Code::Overloaded, "the node has more to do than it can")
            .retry_after_ms(retry_after_ms)
    }

    /// Waits for as long as a refusal is held back.
    pub async fn hold_back(&self) {
        let Ok(_place) = self.held.try_acquire() else { return };
        let spread = (HELD_MOST - HELD_LEAST).mul_f64(fastrand::f64());
        tokio::time::sleep(HELD_LEAST + spread).await;
    }
}

impl Drop for Shedder {
    fn drop(&mut self) {
        self.pulse.ended.store(true, Ordering::SeqCst);
        self.beating.unpark();
    }
}

/// Of a request under way.
#[derive(Debug)]
pub struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long what is ready waits for an IO thread.
struct Pulse {
    begun: Instant,
    /// Whether anybody asked since the last beat.
    asked: AtomicBool,
    /// Whether the thread waits until somebody asks.
    resting: AtomicBool,
    /// Nobody will ask any more.
    ended: AtomicBool,
    /// When the pulse that has not come through yet was sent, in microseconds since the beginning; 0: there is none.
    sent_us: AtomicU64,
    /// How long the last one took.
    took_us: AtomicU64,
    delays: Histogram,
}

impl Pulse {
    fn new(delays: Histogram) -> Self {
        let no = || AtomicBool::new(false);
        let zero = || AtomicU64::new(0);
        let (asked, resting, ended) = (no(), no(), no());
        Self { begun: Instant::now(), asked, resting, ended, sent_us: zero(), took_us: zero(), delays }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The longer of the last one's time and of that since one was sent that has not come through.
    fn delay(&self) -> Duration {
        let since = match self.sent_us.load(Ordering::Acquire) {
            0 => 0,
            sent_us => self.now_us().saturating_sub(sent_us),
        };
        Duration::from_micros(since.max(self.took_us.load(Ordering::Acquire)))
    }

    /// Sends a pulse, if the last one has come through.
    fn send(self: Arc<Self>, runtime: &Handle) {
        if self.sent_us.load(Ordering::Acquire) != 0 {
            return;
        }
        self.sent_us.store(self.now_us().max(1), Ordering::Release);
        runtime.spawn(async move {
            let took_us = self.now_us().saturating_sub(self.sent_us.load(Ordering::Acquire));
            self.took_us.store(took_us, Ordering::Release);
            self.sent_us.store(0, Ordering::Release);
            self.delays.observe(Duration::from_micros(took_us).as_secs_f64());
        });
    }
}

/// Sends pulses while there are requests.
fn beat(pulse: &Arc<Pulse>, runtime: &Handle) {
    while !pulse.ended.load(Ordering::SeqCst) {
        if pulse.asked.swap(false, Ordering::SeqCst) {
            Arc::clone(pulse).send(runtime);
            std::thread::sleep(PULSE_EVERY);
            continue;
        }
        // What was measured is no longer so.
        pulse.took_us.store(0, Ordering::Release);
        pulse.resting.store(true, Ordering::SeqCst);
        if !pulse.asked.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use prometheus::HistogramOpts;

    use super::*;

    const DELAY_MAX: Duration = Duration::from_millis(20);

    /// On a runtime of one thread.
    fn shedder(runtime: &tokio::runtime::Runtime) -> Shedder {
        let _entered = runtime.enter();
        let delays = Histogram::with_opts(HistogramOpts::new("delays", "delays")).unwrap();
        Shedder::start(DELAY_MAX, delays).unwrap()
    }

    /// Asks until the answer is the wanted one.
    fn until(mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_comes_while_the_queue_stands_is_refused_and_admitted_when_it_moves_again() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shedder = shedder(&runtime);
        let mut places: Vec<_> = (0..UNDER_WAY_LEAST).map(|_| shedder.admit().unwrap()).collect();
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn(async move { released.recv() });
        until(|| shedder.admit().is_none());
        // Few are under way: it is not they who are in each other's way.
        places.pop();
        let place = shedder.admit();
        assert!(place.is_some());
        drop(release);
        until(|| shedder.pulse.delay() < DELAY_MAX && shedder.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_held_back_for_about_as_long_as_they_say_but_not_all() {
        let delays = Histogram::with_opts(HistogramOpts::new("delays", "delays")).unwrap();
        let shedder = Shedder::start(DELAY_MAX, delays).unwrap();
        let begun = tokio::time::Instant::now();
        shedder.hold_back().await;
        assert!((HELD_LEAST..=HELD_MOST).contains(&begun.elapsed()));
        let _all = shedder.held.acquire_many(HELD_LEN_MAX as u32).await.unwrap();
        let begun = tokio::time::Instant::now();
        shedder.hold_back().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(shedder.refusal().retry_after_ms, Some(1_000));
    }
}
