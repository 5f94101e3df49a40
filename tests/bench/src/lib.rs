//! What the benchmarks beside other systems share. Each is a binary of its own: `bench-raft` (`make bench-raft`) measures durable
//! writes beside etcd, `bench-peers` (`make bench-peers`) recommendations, transport and cache hits beside what a user would
//! pick instead, `bench-doors` (`make bench-doors`) what overload and hostile connections do to a node.
//!
//! | module | what it is |
//! |---|---|
//! | [`work`] | what everybody is asked |
//! | [`pop`], [`http`] | a PoP that runs, a lean client of its HTTP door |
//! | [`machine`] | what the figures are of |
//! | [`processes`] | CPU time and memory of processes and their children |

pub mod http;
pub mod machine;
pub mod pop;
pub mod processes;
pub mod work;
