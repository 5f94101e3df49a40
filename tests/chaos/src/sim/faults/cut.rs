//! Partitions of the network, and links that break.

use rand::RngExt as _;

use super::{Fault, Undo};
use crate::sim::cloud;
use crate::sim::machine::host_name;
use crate::sim::world::World;

impl World {
    fn partition(&mut self, pairs: Vec<(String, String)>, min_ms: u64, max_ms: u64) {
        pairs.iter().for_each(|(from, to)| self.setting.network.partition(from, to));
        self.later(min_ms, max_ms, Undo::Heal(pairs));
    }

    /// Both directions between a node and all others.
    pub(super) fn around(&self, node: u64) -> Vec<(String, String)> {
        let others = self.machines.keys().filter(|other| **other != node);
        others
            .flat_map(|other| {
                let (a, b) = (host_name(node), host_name(*other));
                [(a.clone(), b.clone()), (b, a)]
            })
            .collect()
    }

    pub(super) fn cut(&mut self, fault: Fault) -> Option<String> {
        let nodes = self.shuffled();
        let (&first, &second) = (nodes.first()?, nodes.get(1)?);
        match fault {
            Fault::PartitionOneWay => {
                self.partition(vec![(host_name(first), host_name(second))], 300, 4_000);
                Some(format!("from node {first} to node {second}"))
            }
            Fault::PartitionLeader | Fault::PartitionDeafLeader => {
                let leader = self.leader()?;
                let mut pairs = self.around(leader);
                if fault == Fault::PartitionDeafLeader {
                    pairs.retain(|(_, to)| *to == host_name(leader));
                }
                self.partition(pairs, 500, 5_000);
                Some(format!("node {leader}"))
            }
            Fault::PartitionBridge => {
                let (left, right) = nodes[1..].split_at((nodes.len() - 1) / 2);
                let pairs =
                    left.iter().flat_map(|l| right.iter().map(move |r| (host_name(*l), host_name(*r))));
                let pairs = pairs.flat_map(|(l, r)| [(l.clone(), r.clone()), (r, l)]).collect();
                self.partition(pairs, 500, 5_000);
                Some(format!("{left:?} and {right:?} meet at node {first}"))
            }
            Fault::PartitionFlapping => {
                let times = self.random.random_range(4..16);
                self.later(1, 2, Undo::Flap(first, true, times));
                Some(format!("node {first}, {times} times"))
            }
            Fault::PartitionSwizzle => {
                let mut some = nodes;
                let len = self.random.random_range(1..=some.len());
                some.truncate(len);
                for node in &some {
                    let pairs = self.around(*node);
                    self.partition(pairs, 300, 4_000);
                }
                Some(format!("{some:?}"))
            }
            _ => {
                for other in &nodes[1..] {
                    self.setting.network.drop_links(&host_name(first), &host_name(*other));
                }
                self.setting.network.drop_links(&host_name(first), cloud::HOST);
                Some(format!("node {first}"))
            }
        }
    }
}
