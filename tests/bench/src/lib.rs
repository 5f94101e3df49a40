//! What the benchmarks beside other systems share. Each is a binary of its own: `bench-raft` (`make bench-raft`) measures durable
//! writes beside etcd, `bench-peers` (`make bench-peers`) recommendations, transport and cache hits beside what a user would
//! pick instead.
//!
//! | module | what it is |
//! |---|---|
//! | [`machine`] | what the figures are of |
//! | [`processes`] | CPU time and memory of processes and their children |

pub mod machine;
pub mod processes;
