//! What a shared cache may do (RFC 9111). Pure: `now` is an argument.
//!
//! | module | question |
//! |---|---|
//! | `directives` | what does a message say about its storage? |
//! | `freshness` | how long is a response fresh, how old is it? |
//! | `store` | may it be stored? |
//! | `reuse` | may it answer this request: as it is, stale, or once the origin has said so? |
//! | `vary` | was it made for such a request? |
//! | `validate` | what is asked of the origin, and what does its 304 change? |
//! | `conditional` | what does the client have already, and which part does it want? |
//! | `settle` | what becomes of the origin's answer, and of what is stored? |
//! | `hops` | which fields are for one connection only? |
//! | `forward` | which fields of a request does an origin get? |
//! | `framing` | how long is a response's body? |

pub mod conditional;
pub mod directives;
pub mod forward;
pub mod framing;
pub mod freshness;
pub mod hops;
pub mod reuse;
pub mod settle;
pub mod store;
pub mod validate;
pub mod vary;

#[cfg(test)]
mod tests;
