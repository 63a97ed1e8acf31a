//! `coda-sim`: see README.md.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use coda_protocol::planted::Bug;
use coda_sim::child::Order;
use coda_sim::plan::Plan;
use coda_sim::planted::hunt_all;
use coda_sim::shrink::shrink;
use coda_sim::suite::Suite;
use coda_sim::{log, run};

/// A planted bug that so many seeds do not find is a hole in the simulation.
const FOUND_WITHIN_SEEDS: u64 = 50;

#[derive(Parser)]
#[command(about = "A whole cluster on one thread, in virtual time, from one seed")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds, each in a process of its own
    Run(RunArgs),
    /// Run one seed in this process
    Seed(SeedArgs),
    /// Print what a seed means
    Plan { seed: u64 },
    /// Make a failing seed smaller
    Shrink(SeedArgs),
    /// Plant each bug in turn, and say how soon it is found
    Planted {
        /// These alone
        bugs: Vec<Bug>,
        #[arg(long, default_value_t = FOUND_WITHIN_SEEDS)]
        seeds_max: u64,
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Processes at once; as many as there are cores, unless told
        #[arg(long)]
        jobs: Option<usize>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// How many, from 1, or from..to, both included
    #[arg(long, default_value = "1..500", value_parser = range)]
    seeds: (u64, u64),
    /// Processes at once; as many as there are cores, unless told
    #[arg(long)]
    jobs: Option<usize>,
    /// Run each twice, and compare
    #[arg(long)]
    check_determinism: bool,
    #[arg(long)]
    planted: Option<Bug>,
    /// Stop after so many failures
    #[arg(long, default_value_t = 3)]
    failures_max: usize,
    /// Do not make failing plans smaller
    #[arg(long)]
    no_shrink: bool,
}

#[derive(Args)]
struct SeedArgs {
    seed: u64,
    /// These faults alone, by number
    #[arg(long, value_delimiter = ',', num_args = 0..)]
    only: Option<Vec<usize>>,
    /// Trouble ends after so long
    #[arg(long)]
    trouble_ms: Option<u64>,
    #[arg(long)]
    planted: Option<Bug>,
    /// Print what happens
    #[arg(long)]
    trace: bool,
    /// Print what programs log: error, warn, info, debug or trace
    #[arg(long)]
    log: Option<tracing::Level>,
    /// Print the verdict as one line of JSON, and nothing else
    #[arg(long)]
    json: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.trim_start_matches('=').parse::<u64>().map_err(|error| error.to_string());
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (1, number(text)?),
    };
    // A run of nothing would pass.
    if from <= to { Ok((from, to)) } else { Err("there is no seed in it: give how many, or from..to".to_owned()) }
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => many(&args),
        Command::Seed(args) => one(&args),
        Command::Plan { seed } => {
            print!("{}", Plan::of(seed));
            ExitCode::SUCCESS
        }
        Command::Shrink(args) => {
            let order = args.order();
            let problems = order.problems();
            if problems.is_empty() {
                println!("seed {} finds nothing", order.seed);
                return ExitCode::SUCCESS;
            }
            print_smaller(&order, problems);
            ExitCode::FAILURE
        }
        Command::Planted { bugs, seeds_max, first, jobs } => planted(&bugs, first, seeds_max, jobs),
    }
}

impl SeedArgs {
    fn order(&self) -> Order {
        Order { seed: self.seed, only: self.only.clone(), trouble_ms: self.trouble_ms, planted: self.planted }
    }

    fn plan(&self) -> Plan {
        plan_of(&self.order())
    }
}

fn plan_of(order: &Order) -> Plan {
    let mut plan = Plan::of(order.seed);
    if let Some(only) = &order.only {
        plan = plan.only(only);
    }
    if let Some(ms) = order.trouble_ms {
        plan.trouble = Duration::from_millis(ms);
        plan.faults.retain(|planned| planned.at < plan.trouble);
    }
    plan
}

fn one(args: &SeedArgs) -> ExitCode {
    if let Some(level) = args.log {
        log::print(level);
    }
    let plan = args.plan();
    if !args.json {
        print!("{plan}");
    }
    let verdict = run::run(plan, args.planted, args.trace);
    if args.json {
        println!("{}", serde_json::to_string(&verdict).expect("a verdict is plain data"));
    } else {
        verdict.problems.iter().for_each(|problem| println!("PROBLEM {problem}"));
        println!("{:?}", run::Verdict { problems: Vec::new(), ..verdict.clone() });
        println!("trace {:016x}", verdict.hash);
    }
    if verdict.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(args: &RunArgs) -> ExitCode {
    let suite = Suite {
        seeds: args.seeds.0..=args.seeds.1,
        jobs: args.jobs.unwrap_or_else(cores),
        planted: args.planted,
        check_determinism: args.check_determinism,
        failures_max: args.failures_max,
    };
    let outcome = suite.run();
    outcome.print();
    let holes = outcome.holes();
    holes.iter().for_each(|hole| println!("NOT COVERED: {hole}"));
    for (order, problems) in &outcome.failures {
        if args.no_shrink {
            println!("\nto see it: {}\n  {}", order.command(), problems.join("\n  "));
        } else {
            print_smaller(order, problems.clone());
        }
    }
    if outcome.failures.is_empty() && holes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_smaller(order: &Order, problems: Vec<String>) {
    let (order, problems) = shrink(order, problems);
    println!("\nto see it: {}", order.command());
    print!("{}", plan_of(&order));
    problems.iter().for_each(|problem| println!("  PROBLEM {problem}"));
}

fn planted(bugs: &[Bug], first: u64, seeds_max: u64, jobs: Option<usize>) -> ExitCode {
    let bugs = if bugs.is_empty() { Bug::ALL } else { bugs };
    let hunted = hunt_all(bugs, first, seeds_max, jobs.unwrap_or_else(cores));
    println!("| Bug | Seeds | Found by |\n|---|---|---|");
    for (bug, found) in &hunted {
        match found {
            Some(found) => println!("| `{bug}` | {} | `{}` |", found.seeds, found.property),
            None => println!("| `{bug}` | more than {seeds_max} | **not found** |"),
        }
    }
    if hunted.values().all(Option::is_some) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
