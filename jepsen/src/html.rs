//! The report of a run, for a browser: what was done to the cluster and when, and what clients saw of it. One file that
//! needs no other.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use crate::moment::Moment;
use crate::operations::{Ending, Sum};
use crate::plot::{Axis, Band, Panel};
use crate::report::Parts;

/// As many points as a screen shows.
const POINTS: u64 = 240;
const POINT_US_MIN: u64 = 250_000;
/// A group without an acknowledged write for so long could not be written to.
const UNAVAILABLE_MS: f64 = 250.0;
const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1c2330}\
    h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
    td,th{padding:.25rem .6rem;border-bottom:1px solid #e3e6ea;text-align:left;vertical-align:top}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}.valid{color:#12733c}.bad{color:#b3261e}\
    svg{width:100%;height:auto;display:block}code{font-size:.9em}";

/// A page of this suite.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\n{body}\
         </html>\n"
    )
}

pub fn page(parts: &Parts, sums: &BTreeMap<&'static str, Sum>) -> String {
    let args = &parts.args;
    let title = format!("{} under {}", args.workload.join(", "), args.nemesis.join(", "));
    let class = verdict_class(parts.verdict == crate::verdict::Verdict::Valid);
    let mut body = format!(
        "<h1>{} <span class=\"{class}\">{}</span></h1>\n<p>seed {}, {} nodes, {} data groups of {} copies, {} s</p>\n",
        escaped(&title),
        parts.verdict,
        args.common.seed.unwrap_or_default(),
        args.common.nodes,
        args.groups,
        args.replication_factor,
        parts.took.as_secs()
    );
    for (sort, found) in &parts.found {
        let _ = write!(body, "<h2 class=\"bad\">{sort:?}: {}</h2><ul>", found.count);
        for what in &found.first {
            let _ = write!(body, "<li>{}</li>", escaped(what));
        }
        body += "</ul>\n";
    }
    body += "<h2>Time</h2>\n";
    body += &timeline(parts);
    body += &faults(parts);
    body += &operations(sums);
    let figures = parts.loads.iter().map(|(name, figures)| format!("{name}: {figures}"));
    let measured = parts.measured.iter().map(|(what, value)| format!("{what}: {value}"));
    let network = parts.network.iter().map(|count| format!("frames: {count:?}"));
    let skipped = parts.skipped.iter().map(|(nemesis, why)| format!("skipped: {nemesis}, because {why}"));
    body += "<h2>Figures</h2><ul>";
    for line in skipped.chain(figures).chain(measured).chain(network) {
        let _ = write!(body, "<li><code>{}</code></li>", escaped(&line));
    }
    body += "</ul>\n";
    document(&escaped(&title), &body)
}

pub fn verdict_class(is_valid: bool) -> &'static str {
    if is_valid { "valid" } else { "bad" }
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Operations, latency and availability over time, with the faults behind them.
fn timeline(parts: &Parts) -> String {
    let (began, length) = (parts.began, parts.took);
    let seconds = |moment: Moment| moment.since(began).as_secs_f64();
    let until = length.as_secs_f64();
    let bands: Vec<Band> = parts
        .faults
        .iter()
        .map(|fault| Band {
            from: seconds(fault.began),
            to: fault.healed.map_or(until, seconds),
            until_well: fault.over.map_or(until, seconds),
            name: fault.nemesis.clone(),
            about: format!("{} {:?}, {}", fault.nemesis, fault.nodes, fault.more),
        })
        .collect();
    let point_us = (u64::try_from(length.as_micros()).unwrap_or(u64::MAX) / POINTS).max(POINT_US_MIN);
    let bucket = |moment: Moment| moment.0.saturating_sub(began.0) / point_us;
    let at = |bucket: u64| (bucket as f64 + 0.5) * point_us as f64 / 1e6;
    let per_second = 1e6 / point_us as f64;

    let mut ended: BTreeMap<Ending, BTreeMap<u64, f64>> = BTreeMap::new();
    let mut took: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for operation in &parts.operations {
        *ended.entry(operation.ending).or_default().entry(bucket(operation.ended)).or_default() += per_second;
    }
    for answer in parts.probes.all().values().flatten() {
        let ms = answer.answered.since(answer.asked).as_secs_f64() * 1e3;
        took.entry(bucket(answer.answered)).or_default().push(ms);
    }
    let last = bucket(Moment(began.0 + u64::try_from(length.as_micros()).unwrap_or(u64::MAX)));
    let mut rates = Panel::new("operations of clients per second", until, Axis::Linear, &bands);
    for (ending, colour) in [(Ending::Ok, "#1f77b4"), (Ending::Failed, "#d6861c"), (Ending::Maybe, "#b3261e")] {
        let Some(counts) = ended.get(&ending) else { continue };
        let points = (0..=last).map(|point| (at(point), counts.get(&point).copied().unwrap_or_default())).collect();
        rates.line(&format!("{ending:?}").to_lowercase(), colour, points);
    }
    let mut latency = Panel::new("a write of a prober, in ms", until, Axis::Logarithmic, &bands);
    let percentile = |sorted: &[f64], part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize];
    for took in took.values_mut() {
        took.sort_by(f64::total_cmp);
    }
    for (name, part, colour) in [("median", 0.5, "#1f77b4"), ("99 %", 0.99, "#d6861c"), ("longest", 1.0, "#b3261e")] {
        latency.line(name, colour, took.iter().map(|(point, took)| (at(*point), percentile(took, part))).collect());
    }
    let mut available = Panel::new("groups that could be written to", until, Axis::Rows, &bands);
    for (group, answers) in parts.probes.all() {
        let gaps = answers.windows(2).map(|pair| (pair[0].answered, pair[1].answered));
        let gaps = gaps.filter(|(from, to)| to.since(*from).as_secs_f64() * 1e3 >= UNAVAILABLE_MS);
        available.row(&format!("group {group}"), gaps.map(|(from, to)| (seconds(from), seconds(to))).collect());
    }
    [rates.svg(), latency.svg(), available.svg()].concat()
}

fn faults(parts: &Parts) -> String {
    let mut text =
        "<h2>Faults</h2><table><tr><th>at<th>nemesis<th>nodes<th>what<th>what shows it<th>writes back<th>well"
            .to_owned();
    for fault in &parts.faults {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
        let well = fault.over.map(|over| over.since(fault.healed.unwrap_or(fault.began)).as_secs_f64() * 1e3);
        let cells: [&dyn Display; 7] = [
            &format!("{:.1} s", fault.began.since(parts.began).as_secs_f64()),
            &fault.nemesis,
            &format!("{:?}", fault.nodes),
            &escaped(&fault.more),
            &escaped(fault.bite.as_deref().unwrap_or("nothing")),
            &ms(fault.writes_back_ms),
            &ms(well),
        ];
        text += "<tr>";
        for cell in cells {
            let _ = write!(text, "<td>{cell}");
        }
    }
    text + "</table>\n"
}

fn operations(sums: &BTreeMap<&'static str, Sum>) -> String {
    let mut text =
        "<h2>Operations</h2><table><tr><th><th>ok<th>failed<th>maybe<th>p50 ms<th>p99 ms<th>max ms".to_owned();
    for (what, sum) in sums {
        let _ = write!(text, "<tr><td>{}", escaped(what));
        let counts = [sum.ok, sum.failed, sum.maybe].map(|count| count.to_string());
        let times = [sum.ms.p50, sum.ms.p99, sum.ms.max].map(|ms| format!("{ms:.1}"));
        for cell in counts.into_iter().chain(times) {
            let _ = write!(text, "<td class=\"n\">{cell}");
        }
    }
    text + "</table>\n"
}
