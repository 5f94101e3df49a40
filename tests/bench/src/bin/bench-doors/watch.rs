//! Looks at the node while it is under load.

use std::time::Duration;

use bench::processes::{busy_s, cpu_s, rss_mib};
use rockpool::control::NodeAdmin;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often.
const EVERY: Duration = Duration::from_millis(250);
/// Most looks.
const LOOKS_MAX: usize = 4_000;

/// A line of the node's metrics: up to where the upper bound stands.
const BUCKET: &str = "rockpool_http_request_seconds_bucket{route=\"/v1/recommend\",le=\"";

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Look {
    /// When, since the watch began.
    pub at_s: f64,
    /// The node's resident set.
    pub rss_mib: f64,
    /// CPU seconds of the node so far.
    pub node_cpu_s: f64,
    /// CPU seconds of this process so far.
    pub generator_cpu_s: f64,
    /// CPU seconds of everything on the machine so far.
    pub busy_s: f64,
}

/// Looks until `stop`, or until the node has ended.
pub fn watch(node: u32, stop: CancellationToken) -> JoinHandle<Vec<Look>> {
    let began = Instant::now();
    tokio::spawn(async move {
        let mut looks = Vec::new();
        let mut ticks = tokio::time::interval(EVERY);
        while looks.len() < LOOKS_MAX {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let seen = (rss_mib(node), cpu_s(&[node]), cpu_s(&[std::process::id()]), busy_s());
            let (Ok(rss_mib), Ok(node_cpu_s), Ok(generator_cpu_s), Ok(busy_s)) = seen else { break };
            looks.push(Look {
                at_s: began.elapsed().as_secs_f64(),
                rss_mib,
                node_cpu_s,
                generator_cpu_s,
                busy_s,
            });
        }
        looks
    })
}

/// The node's own histogram of how long requests at its HTTP door took: upper bounds in seconds, and how many were no longer.
#[derive(Debug, Clone, PartialEq)]
pub struct Durations(Vec<(f64, f64)>);

impl Durations {
    /// So far.
    ///
    /// # Errors
    /// Where the node does not say.
    pub async fn of(node: &NodeAdmin) -> anyhow::Result<Self> {
        Ok(Self::read(&node.metrics().await?))
    }

    fn read(page: &str) -> Self {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(BUCKET)?.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.trim().parse().ok()?))
        };
        Self(page.lines().filter_map(bucket).collect())
    }

    /// Of the requests that ended since.
    pub fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.0.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, n)| *n);
        Self(self.0.iter().map(|(bound, count)| (*bound, count - before(*bound))).collect())
    }

    /// The first bound that 99 of 100 do not exceed, in milliseconds. None: nothing was counted, or they exceed all.
    pub fn p99_ms(&self) -> Option<f64> {
        let all = self.0.last().filter(|(_, all)| *all > 0.0)?.1;
        let bound = self.0.iter().find(|(_, count)| *count >= all * 0.99)?.0;
        bound.is_finite().then_some(bound * 1e3)
    }
}

/// What a phase came to.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Used {
    /// Largest resident set of the node.
    pub rss_max_mib: f64,
    /// Share of its core that the node used.
    pub node_cpu_share: f64,
    /// Share of a core that this process used.
    pub generator_cpu_share: f64,
    /// Cores that anybody else used: what is measured beside others at work is worse than it is.
    pub others_cores: f64,
}

impl Used {
    /// Of the looks within this time.
    pub fn of(looks: &[Look], from: Duration, to: Duration) -> Self {
        let within = |look: &&Look| (from.as_secs_f64()..to.as_secs_f64()).contains(&look.at_s);
        let mut all = looks.iter().filter(within);
        let Some(first) = all.next() else { return Self::default() };
        let last = all.clone().next_back().unwrap_or(first);
        let seconds = (last.at_s - first.at_s).max(f64::MIN_POSITIVE);
        let share = |of: &dyn Fn(&Look) -> f64| (of(last) - of(first)) / seconds;
        let (node, generator) = (share(&|look| look.node_cpu_s), share(&|look| look.generator_cpu_s));
        Self {
            rss_max_mib: all.fold(first.rss_mib, |most, look| most.max(look.rss_mib)),
            node_cpu_share: node,
            generator_cpu_share: generator,
            others_cores: (share(&|look| look.busy_s) - node - generator).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_p99_is_a_bound_of_its_histogram() {
        let page = |counts: [u32; 3]| {
            let bounds = ["0.01", "0.02", "+Inf"];
            let lines =
                bounds.iter().zip(counts).map(|(bound, count)| format!("{BUCKET}{bound}\"}} {count}"));
            Durations::read(&lines.collect::<Vec<_>>().join("\n"))
        };
        let (before, after) = (page([50, 50, 60]), page([60, 150, 160]));
        assert_eq!(after.since(&before).p99_ms(), Some(20.0));
        assert_eq!((before.p99_ms(), before.since(&before).p99_ms()), (None, None));
    }
}
