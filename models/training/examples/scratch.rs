//! scratch
use training::*;
use training::sasrec::{Config, train::{train, Stop}};
fn env<T: std::str::FromStr>(n: &str, d: T) -> T { std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d) }
fn main() {
    let data = dataset::open("ml-100k", &dataset::ReadOptions::default()).unwrap();
    let d = Config::default();
    let config = Config { len: env("LEN", d.len), dim: env("DIM", d.dim), hidden: env("HID", d.hidden), heads: env("HEADS", d.heads), blocks: env("BLOCKS", d.blocks),
        dropout: env("DROP", d.dropout), rate: env("RATE", d.rate), decay: env("DECAY", d.decay), batch: env("BATCH", d.batch), epochs_max: env("EPOCHS", d.epochs_max), patience: env("PAT", d.patience), ..d };
    let vocab = split::Vocabulary::new(&data, 1, 20000);
    let s = split::leave_one_out(&data, &vocab);
    for seed in 0..env("SEEDS", 1u64) {
        let p = if env("QUIET", 0) == 1 { progress::Progress::quiet() } else { progress::Progress::new("sasrec") };
        let t0 = std::time::Instant::now();
        let t = train(&s, &config, Stop::Validation, seed, &p).unwrap();
        let test = |net: &sasrec::Net| {
            let mut h = vec![]; let mut n = vec![];
            for case in &s.cases { let Some(target) = case.test else { continue }; let known = case.known();
                let sc = net.scores(&[sasrec::latest(&known, config.len)]).unwrap();
                let r = metrics::rank(&sc, target, (0..s.items as u32).filter(|i| !known.contains(i)));
                h.push(metrics::hit(r, 10)); n.push(metrics::ndcg(r, 10)); }
            (metrics::estimate(&h).mean, metrics::estimate(&n).mean)
        };
        println!("seed {seed} epochs {} valid {:.4} test {:.4?} {:.0}s", t.epochs, t.ndcg_at_10.unwrap(), test(&t.net), t0.elapsed().as_secs_f64());
        if env("REFIT", 0) == 1 {
            let t = train(&s, &config, Stop::Epochs(t.epochs), seed, &p).unwrap();
            println!("  refit test {:.4?}", test(&t.net));
        }
    }
}
