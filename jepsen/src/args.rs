//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::needs::Need;
use crate::{nemeses, workloads};

/// Real nodes under load while things go wrong, and checks of what they promised
#[derive(Parser, Debug)]
#[command(name = "coda-jepsen", version)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start a cluster, load it, let the nemeses loose one after the other, and check
    #[command(after_help = "\
Examples:
  coda-jepsen run --nemesis kill --rounds 50 --coda target/release/coda --out out/kill
  coda-jepsen run --nemesis power-all,partition-leader --time 2m --seed 7 --out out/power
  coda-jepsen run --nemesis lag --lag-commands 1000000 --rounds 1 --out out/lag

The folder gets report.html, history.jsonl, summary.json, summary.txt, and a folder for each node with its log. The exit
status is 0 for a valid run, 1 if a promise was broken, 2 if the suite itself could not go on, 3 if too little happened
to say anything, 4 if a checker came to no end, 77 if the machine lacks what all of the nemeses need.")]
    Run(RunArgs),
    /// Everything: runs with all workloads and all nemeses in turn, until the time is over, and one report
    #[command(after_help = "\
Examples:
  coda-jepsen suite --time 15m --out out/suite
  coda-jepsen suite --time 2h --seed 7 --python .venv/bin/python --out out/suite
  coda-jepsen suite --time 30m --resume --out out/suite     another half an hour of the same suite

Each fault strikes all workloads: a pair of a workload and a nemesis has run when the nemesis has struck while the
workload ran. The folder gets suite.txt, suite.json and report.html after each run, and a folder for each run.")]
    Suite(SuiteArgs),
    /// Show what the power cut of all nodes does to another system: etcd must lose nothing, NATS must lose messages
    Control(ControlArgs),
    /// List the nemeses and the workloads, and what this machine lacks for them
    List,
}

/// What a run and a suite of runs have in common.
#[derive(clap::Args, Debug, Clone, Serialize)]
pub struct Common {
    /// Where all chance comes from; drawn and printed if not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Nodes of a cluster at the beginning
    #[arg(long, default_value_t = 5)]
    pub nodes: u64,
    /// Operations that are begun per second, by all clients of a workload together; some workloads divide it
    #[arg(long, default_value_t = 15)]
    pub rate: u32,
    /// The program `coda`; beside this one, if not given
    #[arg(long, value_name = "PATH")]
    pub coda: Option<PathBuf>,
    /// The Python that has Coda's SDK, for workers in Python beside those in Rust; or `none`
    #[arg(long, default_value = "none", value_name = "PATH")]
    pub python: String,
    /// Where everything is kept; must not exist or be empty
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

#[derive(Parser, Debug, Clone, Serialize)]
pub struct RunArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
    /// What clients and workers do; several do it at once
    #[arg(long, value_delimiter = ',', default_value = "ledger",
          value_parser = PossibleValuesParser::new(workloads::names()))]
    pub workload: Vec<String>,
    /// What goes wrong; several go one after the other
    #[arg(long, value_delimiter = ',', default_value = "none", hide_possible_values = true,
          value_parser = PossibleValuesParser::new(nemeses::names()))]
    pub nemesis: Vec<String>,
    /// How long things go wrong; each nemesis strikes at least once
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub time: Duration,
    /// How often each nemesis strikes, however long that takes
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Data groups
    #[arg(long, default_value_t = 3)]
    pub groups: u16,
    #[arg(long, default_value_t = 3)]
    pub replication_factor: u8,
    /// Operations of a workload that have been begun and have not ended, at most; nothing is begun beyond
    #[arg(long, default_value_t = 500)]
    pub in_flight: usize,
    /// Clients of each workload
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
    /// Nodes as plain processes on the loopback device, even for root: no networks, no disks of their own
    #[arg(long)]
    pub plain: bool,
    /// Leave the disks of nodes behind even if all was well
    #[arg(long)]
    pub keep_disks: bool,
    /// Commands that pass while a node is away, for `lag`
    #[arg(long, default_value_t = 1_000_000)]
    pub lag_commands: u64,
    /// Seconds of load alone before the first fault
    #[arg(long, default_value_t = 3)]
    pub calm: u64,
    /// How much nodes log
    #[arg(long, default_value = "info,openraft=warn")]
    pub log_level: String,
}

#[derive(Parser, Debug, Clone)]
pub struct SuiteArgs {
    #[command(flatten)]
    pub common: Common,
    /// How long; the run that is under way then comes to its end
    #[arg(long, default_value = "15m", value_parser = parse_duration)]
    pub time: Duration,
    /// Go on where an earlier suite stopped, with its seed, in its folder; --time counts from now
    #[arg(long, conflicts_with = "seed")]
    pub resume: bool,
    /// Workloads, all at once; all there are, if none is given
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(workloads::names()))]
    pub workload: Vec<String>,
    /// Nemeses that take turns; all there are, if none is given
    #[arg(long, value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(nemeses::names()))]
    pub nemesis: Vec<String>,
}

#[derive(Parser, Debug, Clone)]
pub struct ControlArgs {
    #[arg(value_enum)]
    pub system: System,
    /// Where everything is kept; must not exist or be empty
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

/// A system that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// Syncs before it acknowledges: nothing may be lost
    Etcd,
    /// Acknowledges before it syncs: messages must be lost, or the power was not cut
    Nats,
}

impl RunArgs {
    /// Whether something may be done to clocks, so that nodes have to see others than the system's.
    pub fn wants_fake_clocks(&self) -> bool {
        let is_of_clocks = |kind: &&nemeses::Kind| kind.name == "all" || kind.needs.contains(&Need::FakeTime);
        let wanted = self.nemesis.iter().filter_map(|name| nemeses::find(name)).any(|kind| is_of_clocks(&kind));
        wanted && !self.plain && Need::FakeTime.missing(self.common.nodes).is_none()
    }

    /// The Python for a worker, if there is to be one.
    pub fn python(&self) -> Option<PathBuf> {
        (self.common.python != "none").then(|| PathBuf::from(&self.common.python))
    }
}

/// Reads `90s`, `15m`, `8h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("write a number and a unit, such as 90s, 15m or 8h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a whole number and a unit, such as 90s".to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        let seconds = |text| parse_duration(text).map(|time| time.as_secs()).ok();
        assert_eq!([seconds("90"), seconds("90s"), seconds("15m"), seconds("8h")], [90, 90, 900, 28_800].map(Some));
        assert_eq!([seconds(""), seconds("m"), seconds("5d"), seconds("99999999999999999999h")], [None; 4]);
    }

    #[test]
    fn a_suite_goes_on_with_the_seed_that_it_has() {
        let parse = |more: &[&str]| Args::try_parse_from([&["coda-jepsen", "suite", "--out", "x"], more].concat());
        assert!(parse(&["--resume"]).is_ok() && parse(&["--seed", "7"]).is_ok());
        assert!(parse(&["--resume", "--seed", "7"]).is_err());
    }

    #[test]
    fn the_command_line_hangs_together() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
