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

mod cluster;
mod network;
mod operator;
mod process;
mod witness;

mod findings;
mod history;
mod ledger;

mod groups;
mod nemeses;
mod probers;
mod workloads;

mod checks;
mod report;
mod stage;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, Verb};

/// Somebody wants this to end.
async fn interrupted() {
    let listen = |kind| signal(kind).expect("signals can be listened to");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { verb: Verb::Run(args) } = Args::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,coda_jepsen=info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Whatever ends this, the stage is dropped, and with it all processes and networks.
    let ran = tokio::select! {
        ran = Box::pin(stage::run(&args)) => ran,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match ran {
        Ok(summary) => {
            println!("{summary}");
            if summary.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("coda-jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}
