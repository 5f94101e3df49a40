//! The threads that run models, apart from the threads that do IO, so that a slow model never delays a heartbeat of Raft.
//!
//! The queue is bounded: when it is full, the request is answered by the fallback that needs no model. A job whose deadline
//! has passed when its turn comes is not begun.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender};
use edge_serving::{Budget, Decision, Prepared, Scratch, Stage, decide};
use proto::client::Recommend;
use proto::profile::View;
use tokio::sync::oneshot;

use crate::config::ServingConfig;

/// Until when which stage may begin.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Retrieval.
    pub retrieve: Instant,
    /// Ranking.
    pub rank: Instant,
}

impl Budget for Times {
    fn allows(&self, stage: Stage) -> bool {
        let until = match stage {
            Stage::Retrieve => self.retrieve,
            Stage::Rank => self.rank,
        };
        Instant::now() < until
    }
}

/// A budget that allows no model.
pub struct NoModels;

impl Budget for NoModels {
    fn allows(&self, _: Stage) -> bool {
        false
    }
}

/// One decision to be made.
pub struct Job {
    /// By what.
    pub prepared: Arc<Prepared>,
    /// For whom.
    pub view: View,
    /// For what.
    pub ask: Recommend,
    /// When, milliseconds since 1970 UTC.
    pub now_ms: u64,
    /// Until when.
    pub times: Times,
}

/// What waits for a thread.
enum Queued {
    Decide(Arc<Job>, oneshot::Sender<Decision>),
    Run(Box<dyn FnOnce() + Send>),
}

/// A handle to the threads. They end when the last handle is dropped.
#[derive(Clone)]
pub struct Workers {
    queue: Sender<Queued>,
    candidates: usize,
    threads: usize,
}

impl Workers {
    /// Starts the threads.
    pub fn start(config: &ServingConfig) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 { cores } else { config.threads };
        let (queue, jobs) = crossbeam_channel::bounded::<Queued>(config.queue_len_max);
        for number in 0..threads {
            let (jobs, candidates) = (jobs.clone(), config.candidates);
            let thread = std::thread::Builder::new().name(format!("model-{number}"));
            thread.spawn(move || work(&jobs, candidates)).context("cannot start a model thread")?;
        }
        Ok(Self { queue, candidates: config.candidates, threads })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Hands a job over. `None`: the queue is full.
    pub fn submit(&self, job: Arc<Job>) -> Option<oneshot::Receiver<Decision>> {
        let (reply, decision) = oneshot::channel();
        self.queue.try_send(Queued::Decide(job, reply)).ok().map(|()| decision)
    }

    /// Hands something else over that runs a model. `None`: the queue is full.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        let (reply, done) = oneshot::channel();
        let work = move || {
            // Whoever asked may have given up before its turn came.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        };
        self.queue.try_send(Queued::Run(Box::new(work))).ok().map(|()| done)
    }

    /// Decides here and now, without a model.
    pub fn fall_back(&self, job: &Job) -> Decision {
        decide(
            &job.prepared,
            &job.view,
            &job.ask,
            self.candidates,
            job.now_ms,
            &NoModels,
            &mut Scratch::default(),
        )
    }
}

fn work(jobs: &Receiver<Queued>, candidates: usize) {
    let mut scratch = Scratch::default();
    while let Ok(queued) = jobs.recv() {
        // A panic inside a model must not take the thread along: its requests would wait for nothing.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match queued {
            Queued::Run(work) => work(),
            Queued::Decide(_, reply) if reply.is_closed() => {}
            Queued::Decide(job, reply) => {
                let decision = decide(
                    &job.prepared,
                    &job.view,
                    &job.ask,
                    candidates,
                    job.now_ms,
                    &job.times,
                    &mut scratch,
                );
                // The receiver may have given up at its deadline.
                drop(reply.send(decision));
            }
        }));
        if done.is_err() {
            scratch = Scratch::default();
        }
    }
}
