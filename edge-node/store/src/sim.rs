//! A simulated host: what a node has of threads, files and randomness, as tasks on virtual time. For tests (feature `sim`).
//!
//! Everything that runs in [`Host::scope`], and every task started there, belongs to the host. [`Host::kill`] ends all of it
//! between two polls, as SIGKILL does; [`Host::pause`] stops polling it, as SIGSTOP does, while time goes on. Its [`Disk`]
//! outlives it, and loses what was not synced when the power is cut.
//!
//! On a current-thread runtime with paused time, and with one seed a process, the same program gives the same run. The
//! network between hosts is [`transport::memory`].

mod disk;
mod log;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use tokio::task::{AbortHandle, JoinHandle};

pub use disk::{Disk, DiskSettings, Failing, Loss, Map};

tokio::task_local! {
    static HOST: Host;
}

/// Ended tasks are forgotten when there are twice as many tasks as after the last time.
const TASKS_LEN_MIN: usize = 64;

/// A process of a simulated machine. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Disk,
    random: Mutex<SmallRng>,
    tasks: Mutex<Tasks>,
    pause: Mutex<Pause>,
}

#[derive(Debug, Default)]
struct Tasks {
    handles: Vec<AbortHandle>,
    sweep_at: usize,
    dead: bool,
}

#[derive(Debug, Default)]
struct Pause {
    paused: bool,
    waiting: Vec<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// A process that just started, on a machine that has this disk.
    pub fn new(seed: u64, disk: Disk) -> Self {
        let random = Mutex::new(SmallRng::seed_from_u64(seed));
        let tasks = Tasks { sweep_at: TASKS_LEN_MIN, ..Tasks::default() };
        Self { shared: Arc::new(Shared { disk, random, tasks: Mutex::new(tasks), pause: Mutex::default() }) }
    }

    /// The host that runs this, if one does.
    pub fn current() -> Option<Host> {
        HOST.try_with(Host::clone).ok()
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    /// The next random number.
    pub fn random(&self) -> u64 {
        lock(&self.shared.random).next_u64()
    }

    /// Starts a task of this host.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let task = tokio::spawn(self.scope(future));
        let mut tasks = lock(&self.shared.tasks);
        if tasks.dead {
            task.abort();
        }
        if tasks.handles.len() >= tasks.sweep_at {
            tasks.handles.retain(|handle| !handle.is_finished());
            tasks.sweep_at = (tasks.handles.len() * 2).max(TASKS_LEN_MIN);
        }
        tasks.handles.push(task.abort_handle());
        task
    }

    /// Runs a future as this host's.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        HOST.scope(self.clone(), Paused { host: self.clone(), future: Box::pin(future) })
    }

    /// Nothing of it runs any more.
    pub fn kill(&self) {
        let mut tasks = lock(&self.shared.tasks);
        tasks.dead = true;
        tasks.handles.drain(..).for_each(|handle| handle.abort());
        drop(tasks);
        self.resume();
    }

    /// Whether it lives and is not paused.
    pub fn runs(&self) -> bool {
        !lock(&self.shared.tasks).dead && !lock(&self.shared.pause).paused
    }

    /// Nothing of it runs until [`Host::resume`].
    pub fn pause(&self) {
        lock(&self.shared.pause).paused = true;
    }

    /// It goes on; what its clocks should have done meanwhile, they do now.
    pub fn resume(&self) {
        let mut pause = lock(&self.shared.pause);
        pause.paused = false;
        pause.waiting.drain(..).for_each(Waker::wake);
    }
}

/// A future that is not polled while its host is paused.
struct Paused<F> {
    host: Host,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Paused<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut pause = lock(&self.host.shared.pause);
        if pause.paused {
            pause.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        drop(pause);
        self.future.as_mut().poll(cx)
    }
}
