//! All that was measured, for people and as JSON.

use bench::machine::Machine;
use rockpool::table::{table, thousands};
use serde::Serialize;

use crate::cores::Cores;
use crate::overload::Overload;
use crate::slow::{Good, Slow};
use crate::tally::{DEADLINE, Tally};
use crate::watch::Used;

/// The figures that are asked about, and all that they come from.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Good answers a second (200, within the deadline) while five times the peak is offered, to those of the peak.
    pub overload_goodput_vs_peak: Option<f64>,
    /// p99 of what was answered with 200 then, in milliseconds.
    pub overload_p99_ms: Option<f64>,
    /// How long after it p99 is normal again, in seconds.
    pub overload_recovery_s: Option<f64>,
    /// The node's largest resident set during it, to that before.
    pub overload_rss_growth: Option<f64>,
    /// p99 of good clients while hostile connections are held, to that without.
    pub slow_p99_ratio: Option<f64>,
    /// Where they come from.
    pub detail: Detail,
}

/// What the figures come from. None: it was not asked for.
#[derive(Debug, Serialize)]
pub struct Detail {
    /// Where.
    pub machine: Machine,
    /// Who ran on which core.
    pub cores: Cores,
    /// How long an answer may take to be good, in milliseconds.
    pub deadline_ms: u128,
    /// Settings of the node that are not the defaults.
    pub settings: Vec<String>,
    /// Overload.
    pub overload: Option<Overload>,
    /// Hostile connections.
    pub slow: Option<Slow>,
    /// Parts that failed, and why.
    pub failed: Vec<String>,
}

impl Detail {
    /// Of a machine on which nothing was measured yet.
    pub fn new(machine: Machine, cores: Cores, settings: Vec<String>) -> Self {
        let deadline_ms = DEADLINE.as_millis();
        Self { machine, cores, deadline_ms, settings, overload: None, slow: None, failed: Vec::new() }
    }
}

impl Report {
    /// Puts it together.
    pub fn new(detail: Detail) -> Self {
        let (overload, slow) = (detail.overload.as_ref(), detail.slow.as_ref());
        Self {
            overload_goodput_vs_peak: overload.map(Overload::goodput_vs_peak),
            overload_p99_ms: overload.map(|overload| overload.overload.p99_ms),
            overload_recovery_s: overload.and_then(|overload| overload.recovery_s),
            overload_rss_growth: overload.map(Overload::rss_growth),
            slow_p99_ratio: slow.and_then(Slow::p99_ratio),
            detail,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Detail { machine, cores, .. } = &self.detail;
        let mut parts = vec![format!(
            "\n{} cores, {}, load average {} at the start; the node on core {}, the generator on {:?}, in every phase; good: 200 \
             within {} ms",
            machine.cores,
            machine.cpu,
            machine.load_average,
            cores.node,
            cores.generator,
            self.detail.deadline_ms
        )];
        parts.extend(self.detail.settings.iter().map(|setting| format!("not the default: {setting}")));
        parts.extend(self.detail.overload.as_ref().map(overload_text));
        parts.extend(self.detail.slow.as_ref().map(slow_text));
        parts.extend(self.detail.failed.iter().map(|why| format!("failed: {why}")));
        parts.push(self.summary());
        parts.join("\n\n")
    }

    fn summary(&self) -> String {
        let bars = [
            (
                "overload_goodput_vs_peak",
                self.overload_goodput_vs_peak,
                "at least 0.9",
                self.detail.overload.is_some(),
            ),
            ("overload_p99_ms", self.overload_p99_ms, "below 100", self.detail.overload.is_some()),
            ("overload_recovery_s", self.overload_recovery_s, "below 2", self.detail.overload.is_some()),
            ("overload_rss_growth", self.overload_rss_growth, "flat", self.detail.overload.is_some()),
            ("slow_p99_ratio", self.slow_p99_ratio, "at most 2", self.detail.slow.is_some()),
        ];
        let row = |(name, value, bar, asked): (&str, Option<f64>, &str, bool)| {
            let missing = if asked { "never" } else { "–" };
            let value = value.map_or_else(|| missing.to_owned(), |value| format!("{value:.2}"));
            vec![name.to_owned(), value, bar.to_owned()]
        };
        table(&["figure", "value", "bar"], &bars.map(row))
    }
}

fn row(name: &str, tally: &Tally, used: Option<&Used>) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(
        [tally.offered_per_s, tally.goodput_per_s, tally.ranked_per_s].map(|rate| thousands(rate as u64)),
    );
    row.extend([tally.p50_ms, tally.p99_ms].map(|ms| format!("{ms:.1}")));
    row.extend([tally.late, tally.refused, tally.failed, tally.not_admitted, tally.missed].map(thousands));
    row.push(format!("{:.1}", tally.lag_p99_ms));
    row.extend(used.into_iter().flat_map(|used| {
        let percent = |share: f64| format!("{:.0}", share * 100.0);
        let cpu = [used.node_cpu_share, used.generator_cpu_share, used.others_cores].map(percent);
        cpu.into_iter().chain([format!("{:.0}", used.rss_max_mib)])
    }));
    row
}

const HEAD: [&str; 16] = [
    "phase",
    "offered/s",
    "good/s",
    "ranked/s",
    "p50 ms",
    "p99 ms",
    "late",
    "503",
    "failed",
    "not admitted",
    "missed",
    "lag ms",
    "node CPU %",
    "gen. CPU %",
    "others %",
    "RSS MiB",
];

fn overload_text(overload: &Overload) -> String {
    let [before, during, after] = &overload.used;
    let rows = [
        row("peak", &overload.peak, None),
        row("half of it", &overload.before, Some(before)),
        row("overload", &overload.overload, Some(during)),
        row("half again", &overload.after, Some(after)),
    ];
    let errors = errors(&overload.errors);
    format!(
        "overload over {} connections; 99 of 100 took the node itself at most {} ms; 503: p99 {:.1} ms; normal again: p99 of 200 ms \
         up to {:.1} ms{errors}\n\n{}",
        thousands(overload.connections as u64),
        overload.node_p99_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}")),
        overload.overload.refused_p99_ms,
        overload.normal_ms,
        table(&HEAD, &rows)
    )
}

fn slow_text(slow: &Slow) -> String {
    let phases = [("alone", &slow.alone), ("opening", &slow.opening), ("held", &slow.held)];
    let rows = phases.map(|(name, good)| row(name, &good.connected, Some(&good.used)));
    let newcomers = phases.map(|(name, Good { newcomers, .. })| {
        let mut row = vec![name.to_owned(), newcomers.came.to_string(), newcomers.failed.to_string()];
        row.extend([newcomers.p50_ms, newcomers.max_ms].map(|ms| format!("{ms:.0}")));
        row
    });
    let kinds: Vec<Vec<String>> = slow
        .by_kind
        .iter()
        .map(|told| {
            let name = format!("{:?}", told.kind);
            let counts = [told.held as u64, told.opened, told.not_opened, told.ended].map(thousands);
            std::iter::once(name).chain(counts).chain([format!("{:.1}", told.ended_after_s)]).collect()
        })
        .collect();
    format!(
        "{} hostile connections, {} to {} held, after {:.0} s; the node counted {}; {} QUIC handshakes abandoned{}\n\n{}\n\n{}\n\n{}",
        thousands(slow.hostile as u64),
        thousands(slow.held_min as u64),
        thousands(slow.held_max as u64),
        slow.opening_s,
        slow.node_counts.map_or_else(|| "–".to_owned(), |count| thousands(count as u64)),
        thousands(slow.quic_initials),
        errors(&slow.errors),
        table(&HEAD, &rows),
        table(&["newcomers", "came", "failed", "p50 ms", "max ms"], &newcomers),
        table(&["hostile", "held", "opened", "not opened", "ended", "after s"], &kinds)
    )
}

fn errors(errors: &std::collections::BTreeMap<String, u64>) -> String {
    errors.iter().map(|(why, times)| format!("\n  {times} × {why}")).collect()
}
