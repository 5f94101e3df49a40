//! The graphs that our own exporters write, as code. An engine runs any graph, one operator after the other, on rows that were put
//! together first; whoever knows which network it is can leave most of that out: what depends on an item alone is computed
//! once a bundle, what depends on the visitor alone once a request, and products are chosen for one row or for one visitor.
//!
//! The graph stays the reference. A graph that is not recognised, node by node ([`reader`]), or whose kernel answers
//! otherwise than the engine by more than [`TOLERANCE`], is run by the engine as it is; nothing else changes.

pub(crate) mod check;
mod matrix;
pub(crate) mod ranker;
mod reader;
pub(crate) mod retrieval;

/// Most that an answer of a kernel may differ from the engine's, relative to it where it is above 1.
pub(crate) const TOLERANCE: f32 = 1e-5;

/// True: `ours` says what `theirs` says.
pub(crate) fn agree(ours: &[f32], theirs: &[f32]) -> bool {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * b.abs().max(1.0);
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(close)
}
