//! An open loop over a fixed number of connections, one request at a time on each: requests fall due at their times, whatever became
//! of those before, and latency counts from then. One that finds no free connection is not sent and not kept: it was not admitted.
//! So the generator is bounded, and neither queues for the node nor collapses before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bench::http::{Answer, Connection, Server};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that are made at a time.
const CONNECTING_MAX: usize = 8;
/// What an answer of the whole pipeline says.
const RANKED: &[u8] = br#""served_by":"ranked""#;
/// After so many requests in a row, answers are looked at, should the loop be behind its time.
const IN_A_ROW: u64 = 32;
/// What is later than this is not sent any more.
const LAG_MAX: Duration = Duration::from_millis(20);
/// How often, and after which pauses, a connection that broke is made again.
const OPENED_TIMES: u32 = 5;
const OPENED_PAUSE: Duration = Duration::from_millis(200);
/// Most requests of one drive: what became of each is kept.
const REQUESTS_MAX: f64 = 5_000_000.0;
/// Different errors that are kept, as examples.
const ERROR_KINDS_MAX: usize = 8;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200, from both models.
    Ranked,
    /// 200, from a fallback.
    Fallback,
    /// 503: shed by the node.
    Refused,
    /// Another status, a connection that broke, or no answer at all.
    Failed,
    /// No connection was free: shed by the generator.
    NotAdmitted,
    /// The generator was too far behind its time: not sent either, so that it does not queue.
    Missed,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it fell due, since the drive's start.
    pub due: Duration,
    /// How much later it was begun: the generator's own delay.
    pub lag: Duration,
    /// How long after it fell due its answer was there.
    pub after: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// A rate that is held for some time.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// Requests a second.
    pub rate: f64,
    /// How long.
    pub length: Duration,
}

/// Connections that are kept, and what is asked on them.
pub struct Clients {
    server: Server,
    requests: Vec<Bytes>,
    idle: Mutex<VecDeque<Connection>>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Clients {
    /// Opens the connections and asks once on each; `requests` has one a visitor.
    ///
    /// # Errors
    /// Where one cannot be made.
    pub async fn open(
        server: &Server,
        requests: Vec<Bytes>,
        connections: usize,
    ) -> anyhow::Result<Arc<Self>> {
        let (mut idle, mut opening) = (VecDeque::with_capacity(connections), JoinSet::new());
        for number in 0..connections {
            let (server, first) = (server.clone(), requests[number % requests.len()].clone());
            opening.spawn(async move {
                let mut connection = Connection::open(&server).await?;
                connection.ask(&first).await?;
                anyhow::Ok(connection)
            });
            if opening.len() >= CONNECTING_MAX || number + 1 == connections {
                while let Some(opened) = opening.join_next().await {
                    idle.push_back(opened??);
                }
            }
        }
        let (idle, errors) = (Mutex::new(idle), Mutex::default());
        Ok(Arc::new(Self { server: server.clone(), requests, idle, errors }))
    }

    /// How often which error came.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        locked(&self.errors).clone()
    }

    /// A request of a visitor; consecutive ones are of different ones.
    pub fn request(&self, number: u64) -> &Bytes {
        &self.requests[(number.wrapping_mul(7_919) % self.requests.len() as u64) as usize]
    }

    async fn ask(&self, mut connection: Connection, number: u64) -> Outcome {
        let asked = connection.ask(self.request(number)).await;
        let outcome = match &asked {
            Ok(answer) => self.judge(answer),
            Err(error) => self.failed(format!("{error:#}")),
        };
        if asked.is_ok() {
            locked(&self.idle).push_back(connection);
        }
        outcome
    }

    /// Puts another connection in the place of one that broke.
    async fn replace(&self) {
        for _ in 0..OPENED_TIMES {
            match Connection::open(&self.server).await {
                Ok(connection) => return locked(&self.idle).push_back(connection),
                Err(error) => self.failed(format!("{error:#}")),
            };
            tokio::time::sleep(OPENED_PAUSE).await;
        }
    }

    fn judge(&self, answer: &Answer) -> Outcome {
        match answer.status {
            200 if answer.body.windows(RANKED.len()).any(|window| window == RANKED) => Outcome::Ranked,
            200 => Outcome::Fallback,
            503 => Outcome::Refused,
            status => self.failed(format!("status {status}")),
        }
    }

    fn failed(&self, why: String) -> Outcome {
        let mut errors = locked(&self.errors);
        if errors.len() < ERROR_KINDS_MAX || errors.contains_key(&why) {
            *errors.entry(why).or_default() += 1;
        }
        Outcome::Failed
    }
}

/// Holds the phases, one after the other without a pause, until `stop`; waits until every request has ended.
///
/// # Errors
/// Where that would be more requests than can be kept.
pub async fn drive(
    clients: &Arc<Clients>,
    phases: &[Phase],
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Sample>> {
    let total: f64 = phases.iter().map(|phase| phase.rate * phase.length.as_secs_f64()).sum();
    anyhow::ensure!(total <= REQUESTS_MAX, "{total:.0} requests are more than can be kept");
    let samples = Arc::new(Mutex::new(Vec::with_capacity(total as usize + 1)));
    let (tasks, started) = (TaskTracker::new(), Instant::now());
    let (mut begun, mut number) = (started, 0);
    for phase in phases {
        for nth in 0..(phase.rate * phase.length.as_secs_f64()).round() as u64 {
            let due = begun + Duration::from_secs_f64(nth as f64 / phase.rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            } else if nth % IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
            if stop.is_cancelled() {
                break;
            }
            number += 1;
            let lag = due.elapsed();
            let not_sent = |outcome| Sample { due: due - started, lag, after: Duration::ZERO, outcome };
            if lag > LAG_MAX {
                locked(&samples).push(not_sent(Outcome::Missed));
                continue;
            }
            let sample = not_sent(Outcome::NotAdmitted);
            let Some(connection) = locked(&clients.idle).pop_front() else {
                locked(&samples).push(sample);
                continue;
            };
            let (clients, samples) = (Arc::clone(clients), Arc::clone(&samples));
            tasks.spawn(async move {
                let outcome = clients.ask(connection, number).await;
                locked(&samples).push(Sample { after: due.elapsed(), outcome, ..sample });
                if outcome == Outcome::Failed {
                    clients.replace().await;
                }
            });
        }
        begun += phase.length;
    }
    tasks.close();
    tasks.wait().await;
    let samples = Arc::into_inner(samples).context("a request has not ended")?;
    Ok(samples.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
