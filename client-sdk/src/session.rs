//! What the client decides, without acting: which node to ask, when to ask another, how long to pause, how many
//! events a batch holds, which token a request carries. Pure: no async, no clock, no randomness; `now_ms`
//! (monotonic, since the client began) and `random` (uniform in `0.0..1.0`) are arguments, so a test is a loop and
//! a seed.

mod answers;
mod attempts;
mod delivery;
mod nodes;
mod tokens;

pub(crate) use answers::Answers;
pub(crate) use attempts::{Attempts, AttemptsRules, Failure, GiveUp, Step};
pub(crate) use delivery::{BatchRoom, Delivery, DeliveryRules, Verdict};
pub(crate) use nodes::{NodeRules, Nodes};
pub(crate) use tokens::Tokens;

/// Address of a node as the dialer takes it (`host:port`); shared, because it is cloned on every request.
pub(crate) type Address = std::sync::Arc<str>;

/// The pause before try number `failures` + 1: doubles from `base_ms` up to `max_ms`; half of it is random, so that
/// clients that failed together do not come back together.
pub(crate) fn backoff_ms(failures: u32, base_ms: u64, max_ms: u64, random: f64) -> u64 {
    let doublings = failures.saturating_sub(1).min(20);
    let full = base_ms.saturating_mul(1 << doublings).min(max_ms);
    let random = random.clamp(0.0, 1.0);
    // Both halves are far below 2^52, so the float keeps every millisecond.
    full / 2 + ((full - full / 2) as f64 * random) as u64
}

/// Everything a client remembers between two requests.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) nodes: Nodes,
    pub(crate) tokens: Tokens,
    pub(crate) answers: Answers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum_and_jitters_over_its_upper_half() {
        for (failures, full) in [(1, 100), (2, 200), (3, 400), (6, 2_000), (u32::MAX, 2_000)] {
            assert_eq!(backoff_ms(failures, 100, 2_000, 0.0), full / 2, "after {failures} failures");
            assert_eq!(backoff_ms(failures, 100, 2_000, 1.0), full, "after {failures} failures");
        }
        assert_eq!(backoff_ms(3, u64::MAX, u64::MAX, f64::NAN), u64::MAX / 2);
    }
}
