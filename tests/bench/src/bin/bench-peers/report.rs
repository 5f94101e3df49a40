//! All that was measured, for people and as JSON.

use bench::machine::Machine;
use rockpool::table::{table, thousands};
use serde::Serialize;

use crate::bare::Bare;
use crate::cache::Cache;
use crate::quic::Overhead;
use crate::race::{HTTP, Race, SDK};

/// The figures that are asked about, and all that they come from.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The highest rate that one edge node sustains at its HTTP door (HTTPS, HTTP/1.1), to FastAPI's (plain HTTP/1.1), with both on
    /// the same cores.
    pub throughput_vs_fastapi: Option<f64>,
    /// CPU time of one edge node a recommendation through the SDK (TLS, QUIC, the notes in Raft, all of it) with the processors full, to
    /// that of the bare calls of both models, which have them full, too.
    pub cpu_per_request_vs_bare_loop: Option<f64>,
    /// Cache hits a second, to nginx's.
    pub cache_hits_vs_nginx: Option<f64>,
    /// To those of Varnish behind hitch.
    pub cache_hits_vs_varnish: Option<f64>,
    /// p50 of a recommendation through the SDK less that of as many bytes over raw quinn, in microseconds.
    pub quic_overhead_us: Option<i64>,
    /// Where they come from.
    pub detail: Detail,
}

/// What the figures come from. None: it was not asked for.
#[derive(Debug, Serialize)]
pub struct Detail {
    /// Where.
    pub machine: Machine,
    /// Recommendations.
    pub race: Option<Race>,
    /// The models alone.
    pub bare: Option<Bare>,
    /// The transport.
    pub quic: Option<Overhead>,
    /// Cache hits.
    pub cache: Option<Cache>,
    /// Parts that failed, and why.
    pub failed: Vec<String>,
}

impl Report {
    /// Puts it together.
    pub fn new(detail: Detail) -> Self {
        let (race, cache) = (detail.race.as_ref(), detail.cache.as_ref());
        Self {
            throughput_vs_fastapi: race.and_then(|race| race.throughput(HTTP)),
            cpu_per_request_vs_bare_loop: detail.cpu_ratio(SDK),
            cache_hits_vs_nginx: cache.and_then(|cache| cache.ratio("nginx")),
            cache_hits_vs_varnish: cache.and_then(|cache| cache.ratio("varnish")),
            quic_overhead_us: detail.quic.as_ref().map(|quic| quic.overhead_us),
            detail,
        }
    }

    /// Whether the sides did the same work, and nothing failed.
    pub fn is_good(&self) -> bool {
        let (race, cache) = (self.detail.race.as_ref(), self.detail.cache.as_ref());
        self.detail.failed.is_empty() && race.is_none_or(Race::is_good) && cache.is_none_or(Cache::all_hits)
    }

    /// For people.
    pub fn text(&self) -> String {
        let machine = &self.detail.machine;
        let mut parts = vec![format!(
            "\n{} cores, {}, load average {} at the start; one side at a time, the load generator on the same cores",
            machine.cores, machine.cpu, machine.load_average
        )];
        parts.extend(self.detail.race.as_ref().map(|race| race_text(race, &self.detail)));
        parts.extend(self.detail.quic.as_ref().map(quic_text));
        parts.extend(self.detail.cache.as_ref().map(cache_text));
        parts.extend(self.detail.failed.iter().map(|why| format!("failed: {why}")));
        parts.push(self.summary());
        parts.join("\n\n")
    }

    fn summary(&self) -> String {
        let ratio = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let rows = [
            ("throughput_vs_fastapi", ratio(self.throughput_vs_fastapi)),
            ("cpu_per_request_vs_bare_loop", ratio(self.cpu_per_request_vs_bare_loop)),
            ("cache_hits_vs_nginx", ratio(self.cache_hits_vs_nginx)),
            ("cache_hits_vs_varnish", ratio(self.cache_hits_vs_varnish)),
            ("quic_overhead_us", self.quic_overhead_us.map_or_else(|| "–".to_owned(), |us| us.to_string())),
        ];
        table(&["figure", "value"], &rows.map(|(name, value)| vec![name.to_owned(), value]))
    }
}

impl Detail {
    /// CPU time of a side a recommendation, to that of the models alone.
    fn cpu_ratio(&self, side: &str) -> Option<f64> {
        let side = self.race.as_ref()?.side(side)?;
        Some(side.cpu_us_per_request / self.bare.as_ref()?.cpu_us_per_request)
    }
}

fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1_000.0)
}

fn race_text(race: &Race, detail: &Detail) -> String {
    let head = [
        "recommendations",
        "sustained/s",
        "to FastAPI's",
        "p50 ms",
        "p99 ms",
        "p99 at 2,000/s",
        "CPU µs at 2,000/s",
        "CPU µs",
        "to the bare loop's",
        "RSS MiB",
        "PSS MiB",
        "others %",
    ];
    let ratio = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for side in &race.sides {
        rows.push(vec![
            side.name.to_owned(),
            thousands(side.highest.rate_per_s as u64),
            ratio(race.throughput(side.name)),
            ms(side.equal.figures.p50_us),
            ms(side.equal.figures.p99_us),
            side.busy.as_ref().map_or_else(String::new, |busy| ms(busy.figures.p99_us)),
            side.busy_cpu_us_per_request.map_or_else(String::new, |us| format!("{us:.0}")),
            format!("{:.0}", side.cpu_us_per_request),
            ratio(detail.cpu_ratio(side.name)),
            format!("{:.0}", side.memory.rss_mib),
            format!("{:.0}", side.memory.pss_mib),
            format!("{:.0}", side.others_share * 100.0),
        ]);
    }
    if let Some(bare) = &detail.bare {
        let mut row = vec!["both models in a bare loop".to_owned()];
        row.extend([""; 6].map(str::to_owned));
        row.extend([format!("{:.0}", bare.cpu_us_per_request), "1.00".to_owned()]);
        rows.push(row);
    }
    format!(
        "{} connections; sustained: p99 < 50 ms, no errors, 99 % of the answers from both models; p50 and p99 at {:.0}/s on every \
         side, CPU at nine tenths of what is sustained; FastAPI with {} workers of {:?} tried; answers of {} visitors agree by {:.1} % ({:.1} % to the last place); others: the \
         share of the cores that something else used meanwhile\n\n{}",
        thousands(race.connections as u64),
        race.equal_rate_per_s,
        race.workers,
        race.workers_tried.iter().map(|tried| tried.workers).collect::<Vec<_>>(),
        race.agreement.visitors,
        race.agreement.overlap * 100.0,
        race.agreement.identical * 100.0,
        table(&head, &rows)
    )
}

fn quic_text(quic: &Overhead) -> String {
    let row = |name: &str, p50: u64, p99: Option<u64>| {
        vec![name.to_owned(), p50.to_string(), p99.map_or_else(String::new, |p99| p99.to_string())]
    };
    let rows = [
        row("raw quinn, as many bytes", quic.quinn_p50_us, Some(quic.quinn_p99_us)),
        row("a node's ping", quic.ping_p50_us, None),
        row("recommendation, SDK", quic.recommend_p50_us, Some(quic.recommend_p99_us)),
    ];
    format!(
        "{}/s, one at a time, {} B there and {} B back\n\n{}",
        quic.rate_per_s,
        quic.request_bytes,
        quic.answer_bytes,
        table(&["exchange", "p50 µs", "p99 µs"], &rows)
    )
}

fn cache_text(cache: &Cache) -> String {
    let mut rows = Vec::new();
    for size in &cache.sizes {
        for (name, hits) in size.rounds.keys().filter_map(|name| Some((name, size.median(name)?))) {
            rows.push(vec![
                name.to_string(),
                size.body_bytes.to_string(),
                thousands(hits.hits_per_s as u64),
                ms(hits.p50_us),
                ms(hits.p99_us),
                format!("{:.1}", hits.cpu_us_per_hit),
                hits.misses.to_string(),
                cache.memory.get(name).map_or_else(String::new, |memory| format!("{:.0}", memory.pss_mib)),
            ]);
        }
    }
    let head = ["cache hits", "bytes", "hits/s", "p50 ms", "p99 ms", "CPU µs", "misses", "PSS MiB"];
    format!(
        "HTTP/1.1 over TLS 1.3, {} clients in a closed loop, {} URLs of each size; medians of {} rounds\n\n{}",
        cache.clients,
        cache.urls,
        cache.sizes.first().map_or(0, |size| size.rounds.values().map(Vec::len).max().unwrap_or(0)),
        table(&head, &rows)
    )
}
