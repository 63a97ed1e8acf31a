//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

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
  coda-jepsen run --nemesis kill,partition,pause --rounds 5 --seed 7 --out out/all
  coda-jepsen run --nemesis lag --lag-commands 1000000 --rounds 1 --out out/lag

The folder gets history.jsonl, summary.json, summary.txt, and a folder for each node with its log. The exit status is 0
if nothing was violated, 1 if something was, 2 if the suite itself could not go on.")]
    Run(RunArgs),
}

#[derive(Parser, Debug, Clone, Serialize)]
pub struct RunArgs {
    /// What clients and workers do
    #[arg(long, value_enum, default_value = "ledger")]
    pub workload: WorkloadName,
    /// What goes wrong; several go one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none")]
    pub nemesis: Vec<NemesisName>,
    /// How often each nemesis does it
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Where all chance comes from; drawn and printed if not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Nodes of the cluster at the beginning
    #[arg(long, default_value_t = 3)]
    pub nodes: u64,
    /// Data groups
    #[arg(long, default_value_t = 3)]
    pub groups: u16,
    #[arg(long, default_value_t = 3)]
    pub replication_factor: u8,
    /// The program `coda`; beside this one, if not given
    #[arg(long, value_name = "PATH")]
    pub coda: Option<PathBuf>,
    /// The Python that has Coda's SDK, for a worker in Python beside the one in Rust; or `none`
    #[arg(long, default_value = "none", value_name = "PATH")]
    pub python: String,
    /// Where everything is kept; must not exist or be empty
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Runs that are started per second, by all clients together
    #[arg(long, default_value_t = 30)]
    pub rate: u32,
    /// Runs that have been started and have not ended, at most; nothing is started beyond
    #[arg(long, default_value_t = 500)]
    pub in_flight: usize,
    /// Clients that start them
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
    /// Each node in a network namespace of its own even if no nemesis needs it; needs root
    #[arg(long)]
    pub namespaces: bool,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadName {
    /// Runs of several steps, each of which writes down what it does
    Ledger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NemesisName {
    /// Nothing
    None,
    /// kill -9 of the node that leads most, and its restart
    Kill,
    /// Clean restart of each node in turn
    Rolling,
    /// The node that leads most is cut off from the others; needs root
    Partition,
    /// Two nodes join, two leave, and one is replaced
    Grow,
    /// A node is away while very much happens
    Lag,
    /// A node stands still (SIGSTOP) and goes on
    Pause,
}

impl RunArgs {
    pub fn needs_namespaces(&self) -> bool {
        self.namespaces || self.nemesis.contains(&NemesisName::Partition)
    }

    /// The Python for a worker, if there is to be one.
    pub fn python(&self) -> Option<PathBuf> {
        (self.python != "none").then(|| PathBuf::from(&self.python))
    }
}
