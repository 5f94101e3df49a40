//! A closed loop: each client sends its next write when the last was acknowledged.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Highest latency that is told apart, in microseconds.
const HIGHEST_US: u64 = 60_000_000;
/// Different keys that are written.
const KEYS: u64 = 10_000;

/// One client with a connection of its own.
pub trait Writer: Send + 'static {
    /// Writes one value under a key of [`key`]; returns when it is acknowledged.
    ///
    /// # Errors
    /// Where it was not.
    fn write(&mut self, key: u64) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What came of a point.
#[derive(Debug)]
pub struct Measured {
    /// Latencies in microseconds of what was acknowledged within the measured time.
    pub latency: Histogram<u64>,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Writes acknowledged in all, the warm-up included.
    pub acknowledged: u64,
    /// Writes that failed, and the first error.
    pub errors: u64,
    /// The first error.
    pub error: Option<String>,
    /// CPU seconds that the watched processes used within the measured time.
    pub cpu_s: f64,
}

/// How long each part of a point takes.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub length: Duration,
}

/// Lets all clients write at once. `cpu_s` says how much CPU time the measured side has used so far.
///
/// # Errors
/// Where CPU time cannot be read, or a client panics.
pub async fn run<W: Writer>(
    writers: Vec<W>,
    times: Times,
    cpu_s: impl Fn() -> anyhow::Result<f64>,
) -> anyhow::Result<Measured> {
    let from = Instant::now() + times.warm_up;
    let until = from + times.length;
    let mut clients = JoinSet::new();
    for (number, writer) in writers.into_iter().enumerate() {
        clients.spawn(client(writer, number as u64, from, until));
    }
    sleep_until(from).await;
    let cpu_before = cpu_s()?;
    sleep_until(until).await;
    let mut measured = Measured { cpu_s: cpu_s()? - cpu_before, ..empty(times.length)? };
    while let Some(joined) = clients.join_next().await {
        let one = joined.context("a client panicked")??;
        measured.latency.add(&one.latency)?;
        measured.acknowledged += one.acknowledged;
        measured.errors += one.errors;
        measured.error = measured.error.or(one.error);
    }
    Ok(measured)
}

fn empty(length: Duration) -> anyhow::Result<Measured> {
    Ok(Measured {
        latency: Histogram::new_with_max(HIGHEST_US, 3)?,
        seconds: length.as_secs_f64(),
        acknowledged: 0,
        errors: 0,
        error: None,
        cpu_s: 0.0,
    })
}

async fn client<W: Writer>(
    mut writer: W,
    seed: u64,
    from: Instant,
    until: Instant,
) -> anyhow::Result<Measured> {
    let mut keys = fastrand::Rng::with_seed(seed);
    let mut measured = empty(until - from)?;
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(measured);
        }
        match writer.write(keys.u64(..KEYS)).await {
            Ok(()) => {
                let ended = Instant::now();
                measured.acknowledged += 1;
                if ended >= from && ended < until {
                    let us = u64::try_from((ended - began).as_micros())?;
                    measured.latency.saturating_record(us);
                }
            }
            Err(error) => {
                measured.errors += 1;
                measured.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

/// A key of 256 bytes.
pub fn key(number: u64) -> String {
    format!("{number:0256}")
}

/// Bytes of a value.
pub const VALUE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper;

    impl Writer for Sleeper {
        async fn write(&mut self, key: u64) -> anyhow::Result<()> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            anyhow::ensure!(key < KEYS);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_warm_up_is_not_measured() {
        let times = Times { warm_up: Duration::from_secs(1), length: Duration::from_secs(2) };
        let measured = run(vec![Sleeper, Sleeper], times, || Ok(1.0)).await.unwrap();
        assert_eq!(measured.acknowledged, 600);
        assert!((396..=402).contains(&measured.latency.len()), "{}", measured.latency.len());
        assert_eq!((measured.errors, measured.latency.max() / 1000), (0, 10));
    }

    #[test]
    fn a_key_has_256_bytes() {
        assert_eq!((key(7).len(), key(9_999).len()), (256, 256));
    }
}
