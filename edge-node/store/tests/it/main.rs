//! The store as a whole: replicas of the pure machine, and PoPs of several nodes in one process over the in-memory network.

mod cluster;
mod members;
mod pop;
mod property;
mod recovery;
