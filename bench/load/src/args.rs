//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measure a Coda node with the Rust client and worker
#[derive(Parser, Debug)]
#[command(
    name = "coda-bench",
    version,
    after_help = "\
Workloads:
  W1           independent no-op tasks of about 200 bytes; each client submits one and waits for its result
  W1-backlog   all are submitted first, then all results fetched; needs --n (default 20000)
  W2           runs of 10 spawned steps, one run at a time          W2-inline   the same with inline steps
  W3           runs of 2 spawned steps, 64 at once                  W3-inline   the same with inline steps
  W6           one task now and then on an idle node: submit to first line of its body

Examples:
  coda-bench                                    every workload, a fresh node for each
  coda-bench W1 --concurrency 1024 --duration 30s
  coda-bench --waiting 100000,400000,800000     memory of the node at each depth of its queue
  coda-bench W1 W3 --sync-delay 2ms -o json     on a disk whose sync takes 2 ms longer
  coda-bench W1 --address 127.0.0.1:4747 --ca .coda/certs/ca.pem --node-pid 1234"
)]
pub struct Args {
    /// What to measure; everything unless told otherwise
    #[arg(value_enum, ignore_case = true, value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    /// Pieces of work in flight [default: 256 for W1, 1 for W2 and W6, 64 for W3]
    #[arg(short, long)]
    concurrency: Option<usize>,
    /// Stop after so many tasks or runs
    #[arg(short, long)]
    n: Option<u64>,
    /// Stop after this long [default: 10s without --n]
    #[arg(short, long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Do the same for so long first, uncounted
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Measure each workload so often, each time on a fresh node
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Connections that share the load
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub clients: u16,
    /// Workers in processes of their own instead of one in this process
    #[arg(long, default_value_t = 0)]
    pub worker_processes: u16,
    /// Slots of each kind per worker
    #[arg(long, default_value_t = 512)]
    pub slots: u32,

    /// Measure instead what waiting work costs the node: its memory at each of these numbers of tasks that nobody runs
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', conflicts_with = "workloads")]
    pub waiting: Vec<u64>,

    /// Measure a node that runs already instead of starting one
    #[arg(long, requires = "ca")]
    pub address: Option<String>,
    /// Its CA certificates
    #[arg(long, requires = "address")]
    pub ca: Option<PathBuf>,
    /// Its process, to read its CPU, memory and bytes written from /proc
    #[arg(long, requires = "address")]
    pub node_pid: Option<u32>,
    /// The program that is the node [default: `coda` beside this program]
    #[arg(long, env = "CODA_BIN")]
    pub coda_bin: Option<PathBuf>,
    /// Where the node's data lies, on the disk to be measured [default: the temporary folder]
    #[arg(long, value_name = "FOLDER")]
    pub data_on: Option<PathBuf>,
    /// Added to every sync of the node's log, for disks that hide what a sync costs
    #[arg(long, value_name = "DURATION")]
    pub sync_delay: Option<String>,

    /// How figures are printed
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,

    /// This is a worker process; where the node is comes from the environment
    #[arg(long, hide = true)]
    pub as_worker: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: one line per run, stable names
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    #[value(name = "W1")]
    Tasks,
    #[value(name = "W1-backlog")]
    Backlog,
    #[value(name = "W2")]
    Sequential,
    #[value(name = "W2-inline")]
    SequentialInline,
    #[value(name = "W3")]
    Concurrent,
    #[value(name = "W3-inline")]
    ConcurrentInline,
    #[value(name = "W6")]
    Idle,
}

/// When a measurement is over: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    pub n: Option<u64>,
    pub duration: Option<Duration>,
}

impl Args {
    pub fn workloads(&self) -> Vec<Workload> {
        if self.workloads.is_empty() { Workload::value_variants().to_vec() } else { self.workloads.clone() }
    }

    pub fn concurrency(&self, workload: Workload) -> usize {
        let default = match workload {
            Workload::Tasks | Workload::Backlog => 256,
            Workload::Concurrent | Workload::ConcurrentInline => 64,
            Workload::Sequential | Workload::SequentialInline | Workload::Idle => 1,
        };
        self.concurrency.unwrap_or(default).max(1)
    }

    pub fn until(&self, workload: Workload) -> Until {
        let n = self.n.or((workload == Workload::Backlog).then_some(20_000));
        let duration = self.duration.or(n.is_none().then_some(Duration::from_secs(10)));
        Until { n, duration }
    }
}

impl Workload {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Durable pieces of work in one operation, counted as the peers' harness counts them.
    pub fn tasks(self) -> u64 {
        match self {
            Self::Tasks | Self::Backlog | Self::Idle => 1,
            Self::Sequential | Self::SequentialInline => 10,
            Self::Concurrent | Self::ConcurrentInline => 2,
        }
    }
}

/// Reads `250ms`, `30s`, `5m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "write a whole number and a unit, such as 30s".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err("write a number and a unit, such as 250ms, 30s or 5m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let args = Args::parse_from(["coda-bench", "w1", "W3-inline", "--n", "5"]);
        assert_eq!(args.workloads(), [Workload::Tasks, Workload::ConcurrentInline]);
        assert_eq!((args.until(Workload::Tasks).n, args.until(Workload::Tasks).duration), (Some(5), None));
        assert_eq!(Args::parse_from(["coda-bench"]).workloads().len(), 7);
    }
}
