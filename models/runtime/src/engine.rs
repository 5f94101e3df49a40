//! The engines: ONNX Runtime (`ort`) where its library is found, `tract` (pure Rust) everywhere else. Both give the same
//! answers; ONNX Runtime measured 2 to 5 times faster.

mod native;
mod pure;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::card::{GOLDEN_TOLERANCE, Golden};
use crate::error::ModelError;
use crate::tensor::{ModelSpec, Tensor, Values, rows};
use crate::vet::{Cost, Vetted, vet};

/// Names the ONNX Runtime library, if the caller does not.
pub const LIBRARY_VARIABLE: &str = "ROCKPOOL_ONNXRUNTIME";
/// Where the library is looked for below the home folder.
pub const LIBRARY_FOLDER: &str = ".cache/rockpool/lib";
/// Most files looked at in that folder.
const FOLDER_ENTRIES_MAX: usize = 1000;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// ONNX Runtime.
    Ort,
    /// tract.
    Tract,
}

impl EngineKind {
    /// Its name, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineKind::Ort => "ort",
            EngineKind::Tract => "tract",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An engine that is ready to load models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    environment: Option<native::Environment>,
    description: Arc<str>,
}

impl Engine {
    /// ONNX Runtime if its library is found and works, else tract; [`Engine::describe`] says which and why. Looked at, the
    /// first that is given or exists: `library`, [`LIBRARY_VARIABLE`], `libonnxruntime.so*` in [`LIBRARY_FOLDER`].
    pub fn choose(library: Option<&Path>) -> Self {
        let from_variable =
            || std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(path) = library.map(Path::to_owned).or_else(from_variable).or_else(library_in_home) else {
            return Self::pure(format!(
                "tract (pure Rust): no ONNX Runtime library was named by {LIBRARY_VARIABLE} or found in ~/{LIBRARY_FOLDER}"
            ));
        };
        Self::ort(&path).unwrap_or_else(|error| Self::pure(format!("tract (pure Rust): {error}")))
    }

    /// tract.
    pub fn tract() -> Self {
        Self::pure("tract (pure Rust): as asked for".to_owned())
    }

    /// ONNX Runtime from this library. There is one a process: a second, different library is an error.
    pub fn ort(library: &Path) -> Result<Self, ModelError> {
        let environment = native::Environment::open(library)?;
        let description = format!("ONNX Runtime ({}) from {}", environment.build(), library.display());
        Ok(Self { environment: Some(environment), description: description.into() })
    }

    fn pure(description: String) -> Self {
        Self { environment: None, description: description.into() }
    }

    /// Which engine it is.
    pub fn kind(&self) -> EngineKind {
        if self.environment.is_some() { EngineKind::Ort } else { EngineKind::Tract }
    }

    /// A sentence on what was chosen, and why; for the log.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Checks an ONNX file against `spec` ([`vet`]), and makes it ready to run.
    pub fn load(&self, onnx: &[u8], spec: &ModelSpec) -> Result<Session, ModelError> {
        self.open(&vet(onnx, spec)?, spec)
    }

    /// Makes a graph that was checked ready to run.
    pub(crate) fn open(&self, vetted: &Vetted, spec: &ModelSpec) -> Result<Session, ModelError> {
        let backend = match &self.environment {
            Some(environment) => Backend::Ort(environment.load(vetted, spec)?),
            None => Backend::Tract(pure::Plans::load(vetted, spec)?),
        };
        Ok(Session { spec: spec.clone(), cost: vetted.cost, backend })
    }
}

/// The library in the home folder; the last by name if there are several.
fn library_in_home() -> Option<PathBuf> {
    let folder = Path::new(&std::env::var_os("HOME")?).join(LIBRARY_FOLDER);
    let entries = std::fs::read_dir(folder).ok()?.take(FOLDER_ENTRIES_MAX).flatten();
    let library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libonnxruntime.so") || name == "libonnxruntime.dylib"
    };
    entries.map(|entry| entry.path()).filter(library).max()
}

#[derive(Debug)]
enum Backend {
    Ort(native::Pool),
    Tract(pure::Plans),
}

/// A model that is ready to run, from many threads at once.
#[derive(Debug)]
pub struct Session {
    spec: ModelSpec,
    cost: Cost,
    backend: Backend,
}

impl Session {
    /// Runs the model on any number of rows; `out` is emptied first, its memory is kept. The output is checked to have the
    /// declared shape and to be finite.
    pub fn run(&self, inputs: &[Values<'_>], out: &mut Vec<f32>) -> Result<(), ModelError> {
        let rows = rows(&self.spec, inputs)?;
        out.clear();
        let batch_max = self.spec.batch_max();
        if rows <= batch_max {
            self.run_piece(inputs, rows, out)?;
        } else {
            for from in (0..rows).step_by(batch_max) {
                let to = rows.min(from + batch_max);
                let pieces: Vec<_> = inputs
                    .iter()
                    .zip(&self.spec.inputs)
                    .map(|(values, spec)| values.slice(from * spec.row_len(), to * spec.row_len()))
                    .collect();
                self.run_piece(&pieces, to - from, out)?;
            }
        }
        match out.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(ModelError::NotFinite(at)),
            None => Ok(()),
        }
    }

    fn run_piece(&self, inputs: &[Values<'_>], rows: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        if rows == 0 {
            return Ok(());
        }
        let wanted = out.len() + rows * self.spec.output.row_len();
        match &self.backend {
            Backend::Ort(pool) => pool.run(&self.spec, inputs, rows, out)?,
            Backend::Tract(plans) => plans.run(&self.spec, inputs, rows, out)?,
        }
        if out.len() == wanted {
            return Ok(());
        }
        let reason = format!("{} numbers came out, {wanted} were due", out.len());
        Err(ModelError::Engine { engine: self.kind().as_str(), action: "run the model", reason })
    }

    /// What it takes and gives.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Which engine runs it.
    pub fn kind(&self) -> EngineKind {
        match self.backend {
            Backend::Ort(_) => EngineKind::Ort,
            Backend::Tract(_) => EngineKind::Tract,
        }
    }

    /// What a run of one row costs.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Runs `inputs` and notes the answers at `positions` of the flattened output, for a card.
    pub fn golden(
        &self,
        inputs: Vec<Tensor>,
        positions: impl IntoIterator<Item = u32>,
    ) -> Result<Golden, ModelError> {
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        let mut out = Vec::new();
        self.run(&views, &mut out)?;
        let answer = |at: u32| {
            let value = out.get(at as usize).copied();
            value.map(|value| (at, value)).ok_or_else(|| ModelError::Input(format!("no output {at}")))
        };
        let output = positions.into_iter().map(answer).collect::<Result<_, _>>()?;
        Ok(Golden { inputs, output })
    }

    /// Runs every golden input of a card and compares.
    pub fn check_golden(&self, golden: &[Golden]) -> Result<(), ModelError> {
        let mut out = Vec::new();
        for (index, golden) in golden.iter().enumerate() {
            let views: Vec<_> = golden.inputs.iter().map(Tensor::view).collect();
            self.run(&views, &mut out)?;
            for (at, wanted) in &golden.output {
                let at = *at as usize;
                let got = *out.get(at).ok_or_else(|| {
                    ModelError::refused("the card", format!("golden input {index} has no output {at}"))
                })?;
                if (got - wanted).abs() > GOLDEN_TOLERANCE * wanted.abs().max(1.0) {
                    let engine = self.kind().as_str();
                    return Err(ModelError::Golden { index, at, wanted: *wanted, got, engine });
                }
            }
        }
        Ok(())
    }
}
