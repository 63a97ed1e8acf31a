//! The load generator: how much work a node does in a second, how long each piece takes, and what it costs the node.
//!
//! `node` starts a fresh one, `functions` is what its worker executes, `workloads` asks for work and `drive` repeats
//! that, `meter` reads what the kernel and the node counted meanwhile, `disk` what the disk could have done, `report`
//! prints; `waiting` measures memory instead of time. Deliberately absent: anything behind the wire, an open loop (load
//! does not depend on answers there), and comparisons with other systems, which are `bench/run.py`'s.

mod args;
mod disk;
mod drive;
mod functions;
mod meter;
mod node;
mod report;
mod run;
mod waiting;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

use args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match (args.as_worker, args.waiting.as_slice()) {
        (true, _) => functions::serve(&args).await,
        (false, []) => run::all(&args).await,
        (false, depths) => waiting::all(&args, depths).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
