//! `coda run`: keeps N copies of a worker command alive. Any command; nothing of Python or of the broker is known here.
//!
//! ```text
//!  Running ──first signal, or a worker beyond its restarts──▶ Draining ──second signal, or the drain timeout──▶ Killing
//! ```
//! The phases only go forward; each worker follows them by itself. Read `restarts` (pure), `child`, `worker`,
//! `supervisor`, and `sessions`, which tells the cluster about the dead.

mod child;
mod restarts;
mod sessions;
mod supervisor;
mod worker;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::args::{Global, parse_duration};
use crate::entry::Ended;
use crate::signals::Signals;
use child::Recipe;
use restarts::Limits;
use sessions::DeadSessions;
use supervisor::{Plan, supervise};

/// More workers than this on one machine is a slip of the finger.
const WORKERS_MAX: i64 = 1_024;

/// Run and supervise N copies of a worker command
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda run -n 4 -- coda-worker shop.workflows
  coda run -n 2 --drain-timeout 5m -- ./target/release/worker --slots 8

A worker that ends is started again, after 100 ms at first and up to 10 s if it keeps ending. When one ends more often
than --max-restarts within --restart-window, all are stopped and the exit status is 1: something above should know.

The first SIGTERM, SIGINT or SIGHUP is passed on as SIGTERM, so that workers finish what they have begun. A second one,
or the end of --drain-timeout, kills them. When a worker dies, the cluster is told at once, so that its work moves on.

Each worker has CODA_SESSION (a fresh identity) and CODA_WORKER_INDEX (0 to N-1) in its environment, its own process
group, and no standard input. SIGTERM goes to the command itself, SIGKILL to its whole group: a shell script should
`exec` its worker. On Linux the command never outlives `coda run`, even if that is killed.

Exit status: 0 stopped as asked; 1 a worker kept ending, or had to be killed when the drain timed out; 2 the command
cannot be started; 130, 143 or 129 ended at once by a second SIGINT, SIGTERM or SIGHUP.")]
pub struct RunArgs {
    /// How many copies
    #[arg(short = 'n', long = "workers", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    workers: u32,
    /// How often one worker may be started again within --restart-window
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_restarts: usize,
    /// The time over which restarts are counted
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    restart_window: Duration,
    /// How long workers may take to finish before they are killed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// The worker command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub async fn run(args: RunArgs, global: Global) -> Ended {
    let mut signals = Signals::new()?;
    let plan = Plan {
        workers: args.workers as usize,
        limits: Limits { max: args.max_restarts, window: args.restart_window },
        drain_timeout: args.drain_timeout,
        recipe: Arc::new(Recipe::new(args.command, &global)),
    };
    supervise(plan, &mut signals, DeadSessions::start(global)).await
}

/// Everything the supervisor says: standard output belongs to the workers.
fn say(text: std::fmt::Arguments<'_>) {
    eprintln!("coda run: {text}");
}
