//! Everything: runs one after the other until the time is over, and one report of them all. Each run is a process and a
//! cluster of its own, with all workloads at once; nemeses take their turns, in an order that the seed says.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::args::SuiteArgs;
use crate::html::{document, escaped, verdict_class};
use crate::nemeses;
use crate::verdict::Verdict;
use crate::workloads;

/// Faults of one cluster: enough that one comes after the other, and few enough that a run is short.
const FAULTS_PER_RUN: usize = 5;
/// So many copies, in turn.
const COPIES: [u8; 2] = [3, 5];
/// A run of so many faults that has no end by then has none.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(15 * 60);
const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// A node has to be so far behind that it needs snapshots, which takes minutes: not in a suite shorter than this.
const LAG: &str = "lag";
const LAGS_FROM: Duration = Duration::from_secs(60 * 60);
/// One that draws any of its family is for people in a hurry.
const ANY_PARTITION: &str = "partition";

/// One run, as its summary says.
#[derive(Debug, Serialize)]
struct Run {
    name: String,
    verdict: Verdict,
    seed: u64,
    nemeses: Vec<String>,
    seconds: f64,
    /// Acknowledged.
    operations: u64,
    faults: Vec<FaultLine>,
    skipped: Vec<(String, String)>,
    found: Vec<String>,
}

/// What is read of a fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FaultLine {
    nemesis: String,
    bite: Option<String>,
    writes_back_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    seed: u64,
    seconds: f64,
    workloads: Vec<String>,
    operations: u64,
    /// Faults that did something, by nemesis: each struck all workloads.
    faults: BTreeMap<String, usize>,
    /// The longest, by nemesis.
    writes_back_ms: BTreeMap<String, f64>,
    skipped: BTreeMap<String, String>,
    runs: Vec<Run>,
}

/// Runs until the time is over. What came of it.
pub async fn run(args: &SuiteArgs, interrupted: impl Future<Output = ()>) -> anyhow::Result<Verdict> {
    let seed = args.seed.unwrap_or_else(|| rand::rng().random());
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    ensure!(fs::read_dir(&args.out)?.next().is_none(), "{} is not empty", args.out.display());
    info!(seed, time = ?args.time, out = %args.out.display(), "begins");
    let mut chance = StdRng::seed_from_u64(seed);
    let (began, mut runs, mut turns) = (Instant::now(), Vec::new(), VecDeque::new());
    tokio::pin!(interrupted);
    while began.elapsed() < args.time {
        while turns.len() < FAULTS_PER_RUN {
            let mut round = if args.nemesis.is_empty() { all_nemeses(args) } else { args.nemesis.clone() };
            round.shuffle(&mut chance);
            turns.extend(round);
        }
        let mut nemeses: Vec<String> = turns.drain(..FAULTS_PER_RUN).collect();
        nemeses.sort();
        nemeses.dedup();
        nemeses.shuffle(&mut chance);
        let copies = COPIES[runs.len() % COPIES.len()].min(u8::try_from(args.nodes).unwrap_or(u8::MAX));
        let Some(run) = one(args, runs.len() + 1, &nemeses, copies, chance.random(), interrupted.as_mut()).await?
        else {
            warn!("interrupted");
            break;
        };
        info!(run = run.name, verdict = %run.verdict, operations = run.operations, "over");
        runs.push(run);
        // What there is so far: the suite may be stopped at any time.
        write(args, &report(args, seed, began.elapsed(), &runs))?;
    }
    let report = report(args, seed, began.elapsed(), &runs);
    write(args, &report)?;
    println!("{}", text(&report));
    Ok(report.verdict)
}

fn all_nemeses(args: &SuiteArgs) -> Vec<String> {
    let all = nemeses::kinds().map(|kind| kind.name.to_owned()).filter(|name| name != ANY_PARTITION);
    all.filter(|name| name != LAG || args.time >= LAGS_FROM).collect()
}

/// What a suite of this length leaves out.
fn left_out(args: &SuiteArgs) -> Option<(String, String)> {
    let is_short = args.nemesis.is_empty() && args.time < LAGS_FROM;
    is_short
        .then(|| (LAG.to_owned(), format!("it takes minutes: it has its turns in suites of {LAGS_FROM:?} and longer")))
}

/// None if somebody wants this to end.
async fn one(
    args: &SuiteArgs,
    number: usize,
    nemeses: &[String],
    copies: u8,
    seed: u64,
    interrupted: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<Option<Run>> {
    let name = format!("run-{number:03}");
    let out = args.out.join(&name);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--rounds", "1", "--nemesis", &nemeses.join(","), "--workload", &names(args).join(",")]);
    command.args(["--seed", &seed.to_string(), "--nodes", &args.nodes.to_string()]);
    command.args(["--replication-factor", &copies.to_string()]);
    command.args(["--python", &args.python, "--rate", &args.rate.to_string()]).arg("--out").arg(&out);
    command.args(args.coda.iter().flat_map(|coda| [Path::new("--coda"), coda]));
    let said = File::create(args.out.join(format!("{name}.log")))?;
    command.stdout(said.try_clone()?).stderr(said).env("NO_COLOR", "1");
    info!(run = name, seed, nemeses = nemeses.join(","), "begins");
    let began = Instant::now();
    let mut child = command.kill_on_drop(true).spawn().context("a run cannot be started")?;
    let ended = tokio::select! {
        ended = timeout(RUN_ENDS_WITHIN, child.wait()) => ended,
        () = interrupted => {
            stop(&mut child).await;
            return Ok(None);
        }
    };
    let failure = match ended {
        Ok(status) => format!("it ended with {} and left no summary", status?),
        Err(_) => {
            stop(&mut child).await;
            format!("it has no end after {RUN_ENDS_WITHIN:?}")
        }
    };
    let seconds = began.elapsed().as_secs_f64().round();
    let run = Run {
        name,
        verdict: Verdict::HarnessFailure,
        seed,
        nemeses: nemeses.to_vec(),
        seconds,
        operations: 0,
        faults: Vec::new(),
        skipped: Vec::new(),
        found: Vec::new(),
    };
    let summary = fs::read(out.join("summary.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(Some(match summary {
        Some(summary) => read(run, &summary),
        None => Run { found: vec![failure], ..run },
    }))
}

/// Tells a run to stop, so that it can end what it has started.
async fn stop(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOPS_WITHIN, child.wait()).await.is_err() {
        warn!("a run does not stop");
    }
}

fn names(args: &SuiteArgs) -> Vec<String> {
    if args.workload.is_empty() {
        workloads::names().into_iter().map(str::to_owned).collect()
    } else {
        args.workload.clone()
    }
}

fn read(run: Run, summary: &Value) -> Run {
    let part = |name: &str| summary.get(name).cloned().unwrap_or_default();
    let operations = part("operations");
    let sums = operations.as_object().into_iter().flatten();
    let found = part("found");
    let found = found.as_object().into_iter().flatten().flat_map(|(sort, found)| {
        let first: Vec<String> = serde_json::from_value(found["first"].clone()).unwrap_or_default();
        first.into_iter().map(move |what| format!("{sort}: {what}"))
    });
    let failure = part("failure").as_str().map(|failure| format!("harness: {failure}"));
    Run {
        verdict: serde_json::from_value(part("verdict")).unwrap_or(Verdict::HarnessFailure),
        operations: sums.filter_map(|(_, sum)| sum["ok"].as_u64()).sum(),
        faults: serde_json::from_value(part("faults")).unwrap_or_default(),
        skipped: serde_json::from_value(part("skipped")).unwrap_or_default(),
        found: found.chain(failure).collect(),
        ..run
    }
}

fn report(args: &SuiteArgs, seed: u64, took: Duration, runs: &[Run]) -> Report {
    let mut faults: BTreeMap<String, usize> = BTreeMap::new();
    let mut writes_back_ms: BTreeMap<String, f64> = BTreeMap::new();
    for fault in runs.iter().flat_map(|run| &run.faults) {
        *faults.entry(fault.nemesis.clone()).or_default() += usize::from(fault.bite.is_some());
        let longest = writes_back_ms.entry(fault.nemesis.clone()).or_default();
        *longest = longest.max(fault.writes_back_ms.unwrap_or(f64::MAX));
    }
    let ran = runs.iter().map(|run| run.verdict).filter(|verdict| *verdict != Verdict::Skipped);
    Report {
        // Nothing that ran says nothing.
        verdict: ran.max().unwrap_or(Verdict::Skipped),
        seed,
        seconds: took.as_secs_f64().round(),
        workloads: names(args),
        operations: runs.iter().map(|run| run.operations).sum(),
        faults,
        writes_back_ms,
        skipped: runs.iter().flat_map(|run| run.skipped.iter().cloned()).chain(left_out(args)).collect(),
        runs: runs.iter().map(Run::again).collect(),
    }
}

impl Run {
    fn again(&self) -> Self {
        Self {
            name: self.name.clone(),
            nemeses: self.nemeses.clone(),
            faults: self.faults.clone(),
            skipped: self.skipped.clone(),
            found: self.found.clone(),
            ..*self
        }
    }
}

fn write(args: &SuiteArgs, report: &Report) -> anyhow::Result<()> {
    let file = |name: &str| -> PathBuf { args.out.join(name) };
    fs::write(file("suite.json"), serde_json::to_vec_pretty(report)?)?;
    fs::write(file("suite.txt"), text(report))?;
    fs::write(file("report.html"), page(report))?;
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "verdict: {}\nseed {}, {} s, {} runs, {} operations acknowledged, workloads {}\n",
        report.verdict,
        report.seed,
        report.seconds,
        report.runs.len(),
        report.operations,
        report.workloads.join(",")
    );
    for (nemesis, count) in &report.faults {
        let back = report.writes_back_ms.get(nemesis).copied().unwrap_or_default();
        let _ = writeln!(text, "{nemesis}: {count} faults, writes back after {back:.0} ms at most");
    }
    for (nemesis, why) in &report.skipped {
        let _ = writeln!(text, "skipped: {nemesis}, because {why}");
    }
    for run in &report.runs {
        let _ = writeln!(text, "{}: {}, seed {}, {}", run.name, run.verdict, run.seed, run.nemeses.join(","));
        for what in &run.found {
            let _ = writeln!(text, "  {what}");
        }
    }
    text
}

fn page(report: &Report) -> String {
    let verdict =
        |verdict: Verdict| format!("<span class=\"{}\">{verdict}</span>", verdict_class(verdict == Verdict::Valid));
    let mut body = format!(
        "<h1>coda-jepsen: {}</h1><p>seed {}, {} s, {} runs, {} operations acknowledged</p>\n",
        verdict(report.verdict),
        report.seed,
        report.seconds,
        report.runs.len(),
        report.operations
    );
    body += "<h2>Faults, by nemesis and workload</h2><table><tr><th>nemesis";
    for workload in &report.workloads {
        let _ = write!(body, "<th>{workload}");
    }
    body += "<th>writes back, at most";
    for (nemesis, count) in &report.faults {
        let back = report.writes_back_ms.get(nemesis).copied().unwrap_or_default();
        let _ = write!(body, "<tr><td>{nemesis}");
        body += &format!("<td class=\"n\">{count}").repeat(report.workloads.len());
        let _ = write!(body, "<td class=\"n\">{back:.0} ms");
    }
    for (nemesis, why) in &report.skipped {
        let _ =
            write!(body, "<tr><td>{nemesis}<td colspan=\"{}\">skipped: {}", report.workloads.len() + 1, escaped(why));
    }
    body += "</table><h2>Runs</h2><table><tr><th>run<th>verdict<th>seed<th>nemeses<th>s<th>operations<th>found";
    for run in &report.runs {
        let name = &run.name;
        let found: Vec<String> = run.found.iter().map(|what| escaped(what)).collect();
        let _ = write!(
            body,
            "<tr><td><a href=\"{name}/report.html\">{name}</a><td>{}<td class=\"n\">{}<td>{}<td class=\"n\">{}\
             <td class=\"n\">{}<td>{}",
            verdict(run.verdict),
            run.seed,
            run.nemeses.join(", "),
            run.seconds,
            run.operations,
            found.join("<br>")
        );
    }
    body += "</table>\n";
    document("coda-jepsen", &body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn empty() -> Run {
        Run {
            name: "run-001".into(),
            verdict: Verdict::HarnessFailure,
            seed: 1,
            nemeses: vec!["kill".into()],
            seconds: 1.0,
            operations: 0,
            faults: Vec::new(),
            skipped: Vec::new(),
            found: Vec::new(),
        }
    }

    #[test]
    fn a_summary_is_read_as_it_was_written() {
        let summary = json!({
            "verdict": "invalid", "failure": null,
            "operations": { "start": { "ok": 3 }, "read": { "ok": 4 } },
            "faults": [{ "nemesis": "kill", "nodes": [1], "bite": "gone", "writes_back_ms": 7.5 }],
            "skipped": [["disk-full", "it takes root"]],
            "found": { "violation": { "count": 1, "first": ["lost <b>"] } },
        });
        let run = read(empty(), &summary);
        assert_eq!((run.verdict, run.operations), (Verdict::Invalid, 7));
        assert_eq!((run.faults[0].writes_back_ms, run.found[0].as_str()), (Some(7.5), "violation: lost <b>"));
        let args = <crate::args::Args as clap::Parser>::parse_from(["coda-jepsen", "suite", "--out", "x"]);
        let crate::args::Verb::Suite(args) = args.verb else { panic!("not a suite") };
        let report = report(&args, 1, Duration::from_secs(9), &[run, read(empty(), &json!({}))]);
        assert_eq!((report.verdict, report.faults["kill"]), (Verdict::Invalid, 1));
        assert!(page(&report).contains("lost &lt;b&gt;") && text(&report).contains("skipped: disk-full"));
    }
}
