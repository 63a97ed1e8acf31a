//! Everything: runs one after the other until the time is over, and one report of them all. Each run is a process and a
//! cluster of its own, with all workloads at once; nemeses take their turns, in an order that the seed says.

mod report;
mod turns;

use std::fs::{self, File};
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::args::SuiteArgs;
use crate::nemeses;
use crate::verdict::Verdict;
use crate::workloads;
use report::{Report, Run, Wanted};
use turns::{Turn, turn};

/// A run of so many faults that has no end by then has none.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(15 * 60);
const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// A node has to be so far behind that it needs snapshots, which takes minutes: not in a suite shorter than this.
const LAG: &str = "lag";
const LAGS_FROM: Duration = Duration::from_secs(60 * 60);
/// One that draws any of its family is for people in a hurry.
const ANY_PARTITION: &str = "partition";

/// Runs until the time is over. What came of it.
pub async fn run(args: &SuiteArgs, interrupted: impl Future<Output = ()>) -> anyhow::Result<Verdict> {
    let out = &args.common.out;
    let (seed, mut runs) = if args.resume { resumed(out)? } else { fresh(args)? };
    let before = runs.len();
    let wanted = Wanted { seed, workloads: names(args), nemeses: nemeses(args, &runs), skipped: left_out(args, &runs) };
    info!(seed, before, time = ?args.time, out = %out.display(), "begins");
    let began = Instant::now();
    tokio::pin!(interrupted);
    while began.elapsed() < args.time {
        let number = runs.len() + 1;
        // What was suspended is run again.
        let turns = runs.iter().filter(|run| run.verdict != Verdict::Spoiled).count();
        let turn = turn(seed, turns + 1, &wanted.nemeses, args.common.nodes);
        let Some(run) = one(args, number, &turn, interrupted.as_mut()).await? else {
            warn!("interrupted");
            break;
        };
        info!(run = run.name, verdict = %run.verdict, operations = run.operations.attempted(), "over");
        runs.push(run);
        // What there is so far: the suite may be stopped at any time.
        Report::new(&wanted, &runs).write(out)?;
    }
    let report = Report::new(&wanted, &runs);
    report.write(out)?;
    println!("{report}");
    Ok(report.verdict)
}

fn fresh(args: &SuiteArgs) -> anyhow::Result<(u64, Vec<Run>)> {
    let out = &args.common.out;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    ensure!(fs::read_dir(out)?.next().is_none(), "{} is not empty", out.display());
    Ok((args.common.seed.unwrap_or_else(|| rand::rng().random()), Vec::new()))
}

/// What an earlier suite has left.
fn resumed(out: &Path) -> anyhow::Result<(u64, Vec<Run>)> {
    let (seed, runs) = Report::read(out).context("there is no suite to go on with")?;
    // A run that was interrupted has left its folder and no more.
    let name = name(runs.len() + 1);
    for left in [out.join(&name), out.join(format!("{name}.log"))] {
        let removed = if left.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) };
        if left.exists() {
            removed.with_context(|| format!("cannot remove {}", left.display()))?;
        }
    }
    Ok((seed, runs))
}

fn name(number: usize) -> String {
    format!("run-{number:03}")
}

fn names(args: &SuiteArgs) -> Vec<String> {
    if args.workload.is_empty() {
        workloads::names().into_iter().map(str::to_owned).collect()
    } else {
        args.workload.clone()
    }
}

fn nemeses(args: &SuiteArgs, runs: &[Run]) -> Vec<String> {
    if !args.nemesis.is_empty() {
        return args.nemesis.clone();
    }
    let all = nemeses::kinds().map(|kind| kind.name.to_owned()).filter(|name| name != ANY_PARTITION);
    all.filter(|name| name != LAG || is_long(args, runs)).collect()
}

/// Whether there is time for what takes minutes.
fn is_long(args: &SuiteArgs, runs: &[Run]) -> bool {
    let before = Duration::from_secs_f64(runs.iter().map(|run| run.seconds).sum());
    before + args.time >= LAGS_FROM
}

/// What a suite of this length leaves out.
fn left_out(args: &SuiteArgs, runs: &[Run]) -> Option<(String, String)> {
    let is_out = args.nemesis.is_empty() && !is_long(args, runs);
    is_out
        .then(|| (LAG.to_owned(), format!("it takes minutes: it has its turns in suites of {LAGS_FROM:?} and longer")))
}

/// None if somebody wants this to end.
async fn one(
    args: &SuiteArgs,
    number: usize,
    turn: &Turn,
    interrupted: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<Option<Run>> {
    let (common, name) = (&args.common, name(number));
    let out = common.out.join(&name);
    let nemeses = turn.nemeses.join(",");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--rounds", "1", "--nemesis", &nemeses, "--workload", &names(args).join(",")]);
    command.args(["--seed", &turn.seed.to_string(), "--nodes", &common.nodes.to_string()]);
    command.args(["--replication-factor", &turn.copies.to_string()]);
    command.args(["--python", &common.python, "--rate", &common.rate.to_string()]).arg("--out").arg(&out);
    command.args(common.coda.iter().flat_map(|coda| [Path::new("--coda"), coda]));
    let said = File::create(common.out.join(format!("{name}.log")))?;
    command.stdout(said.try_clone()?).stderr(said).env("NO_COLOR", "1");
    info!(run = name, seed = turn.seed, nemeses, "begins");
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
    let run = Run::begun(name, turn, began.elapsed());
    let summary =
        fs::read(out.join("summary.json")).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    Ok(Some(match summary {
        Some(summary) => run.read(&summary),
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
