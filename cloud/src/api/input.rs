//! Parts of a query that several routes have.

use serde::Deserialize;

/// `?limit=`; each query has a maximum of its own.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    #[serde(default = "limit_default")]
    pub(super) limit: u32,
}

/// How many rows without `?limit=`.
pub(super) fn limit_default() -> u32 {
    100
}
