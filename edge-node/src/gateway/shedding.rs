//! Load that is more than the processors bear.
//!
//! It shows as delay: what is ready to go on waits for its turn. Delay, not a number of requests, is what tells overload from much work
//! (Nichols and Jacobson, "Controlling queue delay", 2012; Cho et al., "Overload control for µs-scale RPCs with Breakwater", 2020), and
//! it is measured where it arises: a thread sends a pulse through the IO threads' queue, and how long it takes is about what all else
//! waits there. While that is long, and it is requests that make it so, answers are made without models; where that is not enough, and
//! it goes on, new requests are refused.
//!
//! Refusing costs, too: whoever is refused at once and asks again at once takes from those who are answered what reading and refusing
//! takes. Over HTTP, where we cannot know that callers wait as they are told, refusals are held back for about as long: what is held
//! takes memory, within a limit, and no processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prometheus::Histogram;
use proto::{Code, ErrorReply};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How often the queue is measured while there are requests.
const PULSE_EVERY: Duration = Duration::from_millis(5);
/// With fewer that came meanwhile, delay is not of the requests' making: something else has the processors.
const ASKED_LEAST: u64 = 32;
/// A delay that does not last may be so many times as long: a burst is answered, as long as that is of use.
const BURST: u32 = 3;
/// When to come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Refusals are held back for a time between these, so that those who are refused together do not come again together.
const HELD_LEAST: Duration = Duration::from_secs(1);
const HELD_MOST: Duration = Duration::from_millis(1_500);
/// So many at most; the others leave at once.
const HELD_LEN_MAX: usize = 16_384;

/// What there is to do, beside what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// All can be done.
    Fine,
    /// All can be answered, but not by the models.
    High,
    /// Not all can be answered.
    Over,
}

/// Knows the load, and refuses what is too much.
pub struct Shedder {
    pulse: Arc<Pulse>,
    /// The thread that sends it.
    beating: Thread,
    held: Semaphore,
}

impl Shedder {
    /// Begins to measure the runtime that this is called in.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub fn start(delay_max: Duration, delays: Histogram) -> anyhow::Result<Self> {
        let runtime = Handle::current();
        let pulse = Arc::new(Pulse::new(delay_max, delays));
        let sent = Arc::clone(&pulse);
        let thread = std::thread::Builder::new().name("pulse".to_owned());
        let thread =
            thread.spawn(move || beat(&sent, &runtime)).context("cannot start the pulse's thread")?;
        Ok(Self { pulse, beating: thread.thread().clone(), held: Semaphore::new(HELD_LEN_MAX) })
    }

    /// Counts a request that came, and says whether it is to be answered.
    pub fn admits(&self) -> bool {
        let pulse = &self.pulse;
        pulse.asked.fetch_add(1, Ordering::SeqCst);
        if pulse.resting.load(Ordering::SeqCst) && pulse.resting.swap(false, Ordering::SeqCst) {
            self.beating.unpark();
        }
        self.load() < Load::Over || fastrand::f64() >= pulse.refused_share()
    }

    /// The load now.
    pub fn load(&self) -> Load {
        self.pulse.load()
    }

    /// What is said to whom was not admitted.
    pub fn refusal(&self) -> ErrorReply {
        let retry_after_ms = u32::try_from(RETRY_AFTER.as_millis()).unwrap_or(u32::MAX);
        let message = "the node has more to do than it can";
        ErrorReply::new(Code::Overloaded, message).retry_after_ms(retry_after_ms)
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

/// How long what is ready waits for an IO thread. Times are in microseconds since the beginning.
struct Pulse {
    begun: Instant,
    /// What is too long.
    delay_max: Duration,
    /// Requests so far.
    asked: AtomicU64,
    /// When the pulse that has not come through yet was sent; 0: there is none.
    sent_us: AtomicU64,
    /// Requests before it was sent.
    asked_before: AtomicU64,
    /// How long the last one took that came through, of the requests' making.
    took_us: AtomicU64,
    /// When an overload is past, if it does not go on.
    calm_at_us: AtomicU64,
    /// Whether the thread waits until there are requests.
    resting: AtomicBool,
    /// There will be no more.
    ended: AtomicBool,
    delays: Histogram,
}

impl Pulse {
    fn new(delay_max: Duration, delays: Histogram) -> Self {
        let no = || AtomicBool::new(false);
        let zero = || AtomicU64::new(0);
        Self {
            begun: Instant::now(),
            delay_max,
            asked: zero(),
            sent_us: zero(),
            asked_before: zero(),
            took_us: zero(),
            calm_at_us: zero(),
            resting: no(),
            ended: no(),
            delays,
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The delay: the longer of what the last pulse took and what the one that is on its way has taken.
    fn delay(&self, now_us: u64) -> Duration {
        let since = match self.sent_us.load(Ordering::Acquire) {
            sent_us if sent_us > 0 && self.many_asked() => now_us.saturating_sub(sent_us),
            _ => 0,
        };
        Duration::from_micros(since.max(self.took_us.load(Ordering::Relaxed)))
    }

    /// Whether there is a delay of which the end was not seen.
    fn tells(&self) -> bool {
        self.sent_us.load(Ordering::Acquire) != 0 || self.took_us.load(Ordering::Relaxed) != 0
    }

    /// Whether many requests came since the pulse was sent.
    fn many_asked(&self) -> bool {
        let (asked, before) = (self.asked.load(Ordering::Relaxed), self.asked_before.load(Ordering::Relaxed));
        asked.saturating_sub(before) >= ASKED_LEAST
    }

    fn load(&self) -> Load {
        let now_us = self.now_us();
        match self.delay(now_us) {
            _ if now_us < self.calm_at_us.load(Ordering::Relaxed) => Load::Over,
            delay if delay > self.delay_max * BURST => Load::Over,
            delay if delay > self.delay_max / 2 => Load::High,
            _ => Load::Fine,
        }
    }

    /// Of those who come in overload: none up to half of the longest delay, all from [`BURST`] times that on, in between the more the
    /// longer it is (as in "Random early detection gateways for congestion avoidance", Floyd and Jacobson, 1993). To refuse all or
    /// nobody would leave nothing to do for a while, and then too much.
    fn refused_share(&self) -> f64 {
        let (least, most) = (self.delay_max / 2, self.delay_max * BURST);
        let beyond = self.delay(self.now_us()).saturating_sub(least);
        beyond.div_duration_f64(most - least)
    }

    /// Sends a pulse, if the last one has come through.
    fn send(self: Arc<Self>, runtime: &Handle) {
        if self.sent_us.load(Ordering::Acquire) != 0 {
            return;
        }
        self.asked_before.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        self.sent_us.store(self.now_us().max(1), Ordering::Release);
        runtime.spawn(async move { self.came_through() });
    }

    fn came_through(&self) {
        let now_us = self.now_us();
        let took_us = now_us.saturating_sub(self.sent_us.load(Ordering::Acquire));
        self.delays.observe(Duration::from_micros(took_us).as_secs_f64());
        let took_us = if self.many_asked() { took_us } else { 0 };
        let before = Duration::from_micros(self.took_us.swap(took_us, Ordering::Relaxed));
        let delay = Duration::from_micros(took_us);
        let lasts = before > self.delay_max && delay > self.delay_max;
        let goes_on = now_us < self.calm_at_us.load(Ordering::Relaxed) && delay > self.delay_max / 2;
        if lasts || goes_on || delay > self.delay_max * BURST {
            // Until all who were refused have come again there is more to do than it seems.
            let calm_at_us = now_us.saturating_add(u64::try_from(HELD_MOST.as_micros()).unwrap_or(u64::MAX));
            self.calm_at_us.store(calm_at_us, Ordering::Relaxed);
        }
        self.sent_us.store(0, Ordering::Release);
    }
}

/// Sends pulses while there are requests.
fn beat(pulse: &Arc<Pulse>, runtime: &Handle) {
    let mut asked = 0;
    while !pulse.ended.load(Ordering::SeqCst) {
        let now = pulse.asked.load(Ordering::SeqCst);
        // What was measured of a burst does not stand for the quiet after it.
        if now != asked || pulse.tells() {
            asked = now;
            Arc::clone(pulse).send(runtime);
            std::thread::park_timeout(PULSE_EVERY);
            continue;
        }
        pulse.resting.store(true, Ordering::SeqCst);
        if pulse.asked.load(Ordering::SeqCst) == asked {
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
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_comes_while_the_queue_stands_is_refused_and_admitted_when_it_moves_again() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shedder = shedder(&runtime);
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn(async move { released.recv() });
        // Few ask: it is not they who make it stand.
        assert!(shedder.admits());
        std::thread::park_timeout(DELAY_MAX * 4);
        assert!((1..ASKED_LEAST).all(|_| shedder.admits()));
        until(|| !shedder.admits());
        drop(release);
        until(|| shedder.load() == Load::Fine);
    }

    /// Pulses with many requests meanwhile: when each came through and how long it had taken, in milliseconds, and what it says.
    #[track_caller]
    fn says(pulses: &[(u64, u64, Load)]) {
        let delays = Histogram::with_opts(HistogramOpts::new("delays", "delays")).unwrap();
        let mut pulse = Pulse::new(Duration::from_millis(40), delays);
        for (at, took, load) in pulses {
            pulse.begun = Instant::now().checked_sub(Duration::from_millis(*at)).unwrap();
            pulse.sent_us.store((at - took) * 1_000, Ordering::Relaxed);
            let before = pulse.asked.fetch_add(ASKED_LEAST, Ordering::Relaxed);
            pulse.asked_before.store(before, Ordering::Relaxed);
            pulse.came_through();
            assert_eq!(pulse.load(), *load, "at {at} ms");
        }
    }

    #[test]
    fn a_burst_is_no_overload_and_what_lasts_is_until_all_have_come_again() {
        use Load::{Fine, High, Over};
        says(&[(100, 1, Fine), (120, 15, Fine), (200, 25, High), (300, 60, High), (310, 5, Fine)]);
        says(&[(300, 60, High), (400, 50, Over), (430, 25, Over), (1_900, 15, Over), (1_940, 15, Fine)]);
        says(&[(200, 110, High), (400, 130, Over), (410, 5, Over), (2_000, 5, Fine)]);
    }

    #[test]
    fn the_longer_the_delay_the_more_are_refused() {
        let delays = Histogram::with_opts(HistogramOpts::new("delays", "delays")).unwrap();
        let pulse = Pulse::new(Duration::from_millis(40), delays);
        let share = |delay_ms: u64| {
            pulse.took_us.store(delay_ms * 1_000, Ordering::Relaxed);
            pulse.refused_share()
        };
        assert_eq!([share(0), share(20), share(70), share(120)], [0.0, 0.0, 0.5, 1.0]);
        assert!(share(200) > 1.0);
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
