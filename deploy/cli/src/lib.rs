//! The command line's parts, as a library: tests and benchmarks run the same local deployment and the same load.
//!
//! | module | what it is |
//! |---|---|
//! | [`local`] | a whole deployment on this machine: a cloud and a PoP, as child processes |
//! | [`control`] | a client of the cloud's control API and of the nodes' admin ports |
//! | [`load`] | an open-loop load generator |
//! | [`publish`] | makes a bundle of a data set and models, and publishes it |
//! | [`commands`] | the subcommands, one a file |

pub mod commands;
pub mod control;
pub mod load;
pub mod local;
pub mod publish;
pub mod table;
