//! The nodes a client may ask, what it measured of each, and which it prefers.
//!
//! One node is preferred: the nearest when nodes were last measured. It stays preferred until it fails or until
//! another measures clearly nearer. A node that failed is left alone for a jittered, doubling pause; a node that
//! failed does not become preferred again by time alone, only by being measured or by being needed.

use super::{Address, backoff_ms};

/// Longest address that is learned from a node, in bytes.
const ADDRESS_BYTES_MAX: usize = 256;

/// Limits of [`Nodes`].
#[derive(Debug, Clone)]
pub(crate) struct NodeRules {
    /// Most nodes that are remembered.
    pub(crate) nodes_max: usize,
    /// First pause after a failure.
    pub(crate) backoff_base_ms: u64,
    /// Longest pause.
    pub(crate) backoff_max_ms: u64,
    /// A round trip this much above the best counts as equally near, in microseconds. At least a quarter of the best.
    pub(crate) near_us: u64,
}

#[derive(Debug)]
struct Node {
    address: Address,
    /// Named in the configuration; never forgotten.
    configured: bool,
    rtt_us: Option<u64>,
    failures: u32,
    ready_at_ms: u64,
}

/// The candidates.
#[derive(Debug)]
pub(crate) struct Nodes {
    rules: NodeRules,
    nodes: Vec<Node>,
    preferred: Option<Address>,
}

impl Nodes {
    /// Starts with the configured addresses; what exceeds the limit is left out.
    pub(crate) fn new(rules: NodeRules, configured: &[String]) -> Self {
        let mut nodes = Self { rules, nodes: Vec::new(), preferred: None };
        for address in configured {
            nodes.add(address, true);
        }
        nodes
    }

    /// Adds what a node said of its PoP. When full, nodes that were learned earlier and are not named any more make
    /// place.
    pub(crate) fn learn(&mut self, addresses: &[String]) {
        for address in addresses.iter().take(self.rules.nodes_max) {
            if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || self.find(address).is_some() {
                continue;
            }
            if self.nodes.len() == self.rules.nodes_max {
                let stale =
                    |node: &Node| !node.configured && !addresses.iter().any(|named| *named == *node.address);
                let Some(at) = self.nodes.iter().position(stale) else { return };
                self.nodes.remove(at);
            }
            self.add(address, false);
        }
    }

    /// The node to ask next, and how long to wait before: the preferred one, else the nearest, of those that are not
    /// excluded; one that is ready before one that is not. `None`: all are excluded.
    pub(crate) fn choose(&self, now_ms: u64, excluded: &[Address]) -> Option<(Address, u64)> {
        let candidates = self.nodes.iter().filter(|node| !excluded.contains(&node.address));
        let best = candidates.min_by_key(|node| {
            let wait_ms = node.ready_at_ms.saturating_sub(now_ms);
            let preferred = self.preferred.as_ref() == Some(&node.address);
            (wait_ms, !preferred, node.failures, node.rtt_us.unwrap_or(u64::MAX))
        })?;
        Some((best.address.clone(), best.ready_at_ms.saturating_sub(now_ms)))
    }

    /// The node answered.
    pub(crate) fn succeeded(&mut self, address: &str) {
        if let Some(node) = self.find(address) {
            node.failures = 0;
            node.ready_at_ms = 0;
            let address = node.address.clone();
            self.preferred.get_or_insert(address);
        }
    }

    /// The node could not be reached, did not answer in time or cannot serve. True: it was the preferred one.
    pub(crate) fn failed(&mut self, address: &str, now_ms: u64, random: f64) -> bool {
        let (base_ms, max_ms) = (self.rules.backoff_base_ms, self.rules.backoff_max_ms);
        let was_preferred = self.preferred.as_deref() == Some(address);
        let Some(node) = self.find(address) else { return false };
        node.failures = node.failures.saturating_add(1);
        node.ready_at_ms = now_ms + backoff_ms(node.failures, base_ms, max_ms, random);
        if was_preferred {
            self.preferred = None;
        }
        was_preferred
    }

    /// The node asked to be left alone until then. It stays preferred.
    pub(crate) fn held(&mut self, address: &str, until_ms: u64) {
        if let Some(node) = self.find(address) {
            node.ready_at_ms = node.ready_at_ms.max(until_ms);
        }
    }

    /// A round trip to the node took so long, in microseconds. Later measurements count for a quarter.
    pub(crate) fn measured(&mut self, address: &str, rtt_us: u64) {
        if let Some(node) = self.find(address) {
            let rtt_us = rtt_us.min(u64::from(u32::MAX));
            node.rtt_us = Some(node.rtt_us.map_or(rtt_us, |known| (known * 3 + rtt_us) / 4));
            node.failures = 0;
            node.ready_at_ms = 0;
        }
    }

    /// Prefers the nearest node that is ready. The preferred one stays if it counts as equally near; else, among
    /// equally near ones, `random` decides, so that the clients of a PoP spread over its nodes. Returns the
    /// preferred node.
    pub(crate) fn settle(&mut self, now_ms: u64, random: f64) -> Option<Address> {
        let ready = self.nodes.iter().filter(|node| node.ready_at_ms <= now_ms);
        let measured: Vec<_> =
            ready.filter_map(|node| node.rtt_us.map(|rtt_us| (&node.address, rtt_us))).collect();
        let best_us = measured.iter().map(|(_, rtt_us)| *rtt_us).min();
        if let Some(best_us) = best_us {
            let near_us = best_us + self.rules.near_us.max(best_us / 4);
            let near: Vec<_> = measured.iter().filter(|(_, rtt_us)| *rtt_us <= near_us).collect();
            let stays = near.iter().any(|(address, _)| self.preferred.as_ref() == Some(*address));
            if !stays {
                let at = ((near.len() as f64 * random.clamp(0.0, 1.0)) as usize).min(near.len() - 1);
                self.preferred = Some(near[at].0.clone());
            }
        }
        self.preferred.clone()
    }

    /// At most `max` nodes that are worth measuring now: those that are ready, least known first.
    pub(crate) fn to_measure(&self, now_ms: u64, max: usize) -> Vec<Address> {
        let mut ready: Vec<_> = self.nodes.iter().filter(|node| node.ready_at_ms <= now_ms).collect();
        ready.sort_by_key(|node| node.rtt_us.unwrap_or(0));
        ready.into_iter().take(max).map(|node| node.address.clone()).collect()
    }

    /// How soon nodes are to be measured again because one is away: after `soon_ms`, then (`last_ms` is the pause
    /// before) at doubling pauses up to `rarely_ms`. `None`: all are well.
    pub(crate) fn remeasure_in_ms(&self, last_ms: Option<u64>, soon_ms: u64, rarely_ms: u64) -> Option<u64> {
        let away = self.nodes.iter().any(|node| node.failures > 0);
        away.then(|| last_ms.map_or(soon_ms, |last_ms| last_ms.saturating_mul(2)).min(rarely_ms))
    }

    /// The round trip to a node, in whole milliseconds; 0 where it was not measured.
    pub(crate) fn rtt_ms(&self, address: &str) -> u64 {
        let node = self.nodes.iter().find(|node| *node.address == *address);
        node.and_then(|node| node.rtt_us).unwrap_or(0) / 1_000
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The preferred node.
    pub(crate) fn preferred(&self) -> Option<&Address> {
        self.preferred.as_ref()
    }

    fn add(&mut self, address: &str, configured: bool) {
        if self.nodes.len() < self.rules.nodes_max && self.find(address).is_none() {
            let address = Address::from(address);
            self.nodes.push(Node { address, configured, rtt_us: None, failures: 0, ready_at_ms: 0 });
        }
    }

    fn find(&mut self, address: &str) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| *node.address == *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> NodeRules {
        NodeRules { nodes_max: 4, backoff_base_ms: 100, backoff_max_ms: 1_000, near_us: 500 }
    }

    fn nodes(names: &[&str]) -> Nodes {
        Nodes::new(rules(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    fn chosen(nodes: &Nodes, now_ms: u64, excluded: &[&str]) -> Option<(String, u64)> {
        let excluded: Vec<Address> = excluded.iter().map(|name| Address::from(*name)).collect();
        nodes.choose(now_ms, &excluded).map(|(address, wait_ms)| (address.to_string(), wait_ms))
    }

    #[test]
    fn the_nearest_measured_node_is_preferred_and_stays_while_it_is_near() {
        let mut nodes = nodes(&["far", "near", "silent"]);
        nodes.measured("far", 40_000);
        nodes.measured("near", 2_000);
        assert_eq!(nodes.settle(0, 0.9).as_deref(), Some("near"));
        assert_eq!(chosen(&nodes, 0, &[]), Some(("near".into(), 0)));
        // Slightly better is not worth moving for; clearly better is.
        nodes.measured("silent", 1_700);
        assert_eq!(nodes.settle(0, 0.0).as_deref(), Some("near"));
        for _ in 0..32 {
            nodes.measured("silent", 100);
        }
        assert_eq!(nodes.settle(0, 0.0).as_deref(), Some("silent"));
    }

    #[test]
    fn equally_near_nodes_are_chosen_between_at_random() {
        let picked: Vec<_> = [0.0, 0.4, 0.99]
            .iter()
            .map(|random| {
                let mut nodes = nodes(&["a", "b", "c"]);
                for name in ["a", "b", "c"] {
                    nodes.measured(name, 300);
                }
                nodes.settle(0, *random).unwrap().to_string()
            })
            .collect();
        assert_eq!(picked, ["a", "b", "c"]);
    }

    #[test]
    fn a_failed_node_is_left_alone_and_does_not_come_back_as_preferred_by_itself() {
        let mut nodes = nodes(&["a", "b"]);
        nodes.measured("a", 100);
        nodes.measured("b", 50_000);
        nodes.settle(0, 0.0);
        assert!(nodes.failed("a", 1_000, 1.0));
        assert_eq!(chosen(&nodes, 1_000, &[]), Some(("b".into(), 0)));
        nodes.succeeded("b");
        // Long after its pause, b still serves: a was nearer once, but nobody knows whether it is back.
        assert_eq!(chosen(&nodes, 60_000, &[]), Some(("b".into(), 0)));
        assert_eq!(chosen(&nodes, 60_000, &["b"]), Some(("a".into(), 0)));
        nodes.measured("a", 100);
        assert_eq!(nodes.settle(60_000, 0.0).as_deref(), Some("a"));
    }

    #[test]
    fn with_all_nodes_failed_the_first_to_be_ready_again_is_named_with_its_wait() {
        let mut nodes = nodes(&["a", "b"]);
        nodes.failed("a", 0, 1.0);
        nodes.failed("a", 0, 1.0);
        nodes.failed("b", 50, 1.0);
        assert_eq!(chosen(&nodes, 60, &[]), Some(("b".into(), 90)));
        assert_eq!(chosen(&nodes, 60, &["b"]), Some(("a".into(), 140)));
        assert_eq!(chosen(&nodes, 60, &["a", "b"]), None);
    }

    #[test]
    fn learned_nodes_are_bounded_and_configured_ones_are_never_forgotten() {
        let mut nodes = nodes(&["a", "b"]);
        nodes.learn(&["b".into(), "c".into(), "d".into(), "e".into(), String::new(), "x".repeat(1_000)]);
        let known = |nodes: &Nodes| nodes.nodes.iter().map(|n| n.address.to_string()).collect::<Vec<_>>();
        assert_eq!(known(&nodes), ["a", "b", "c", "d"]);
        nodes.learn(&["d".into(), "f".into(), "g".into()]);
        assert_eq!(known(&nodes), ["a", "b", "d", "f"]);
    }

    #[test]
    fn while_a_node_is_away_nodes_are_measured_more_often() {
        let mut nodes = nodes(&["a", "b"]);
        assert_eq!(nodes.remeasure_in_ms(None, 30, 200), None);
        nodes.failed("a", 0, 1.0);
        let mut pause_ms = None;
        for expected_ms in [30, 60, 120, 200, 200] {
            pause_ms = nodes.remeasure_in_ms(pause_ms, 30, 200);
            assert_eq!(pause_ms, Some(expected_ms));
        }
        nodes.measured("a", 100);
        assert_eq!(nodes.remeasure_in_ms(pause_ms, 30, 200), None);
    }

    #[test]
    fn a_held_node_waits_but_stays_preferred() {
        let mut nodes = nodes(&["a", "b"]);
        nodes.succeeded("a");
        nodes.held("a", 500);
        assert_eq!(chosen(&nodes, 100, &[]), Some(("b".into(), 0)));
        assert_eq!(chosen(&nodes, 500, &[]), Some(("a".into(), 0)));
    }
}
