//! Figures of all rounds, their medians, and how they are shown.

use std::collections::BTreeMap;

use bench::machine::Machine;
use rockpool::table::{table, thousands};
use serde::Serialize;

use crate::load::Measured;
use crate::system::Counts;

/// One side at one point in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Acknowledged writes a second.
    pub writes_per_s: f64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 are faster.
    pub p99_ms: f64,
    /// Writes that failed.
    pub errors: u64,
    /// The first error.
    pub error: Option<String>,
    /// Writes a sync of the leader's log.
    pub writes_per_sync: f64,
    /// Mean milliseconds of a sync of the leader's log.
    pub sync_ms: f64,
    /// CPU microseconds of the three processes a write.
    pub cpu_us_per_write: f64,
}

impl Figures {
    /// Of what was measured; the counts are the leader's, before the warm-up and after all.
    pub fn of(measured: &Measured, before: Counts, after: Counts) -> Self {
        let syncs = (after.syncs - before.syncs).max(1) as f64;
        let ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1_000.0;
        let writes = measured.latency.len() as f64;
        Self {
            writes_per_s: writes / measured.seconds,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            errors: measured.errors,
            error: measured.error.clone(),
            writes_per_sync: measured.acknowledged as f64 / syncs,
            sync_ms: (after.sync_s - before.sync_s) * 1e3 / syncs,
            cpu_us_per_write: measured.cpu_s * 1e6 / writes.max(1.0),
        }
    }

    /// The round in the middle, by writes a second.
    fn median(rounds: &[Figures]) -> &Figures {
        let mut order: Vec<&Figures> = rounds.iter().collect();
        order.sort_by(|a, b| a.writes_per_s.total_cmp(&b.writes_per_s));
        order[order.len() / 2]
    }
}

/// One number of clients, all rounds.
#[derive(Debug, Serialize)]
pub struct Point {
    /// Clients.
    pub clients: usize,
    /// Ours, round by round.
    pub rockpool: Vec<Figures>,
    /// etcd, round by round.
    pub etcd: Vec<Figures>,
}

impl Point {
    /// Median writes a second, ours to etcd's.
    fn ratio(&self) -> f64 {
        Figures::median(&self.rockpool).writes_per_s / Figures::median(&self.etcd).writes_per_s
    }
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Ours to etcd's, by number of clients: `c1`, `c64`, `c500`. Medians of the rounds.
    pub writes_vs_etcd: BTreeMap<String, f64>,
    /// Where.
    pub machine: Machine,
    /// The etcd that was run.
    pub etcd_version: String,
    /// Seconds that each side was measured at each point in each round.
    pub seconds: f64,
    /// What each point came to.
    pub points: Vec<Point>,
}

impl Report {
    /// Puts it together.
    pub fn new(machine: Machine, etcd_version: String, seconds: f64, points: Vec<Point>) -> Self {
        let writes_vs_etcd =
            points.iter().map(|point| (format!("c{}", point.clients), point.ratio())).collect();
        Self { writes_vs_etcd, machine, etcd_version, seconds, points }
    }

    /// Whether every write was acknowledged.
    pub fn is_good(&self) -> bool {
        let all = self.points.iter().flat_map(|point| point.rockpool.iter().chain(&point.etcd));
        all.map(|figures| figures.errors).sum::<u64>() == 0
    }

    /// For people.
    pub fn text(&self) -> String {
        let machine = &self.machine;
        let rounds = self.points.first().map_or(0, |point| point.etcd.len());
        format!(
            "\n{} cores, {}; {}, a plain append with fdatasync takes {} µs (p99 {} µs); load average {} at the start\n\
             3 nodes and 3 members on this machine, one side at a time, the clients too; keys of 256 B, values of 1 KiB;\n\
             {}; median of {rounds} rounds of {} s a point\n\n{}",
            machine.cores,
            machine.cpu,
            machine.file_system,
            machine.fdatasync_p50_us,
            machine.fdatasync_p99_us,
            machine.load_average,
            self.etcd_version,
            self.seconds,
            self.table(),
        )
    }

    fn table(&self) -> String {
        let head = [
            "clients",
            "",
            "writes/s",
            "p50 ms",
            "p99 ms",
            "writes/sync",
            "ms/sync",
            "CPU µs/write",
            "errors",
            "ratio",
        ];
        let row = |clients: String, name: &str, figures: &Figures, ratio: String| {
            vec![
                clients,
                name.to_owned(),
                thousands(figures.writes_per_s as u64),
                format!("{:.2}", figures.p50_ms),
                format!("{:.2}", figures.p99_ms),
                format!("{:.1}", figures.writes_per_sync),
                format!("{:.2}", figures.sync_ms),
                format!("{:.0}", figures.cpu_us_per_write),
                figures.errors.to_string(),
                ratio,
            ]
        };
        let rows = self.points.iter().flat_map(|point| {
            let clients = point.clients.to_string();
            [
                row(clients, "etcd", Figures::median(&point.etcd), String::new()),
                row(
                    String::new(),
                    "rockpool",
                    Figures::median(&point.rockpool),
                    format!("{:.2}", point.ratio()),
                ),
            ]
        });
        table(&head, &rows.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(writes_per_s: f64) -> Figures {
        Figures {
            writes_per_s,
            p50_ms: 1.0,
            p99_ms: 2.0,
            errors: 0,
            error: None,
            writes_per_sync: 1.0,
            sync_ms: 1.0,
            cpu_us_per_write: 1.0,
        }
    }

    #[test]
    fn the_ratio_is_of_medians() {
        let point = Point {
            clients: 64,
            rockpool: [100.0, 300.0, 200.0].map(figures).to_vec(),
            etcd: [1.0, 100.0, 900.0].map(figures).to_vec(),
        };
        assert_eq!(point.ratio(), 2.0);
    }
}
