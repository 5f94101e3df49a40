//! Load in one form for every side. An open loop: requests start at their scheduled times, whatever became of those before, and
//! latency counts from the scheduled time, so a slow server cannot slow its own measurement down (coordinated omission; Tene,
//! 2013). And a closed one, which only finds out about how much a side can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rockpool::load::Measured;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use bench::http::{self, Connection, Server};
use bench::pop::Pop;
use bench::work::{DEADLINE_MS, Work};

/// Outcomes on their way to the histogram.
const OUTCOMES_MAX: usize = 65_536;
/// A side with as many requests in flight as come in so long has lost: its rate is not sustained.
const LOST_AFTER: Duration = Duration::from_millis(500);
/// Connections that are made at a time.
const CONNECTING_MAX: usize = 8;
/// What an answer of the whole pipeline says.
const RANKED: &[u8] = br#""served_by":"ranked""#;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// From both models.
    Ranked,
    /// From a fallback: under overload, Rockpool serves what is popular. That is no work done.
    Fallback,
}

/// A side that recommendations can be asked of.
pub trait Asker: Send + Sync + 'static {
    /// Asks for one; `number` chooses the visitor.
    ///
    /// # Errors
    /// Where there is no answer.
    fn ask(&self, number: u64) -> impl Future<Output = anyhow::Result<Served>> + Send;
}

/// The visitor of a request: consecutive requests are of different ones.
pub fn visitor_of(number: u64, visitors: usize) -> usize {
    (number.wrapping_mul(7_919) % visitors as u64) as usize
}

/// Asks over HTTP, on connections that are kept and taken in turn.
pub struct HttpAsker {
    server: Server,
    requests: Vec<Bytes>,
    idle: Mutex<mpsc::Receiver<Connection>>,
    back: mpsc::Sender<Connection>,
}

impl HttpAsker {
    /// Asks at the first node's HTTP door: HTTP/1.1, TLS 1.3.
    ///
    /// # Errors
    /// Where a connection cannot be made.
    pub async fn of(pop: &Pop, work: &Work, connections: usize) -> anyhow::Result<Arc<Self>> {
        let key = Some(pop.deployment.app_key());
        let questions = work.questions(DEADLINE_MS);
        let requests = questions.iter().map(|body| http::request("/v1/recommend", key, Some(body)));
        Ok(Arc::new(Self::open(&pop.server()?, requests.collect(), connections).await?))
    }

    /// Opens the connections; `requests` has one a visitor.
    ///
    /// # Errors
    /// Where one cannot be made.
    pub async fn open(server: &Server, requests: Vec<Bytes>, connections: usize) -> anyhow::Result<Self> {
        let (back, idle) = mpsc::channel(connections);
        let mut opening = JoinSet::new();
        for number in 0..connections {
            let (server, first) = (server.clone(), requests[number % requests.len()].clone());
            opening.spawn(async move {
                let mut connection = Connection::open(&server).await?;
                // Whoever accepts it has it to itself: workers that share a socket come to share the connections.
                connection.ask(&first).await?;
                anyhow::Ok(connection)
            });
            if opening.len() >= CONNECTING_MAX || number + 1 == connections {
                while let Some(opened) = opening.join_next().await {
                    let kept = back.try_send(opened??);
                    kept.map_err(|_| anyhow::anyhow!("more connections than there is room for"))?;
                }
            }
        }
        Ok(Self { server: server.clone(), requests, idle: Mutex::new(idle), back })
    }
}

impl Asker for HttpAsker {
    async fn ask(&self, number: u64) -> anyhow::Result<Served> {
        let request = &self.requests[visitor_of(number, self.requests.len())];
        let mut connection = self.idle.lock().await.recv().await.context("no connection is left")?;
        let asked = connection.ask(request).await;
        let kept = if asked.is_ok() { connection } else { Connection::open(&self.server).await? };
        // Never full, and the receiver is ours.
        let _ = self.back.send(kept).await;
        let answer = asked?;
        anyhow::ensure!(answer.status == 200, "status {}", answer.status);
        let ranked = answer.body.windows(RANKED.len()).any(|window| window == RANKED);
        Ok(if ranked { Served::Ranked } else { Served::Fallback })
    }
}

/// What came of an open loop.
pub struct Run {
    /// Latencies and outcomes.
    pub measured: Measured,
    /// Given up before its time, as more and more requests were waiting.
    pub lost: bool,
}

/// Asks at a fixed rate for so long, and waits until every request has ended.
///
/// # Errors
/// Where the collector panicked.
pub async fn open_loop<A: Asker>(asker: &Arc<A>, rate: f64, length: Duration) -> anyhow::Result<Run> {
    let (outcomes, mut inbox) = mpsc::channel::<anyhow::Result<(Served, Duration)>>(OUTCOMES_MAX);
    let collector = tokio::spawn(async move {
        let mut measured = Measured::default();
        while let Some(outcome) = inbox.recv().await {
            match outcome {
                Ok((Served::Ranked, after)) => measured.answered(after, "ranked"),
                Ok((Served::Fallback, after)) => measured.answered(after, "fallback"),
                Err(error) => measured.failed(format!("{error:#}")),
            }
        }
        measured
    });
    let (tasks, started, mut lost) = (TaskTracker::new(), Instant::now(), false);
    let in_flight_max = (rate * LOST_AFTER.as_secs_f64()) as usize + 100;
    let total = (rate * length.as_secs_f64()).round() as u64;
    for number in 0..total {
        let scheduled = started + Duration::from_secs_f64(number as f64 / rate);
        if scheduled > Instant::now() {
            tokio::time::sleep_until(scheduled).await;
        }
        if tasks.len() > in_flight_max {
            lost = true;
            break;
        }
        let (asker, outcomes) = (Arc::clone(asker), outcomes.clone());
        tasks.spawn(async move {
            let outcome = asker.ask(number).await.map(|served| (served, scheduled.elapsed()));
            // The collector lives until the last sender is gone.
            let _ = outcomes.send(outcome).await;
        });
    }
    tasks.close();
    tasks.wait().await;
    drop(outcomes);
    let mut measured = collector.await.context("the collector panicked")?;
    measured.seconds = started.elapsed().as_secs_f64();
    Ok(Run { measured, lost })
}

/// Answers a second of so many askers of whom each asks again when it was answered.
///
/// # Errors
/// Where one panicked. Failures do not count as answers.
pub async fn closed_loop<A: Asker>(asker: &Arc<A>, askers: u64, length: Duration) -> anyhow::Result<f64> {
    let (answered, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = JoinSet::new();
    for first in 0..askers {
        let (asker, answered) = (Arc::clone(asker), Arc::clone(&answered));
        tasks.spawn(async move {
            let mut number = first;
            while started.elapsed() < length {
                if asker.ask(number).await.is_ok() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                number += askers;
            }
        });
    }
    while let Some(joined) = tasks.join_next().await {
        joined?;
    }
    Ok(answered.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper(Duration);

    impl Asker for Sleeper {
        async fn ask(&self, number: u64) -> anyhow::Result<Served> {
            tokio::time::sleep(self.0).await;
            Ok(if number.is_multiple_of(2) { Served::Ranked } else { Served::Fallback })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn latency_counts_from_the_scheduled_time() {
        let asker = Arc::new(Sleeper(Duration::from_millis(10)));
        let run = open_loop(&asker, 100.0, Duration::from_secs(2)).await.unwrap();
        assert_eq!((run.measured.answered, run.measured.errors, run.lost), (200, 0, false));
        assert_eq!(run.measured.figures().p99_us / 1_000, 10);
        assert_eq!(run.measured.served_by, [("ranked".to_owned(), 100), ("fallback".to_owned(), 100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_falls_behind_has_lost() {
        let asker = Arc::new(Sleeper(Duration::from_secs(3)));
        let run = open_loop(&asker, 1_000.0, Duration::from_secs(2)).await.unwrap();
        assert!(run.lost && run.measured.answered < 700, "{}", run.measured.answered);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_asks_again_when_it_was_answered() {
        let asker = Arc::new(Sleeper(Duration::from_millis(10)));
        let rate = closed_loop(&asker, 5, Duration::from_secs(2)).await.unwrap();
        assert!((480.0..=500.0).contains(&rate), "{rate}");
    }
}
