//! Who runs where. The node has one core to itself, and the generator the others, in every phase, that in which the peak is found
//! included: otherwise a generator that offers five times as much would take from the node what it measures.

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// How the cores are divided.
#[derive(Debug, Clone, Serialize)]
pub struct Cores {
    /// The node's.
    pub node: usize,
    /// The generator's.
    pub generator: Vec<usize>,
}

impl Cores {
    /// Divides those that we may use.
    ///
    /// # Errors
    /// Where there is but one.
    pub fn divide() -> anyhow::Result<Self> {
        let ours = sched_getaffinity(None).context("the system does not say which cores are ours")?;
        let mut ours = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
        let node = ours.next().context("there is no core")?;
        let generator: Vec<usize> = ours.collect();
        anyhow::ensure!(!generator.is_empty(), "the node and the generator need a core each: there is one");
        Ok(Self { node, generator })
    }

    /// Keeps this thread, and those that it starts, to the generator's.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn keep_to_generator(&self) -> anyhow::Result<()> {
        let mut cores = CpuSet::new();
        self.generator.iter().for_each(|core| cores.set(*core));
        sched_setaffinity(None, &cores).context("cannot keep to the generator's cores")
    }

    /// What a node is started through. It sees one core, and has as many threads as a node of one core has.
    pub fn through(&self) -> Vec<String> {
        ["taskset", "--cpu-list", &self.node.to_string()].map(str::to_owned).to_vec()
    }
}
