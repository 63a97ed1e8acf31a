//! `coda-jepsen`: real nodes as processes, under load from real clients and workers, while things go wrong on purpose; and
//! checks of what was promised, over everything that was seen.
//!
//! A *nemesis* does what goes wrong, a *workload* is what clients and workers do meanwhile, *probers* measure how long each
//! group answers no write. All chance comes from one seed. Read in this order: [`args`], [`stage`], one of [`nemeses`],
//! [`workloads`], [`checks`].
//!
//! Deliberately absent: anything behind the wire. What is known of nodes is what operators can ask, what their processes
//! say, and what clients see.

mod args;
mod moment;
mod verdict;

mod clock;
mod disk;
mod machine;
mod needs;
mod network;
mod process;
mod throttle;
mod world;

mod cluster;
mod operator;
mod witness;

mod findings;
mod history;
mod ledger;
mod operations;
mod recorder;

mod clients;
mod groups;
mod hands;
mod judge;
mod load;
mod nemeses;
mod probers;
mod python;
mod workloads;

mod checks;
mod html;
mod plot;
mod report;
mod stage;
mod suite;

mod controls;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, Verb};
use verdict::Verdict;

/// Somebody wants this to end.
async fn interrupted() {
    let listen = |kind| signal(kind).expect("signals can be listened to");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn main() -> ExitCode {
    let Args { verb } = Args::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,coda_jepsen=info".into());
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    // Before there are threads: a world is of one process, as it begins. Each run of a suite makes its own.
    let entered = if matches!(verb, Verb::Suite(_)) { Ok(()) } else { world::enter() };
    let done = entered.and_then(|()| act(verb));
    done.unwrap_or_else(|error| {
        eprintln!("coda-jepsen: {error:#}");
        Verdict::HarnessFailure.exit()
    })
}

#[tokio::main]
async fn act(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(args) => {
            // Whatever ends this, the stage is dropped, and with it all processes.
            let summary = tokio::select! {
                ran = Box::pin(stage::run(&args)) => ran?,
                () = interrupted() => anyhow::bail!("interrupted"),
            };
            println!("{summary}");
            Ok(summary.verdict.exit())
        }
        Verb::Suite(args) => Ok(suite::run(&args, interrupted()).await?.exit()),
        Verb::Control(args) => {
            let verdict = tokio::select! {
                ran = controls::run(&args) => ran?,
                () = interrupted() => anyhow::bail!("interrupted"),
            };
            Ok(verdict.exit())
        }
        Verb::List => {
            print!("{}", list());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What there is, and what this machine lacks for it.
fn list() -> String {
    let nemeses = nemeses::kinds().map(|kind| {
        let lacks = nemeses::lacks(kind, u64::MAX).map_or_else(String::new, |why| format!(" [not here: {why}]"));
        format!("  {:<20} {}{lacks}\n", kind.name, kind.about)
    });
    let workloads = workloads::kinds().map(|kind| format!("  {:<20} {}\n", kind.name, kind.about));
    format!("nemeses:\n{}workloads:\n{}", nemeses.collect::<String>(), workloads.collect::<String>())
}
