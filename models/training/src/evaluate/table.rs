//! The report as tables for people.

use std::fmt::Write as _;

use super::{CtrReport, RankingReport, Report};

/// The whole report, with the protocol above every table.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    if report.quick {
        out.push_str(
            "--quick: hardly any training; these figures show that everything works, and nothing else\n\n",
        );
    }
    let _ = writeln!(out, "data {}, models run by {}\n", report.data, report.engine);
    ranking(&mut out, "RETRIEVAL, full ranking", &report.retrieval.full);
    match &report.retrieval.sampled99 {
        Some(sampled) => ranking(&mut out, "RETRIEVAL, 99 sampled negatives", sampled),
        None => {
            out.push_str("RETRIEVAL, 99 sampled negatives: no visitor has 20 interactions, as it demands\n\n")
        }
    }
    match &report.ctr {
        Some(ctr) => clicks(&mut out, ctr),
        None => out.push_str("RANKER: the data is not enough for one\n"),
    }
    let _ = writeln!(out, "took {:.0} s", report.seconds);
    out
}

fn ranking(out: &mut String, title: &str, report: &RankingReport) {
    let _ = writeln!(out, "{title} ({} visitors, {} items)", report.visitors, report.items);
    wrap(out, &report.protocol);
    let _ = writeln!(
        out,
        "  {:<44} {:>15} {:>15}   ours minus this one, by visitor\n  {:<44} {:>15} {:>15} {:>18} {:>18}",
        "", "", "", "model", "HR@10", "NDCG@10", "HR@10", "NDCG@10"
    );
    for b in &report.baselines {
        let _ = writeln!(
            out,
            "  {:<44} {:>15} {:>15} {:>18} {:>18}",
            b.name,
            pair(b.hr_at_10, b.hr_at_10_se),
            pair(b.ndcg_at_10, b.ndcg_at_10_se),
            format!("{:+.4} ± {:.4}", b.hr_at_10_gain.mean, b.hr_at_10_gain.se),
            format!("{:+.4} ± {:.4}", b.ndcg_at_10_gain.mean, b.ndcg_at_10_gain.se),
        );
    }
    let _ = writeln!(
        out,
        "  {:<44} {:>15} {:>15}\n  (± standard error; {} epochs, chosen at validation NDCG@10 {:.4})\n",
        report.model,
        pair(report.hr_at_10, report.hr_at_10_se),
        pair(report.ndcg_at_10, report.ndcg_at_10_se),
        report.epochs,
        report.validation_ndcg_at_10,
    );
}

fn clicks(out: &mut String, report: &CtrReport) {
    let [train, valid, test] = report.rows;
    let [a, b, c] = report.liked.map(|share| format!("{:.1}%", share * 100.0));
    let _ = writeln!(out, "RANKER (rows {train} / {valid} / {test}, liked {a} / {b} / {c})");
    wrap(out, &report.protocol);
    let _ = writeln!(
        out,
        "  {:<48} {:>15} {:>15} {:>10}   AUC gain, log-loss gain",
        "model", "AUC", "log-loss", "pred/act"
    );
    for b in &report.baselines {
        let _ = writeln!(
            out,
            "  {:<48} {:>15} {:>15} {:>10.3}   {:+.4} ± {:.4}, {:+.4} ± {:.4}; by row {:+.4} ± {:.4}",
            b.name,
            format!("{:.4}", b.auc),
            format!("{:.4}", b.log_loss),
            b.calibration,
            b.auc_gain.mean,
            b.auc_gain.se,
            b.log_loss_gain.mean,
            b.log_loss_gain.se,
            b.log_loss_gain_by_row.mean,
            b.log_loss_gain_by_row.se,
        );
    }
    let _ = writeln!(
        out,
        "  {:<48} {:>15} {:>15} {:>10.3}",
        report.model,
        pair(report.auc, report.auc_sd),
        pair(report.log_loss, report.log_loss_sd),
        report.calibration,
    );
    let _ =
        writeln!(out, "  (± standard deviation over {} seeds; by row: standard error)\n", report.seeds.len());
}

fn pair(mean: f64, error: f64) -> String {
    format!("{mean:.4} ± {error:.4}")
}

/// Columns of a wrapped line.
const WIDTH: usize = 118;

fn wrap(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column == 0 || column + word.len() + 1 > WIDTH {
            out.push_str(if column == 0 { "  " } else { "\n  " });
            column = 2;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.chars().count();
    }
    out.push('\n');
}
