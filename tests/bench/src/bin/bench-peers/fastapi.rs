//! What is usually built: FastAPI on uvicorn workers, visitors' profiles in Redis, the same ONNX files in ONNX Runtime. The Python
//! is in tests/bench/fastapi. Everything is set up in its favour: plain HTTP, a Unix socket to Redis, nothing written by a request,
//! no app keys, and as many workers as serve it best.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bench::processes::{Memory, families, families_cpu_s};
use rockpool::local::free_port;
use serde::Serialize;
use tokio::net::UnixStream;

use crate::child::{Child, Program};
use crate::load::{HttpAsker, closed_loop};
use bench::http::{self, Server};
use bench::work::{DEADLINE_MS, Work};

/// Askers and connections with which the best number of workers is found.
const ASKERS: u64 = 16;
/// uvicorn closes no connection that is idle for less, in seconds.
const KEEP_ALIVE_S: u32 = 3_600;

/// Where the Python packages were installed, and our files are.
#[derive(Debug, Clone)]
pub struct Python {
    /// What PYTHONPATH becomes.
    pub packages: PathBuf,
    /// tests/bench/fastapi.
    pub app: PathBuf,
}

/// Redis with the profiles, and uvicorn.
pub struct FastApi {
    redis: Child,
    uvicorn: Child,
    address: String,
}

/// What a number of workers came to.
#[derive(Debug, Clone, Serialize)]
pub struct Workers {
    /// How many.
    pub workers: usize,
    /// Answers a second of a closed loop.
    pub answers_per_s: f64,
}

impl FastApi {
    /// Starts Redis and uvicorn in a folder, which must be new.
    ///
    /// # Errors
    /// Where they do not come up.
    pub async fn start(dir: &Path, python: &Python, work: &Work, workers: usize) -> anyhow::Result<Self> {
        let (artifacts, socket) = (dir.join("artifacts"), dir.join("redis.sock"));
        work.write_artifacts(&artifacts)?;
        let redis = redis(dir, &socket).await?;
        load(dir, python, &socket, work).await?;
        let address = free_port()?;
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let (number, keep_alive) = (workers.to_string(), KEEP_ALIVE_S.to_string());
        let words = [
            "python3",
            "-m",
            "uvicorn",
            "app:app",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--workers",
            &number,
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "info",
            "--backlog",
            "4096",
            "--timeout-keep-alive",
            &keep_alive,
        ];
        let mut uvicorn = Child::spawn(Program {
            name: "uvicorn",
            dir,
            words: words.map(OsString::from).to_vec(),
            environment: vec![
                ("PYTHONPATH", joined(&[&python.packages, &python.app])?),
                ("BENCH_ARTIFACTS", artifacts.into()),
                ("BENCH_REDIS", socket.into()),
                // numpy's products are small: threads would only get in each other's way.
                ("OPENBLAS_NUM_THREADS", "1".into()),
                ("OMP_NUM_THREADS", "1".into()),
                // Our folder is a work tree.
                ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ],
        })?;
        let log = dir.join("uvicorn.log");
        uvicorn.until(async || started(&log) == workers).await?;
        Ok(Self { redis, uvicorn, address })
    }

    /// Tries numbers of workers, and tells the best one.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn best_workers(
        dir: &Path,
        python: &Python,
        work: &Work,
        numbers: &[usize],
        length: Duration,
    ) -> anyhow::Result<(usize, Vec<Workers>)> {
        let mut tried = Vec::new();
        for workers in numbers.iter().copied() {
            let folder = dir.join(format!("workers-{workers}"));
            std::fs::create_dir_all(&folder)?;
            let side = Self::start(&folder, python, work, workers).await?;
            let asker = side.http(work, ASKERS as usize).await?;
            closed_loop(&asker, ASKERS, length / 4).await?;
            tried.push(Workers { workers, answers_per_s: closed_loop(&asker, ASKERS, length).await? });
            side.stop().await?;
        }
        let best = tried.iter().max_by(|a, b| a.answers_per_s.total_cmp(&b.answers_per_s));
        Ok((best.context("no number of workers was tried")?.workers, tried))
    }

    /// Asks over HTTP/1.1.
    ///
    /// # Errors
    /// Where a connection cannot be made.
    pub async fn http(&self, work: &Work, connections: usize) -> anyhow::Result<Arc<HttpAsker>> {
        let questions = work.questions(DEADLINE_MS);
        let requests = questions.iter().map(|body| http::request("/v1/recommend", None, Some(body)));
        Ok(Arc::new(HttpAsker::open(&self.server(), requests.collect(), connections).await?))
    }

    /// Where it is.
    pub fn server(&self) -> Server {
        Server { address: self.address.clone(), tls: None }
    }

    /// CPU seconds of all workers, and of Redis, so far.
    ///
    /// # Errors
    /// Where one has ended.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        families_cpu_s(&self.roots())
    }

    /// What they hold in memory.
    ///
    /// # Errors
    /// Where one has ended.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        Memory::of(&families(&self.roots())?)
    }

    fn roots(&self) -> [u32; 2] {
        [self.redis.id(), self.uvicorn.id()]
    }

    /// Ends both.
    ///
    /// # Errors
    /// Where one does not end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.uvicorn.stop().await?;
        self.redis.stop().await
    }
}

async fn redis(dir: &Path, socket: &Path) -> anyhow::Result<Child> {
    let path = socket.to_str().context("a path that is no text")?;
    // Nothing is saved: profiles are read only.
    let words = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"];
    let words = words.map(OsString::from).to_vec();
    let mut redis = Child::spawn(Program { name: "redis", dir, words, environment: Vec::new() })?;
    redis.until(async || UnixStream::connect(socket).await.is_ok()).await?;
    Ok(redis)
}

/// Puts the profiles there.
async fn load(dir: &Path, python: &Python, socket: &Path, work: &Work) -> anyhow::Result<()> {
    let profiles = dir.join("profiles.json");
    std::fs::write(&profiles, work.profiles()?)?;
    let loaded = tokio::process::Command::new("python3")
        .arg(python.app.join("load.py"))
        .args([socket, &profiles])
        .env("PYTHONPATH", &python.packages)
        .output()
        .await
        .context("cannot run python3")?;
    let errors = String::from_utf8_lossy(&loaded.stderr);
    anyhow::ensure!(loaded.status.success(), "the profiles were not taken:\n{errors}");
    Ok(())
}

/// Workers that have said so: one alone would answer for all.
fn started(log: &Path) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().matches("Application startup complete").count()
}

fn joined(folders: &[&Path]) -> anyhow::Result<OsString> {
    Ok(std::env::join_paths(folders)?)
}
