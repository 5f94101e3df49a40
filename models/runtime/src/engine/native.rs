//! ONNX Runtime, loaded at run time. Its sessions are used by one thread at a time (the binding insists, because some of
//! the runtime's parts are not thread safe), so a model has a small pool of them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{Shape, TensorRef};

use crate::error::ModelError;
use crate::tensor::{ModelSpec, TensorSpec, Values};
use crate::vet::Vetted;

const NAME: &str = "ONNX Runtime";
/// Most sessions of one model, whatever the number of cores.
const SESSIONS_MAX: usize = 8;
/// Most memory that one model's sessions may take for weights together, in bytes; one session is always allowed.
const POOL_BYTES_MAX: usize = 512 * 1024 * 1024;

fn failed(action: &'static str, reason: impl std::fmt::Display) -> ModelError {
    ModelError::Engine { engine: NAME, action, reason: reason.to_string() }
}

/// The process's ONNX Runtime. There can only be one, and it is never taken down: its threads and allocators outlive all
/// sessions.
static OPENED: OnceLock<(PathBuf, ort::environment::Environment)> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// The runtime's library, opened and of a version that is understood.
#[derive(Debug, Clone)]
pub(super) struct Environment(ort::environment::Environment);

impl Environment {
    pub(super) fn open(library: &Path) -> Result<Self, ModelError> {
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = library
            .canonicalize()
            .map_err(|error| failed("open its library", format!("{}: {error}", library.display())))?;
        check_elf(&path).map_err(|reason| failed("open its library", reason))?;
        if let Some((opened, environment)) = OPENED.get() {
            return match *opened == path {
                true => Ok(Self(environment.clone())),
                false => Err(failed("open its library", format!("{} is already open", opened.display()))),
            };
        }
        // The binding panics where a library is not what it claims to be.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let builder = ort::init_from(&path).map_err(|error| error.to_string())?;
            let builder = builder.with_name("rockpool").with_telemetry(false);
            builder.build().map_err(|error| error.to_string())
        }));
        let environment = opened
            .unwrap_or_else(|_| Err("it is not an ONNX Runtime that the binding understands".to_owned()))
            .map_err(|reason| failed("open its library", reason))?;
        // Errors come back as errors; the runtime need not write them to stderr as well.
        environment.set_log_level(ort::logging::LogLevel::Fatal);
        Ok(Self(OPENED.get_or_init(|| (path, environment)).1.clone()))
    }

    /// Which build it is; the binding does not tell the version.
    pub(super) fn build(&self) -> &'static str {
        // "ORT Build Info: git-branch=…, git-commit-id=…, build type=…"
        ort::info().split(", ").find(|part| part.starts_with("git-commit-id=")).unwrap_or("build unknown")
    }

    pub(super) fn load(&self, vetted: &Vetted, spec: &ModelSpec) -> Result<Pool, ModelError> {
        let onnx = vetted.to_onnx();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let by_memory = (POOL_BYTES_MAX / onnx.len().max(1)).max(1);
        // Sessions share the weights that are packed anew for matrix multiplication.
        let weights = PrepackedWeights::new();
        let count = cores.min(SESSIONS_MAX).min(by_memory);
        let sessions = (0..count).map(|_| self.session(&onnx, &weights)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = sessions.first() else { return Err(failed("load the model", "no session")) };
        check_names(first, spec)?;
        let sessions = sessions.into_iter().map(Mutex::new).collect();
        Ok(Pool { sessions, _weights: weights })
    }

    fn session(&self, onnx: &[u8], weights: &PrepackedWeights) -> Result<Session, ModelError> {
        let built = catch_unwind(AssertUnwindSafe(|| -> Result<Session, String> {
            let text = |error: ort::Error<SessionBuilder>| error.to_string();
            let mut builder = SessionBuilder::new(&self.0).map_err(|error| error.to_string())?;
            // One thread a call, and no spinning: a node answers many requests at once, and shares its cores.
            builder = builder.with_intra_threads(1).map_err(text)?;
            builder = builder.with_inter_threads(1).map_err(text)?;
            builder = builder.with_intra_op_spinning(false).map_err(text)?;
            builder = builder.with_inter_op_spinning(false).map_err(text)?;
            builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
            builder = builder.with_prepacked_weights(weights).map_err(text)?;
            builder.commit_from_memory(onnx).map_err(|error| error.to_string())
        }));
        built
            .unwrap_or_else(|_| Err("it panicked".to_owned()))
            .map_err(|reason| failed("load the model", reason))
    }
}

/// The runtime must have understood the graph as it was vetted.
fn check_names(session: &Session, spec: &ModelSpec) -> Result<(), ModelError> {
    let inputs: Vec<&str> = session.inputs().iter().map(|input| input.name()).collect();
    let wanted: Vec<&str> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
    let outputs: Vec<&str> = session.outputs().iter().map(|output| output.name()).collect();
    if inputs != wanted || outputs != [spec.output.name.as_str()] {
        return Err(failed("load the model", format!("it sees inputs {inputs:?} and outputs {outputs:?}")));
    }
    Ok(())
}

/// Loading a library of which the end is missing (a download that was cut) kills the process, so an ELF file's section
/// table, which lies at its end, is looked for first.
fn check_elf(path: &Path) -> Result<(), String> {
    let cut = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(cut)?;
    let mut header = [0u8; 64];
    file.read_exact(&mut header).map_err(cut)?;
    if header[..4] != *b"\x7fELF" {
        return if cfg!(target_os = "linux") {
            Err(format!("{} is no library", path.display()))
        } else {
            Ok(())
        };
    }
    if header[4] != 2 || header[5] != 1 {
        return Err(format!("{} is not for this machine", path.display()));
    }
    let number = |from: usize, len: usize| {
        header[from..from + len].iter().rev().fold(0u64, |all, byte| (all << 8) | u64::from(*byte))
    };
    let end = number(0x28, 8).saturating_add(number(0x3a, 2) * number(0x3c, 2));
    let len = file.seek(SeekFrom::End(0)).map_err(cut)?;
    if end > len {
        return Err(format!("{} is cut: {len} bytes of at least {end}", path.display()));
    }
    Ok(())
}

/// Sessions of one model.
#[derive(Debug)]
pub(super) struct Pool {
    sessions: Vec<Mutex<Session>>,
    _weights: PrepackedWeights,
}

impl Pool {
    pub(super) fn run(
        &self,
        spec: &ModelSpec,
        inputs: &[Values<'_>],
        rows: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let values = inputs
            .iter()
            .zip(&spec.inputs)
            .map(|(values, spec)| value(values, spec, rows))
            .collect::<Result<Vec<_>, _>>()?;
        let mut session = self.session();
        let outputs =
            session.run(values.as_slice()).map_err(|error| failed("run the model", one_line(&error)))?;
        let (_, scores) =
            outputs[0].try_extract_tensor::<f32>().map_err(|error| failed("run the model", error))?;
        out.extend_from_slice(scores);
        Ok(())
    }

    /// A session that nobody uses; a thread finds its own free but under load.
    fn session(&self) -> MutexGuard<'_, Session> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed));
        let (own, len) = (THREAD.with(|thread| *thread), self.sessions.len());
        let free = (0..len).find_map(|step| self.sessions[(own + step) % len].try_lock().ok());
        free.unwrap_or_else(|| self.sessions[own % len].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn value<'a>(
    values: &Values<'a>,
    spec: &TensorSpec,
    rows: usize,
) -> Result<SessionInputValue<'a>, ModelError> {
    let shape = Shape::new(std::iter::once(rows as i64).chain(spec.dims.iter().skip(1).copied()));
    let value = match values {
        Values::I64(values) => TensorRef::from_array_view((shape, *values)).map(SessionInputValue::from),
        Values::F32(values) => TensorRef::from_array_view((shape, *values)).map(SessionInputValue::from),
    };
    value.map_err(|error| failed("run the model", error))
}

fn one_line(error: &ort::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
