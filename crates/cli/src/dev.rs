//! `coda dev`: one node for one developer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::args::parse_duration;
use crate::entry::{self, Ended};
use crate::errors::{CliError, Exit};
use crate::node::NodeConfig;
use crate::output;
use crate::service::{self, Stage};
use crate::signals::{Reloads, Signals};

/// The folder that clients look for from theirs upward.
const DATA_DIR_DEFAULT: &str = ".coda";

/// Start a node on this machine, for development
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda dev                              data in ./.coda; programs below this folder find the node by themselves
  coda dev --ephemeral --port 0         nothing kept, any free port: for tests
  coda dev --data-dir /tmp/a --port 4801

The first line on standard output is `coda is ready on HOST:PORT`, printed once the node answers.
Ctrl-C or SIGTERM stops it cleanly; a second one at once (exit status 130 or 143).
Starting a second node on the same folder is refused with exit status 4.")]
pub struct DevArgs {
    /// Where everything is kept
    #[arg(long, value_name = "FOLDER", default_value = DATA_DIR_DEFAULT)]
    data_dir: PathBuf,
    /// Keep nothing: data lies in a temporary folder that is removed at the end
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// Where clients and workers connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4747")]
    listen: SocketAddr,
    /// Short for --listen 127.0.0.1:PORT; 0 takes a free port
    #[arg(long, conflicts_with = "listen")]
    port: Option<u16>,
    /// What the node logs to standard error: off, error, warn, info, debug, trace, or a filter like coda_broker=debug
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
    /// Added to every sync of the log, for benchmarks on disks that hide what a sync costs
    #[arg(long, hide = true, default_value = "0ms", value_parser = parse_duration)]
    sync_delay: Duration,
}

impl DevArgs {
    fn listen(&self) -> SocketAddr {
        self.port.map_or(self.listen, |port| SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

/// `--address` says where clients find a node; whoever gives it to `coda dev` means `--listen`.
pub fn address_is_for_clients() -> CliError {
    CliError::new(Exit::Usage, "CODA4310", "--address is where clients connect; a node has no use for it")
        .help("say where the node listens with --listen 127.0.0.1:4747 or --port 4747")
}

pub fn dev(args: &DevArgs) -> Ended {
    entry::log(&args.log_level);
    let cannot = |what: &str, error: std::io::Error| CliError::local_io(format!("cannot {what}: {error}"));
    // Removed when this function is left, on every way out.
    let temporary = args
        .ephemeral
        .then(|| tempfile::Builder::new().prefix("coda-dev-").tempdir())
        .transpose()
        .map_err(|error| cannot("make a temporary folder", error))?;
    let folder = temporary.as_ref().map_or(args.data_dir.as_path(), |folder| folder.path());
    let data_dir = std::path::absolute(folder).map_err(|error| cannot("find the current folder", error))?;
    service::run(serve(args, data_dir))
}

async fn serve(args: &DevArgs, data_dir: PathBuf) -> Ended {
    let signals = Signals::new()?;
    let listen = args.listen();
    if !listen.ip().is_loopback() {
        eprintln!("warning: everyone who reaches {listen} can use this node");
    }
    let config = NodeConfig { sync_delay: args.sync_delay.into(), ..NodeConfig::alone(data_dir.clone(), listen) };
    let tell = |stage: Stage<'_>| {
        match stage {
            Stage::Starting => eprintln!("coda is still starting: it reads what {} holds", data_dir.display()),
            Stage::Ready(node) => {
                output::print(&greeting(node.address(), &data_dir, node.ca_path(), args.ephemeral))?;
            }
            Stage::Stopping => eprintln!("coda is stopping; once more to stop at once"),
            Stage::Stopped => eprintln!("coda has stopped"),
        }
        Ok(())
    };
    service::keep(config, signals, Reloads::none(), tell).await
}

/// The first line is for programs, the rest for the person who typed the command.
fn greeting(address: SocketAddr, data_dir: &Path, ca: &Path, ephemeral: bool) -> String {
    let found = !ephemeral && data_dir.file_name().is_some_and(|name| name == DATA_DIR_DEFAULT);
    let kept = if ephemeral { "removed when this ends" } else { "kept; remove the folder to start afresh" };
    let below = match data_dir.parent() {
        Some(project) if found => format!("Programs in {} find this node by themselves. Elsewhere:", project.display()),
        Some(_) | None => "Programs find this node by:".to_owned(),
    };
    format!(
        "coda is ready on {address}

  data      {data_dir} ({kept})
  worker    coda-worker yourpackage.module
  four      coda run -n 4 -- coda-worker yourpackage.module

{below}
  export CODA_ADDRESS={address}
  export CODA_CA={ca}

Try next, in another terminal:
  coda workflow start your_workflow --input '{{\"project_id\": 1}}' --wait
  coda queue describe default
  coda-admin node status

Ctrl-C stops it.
",
        data_dir = data_dir.display(),
        ca = ca.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greet(folder: &str, ephemeral: bool) -> String {
        let address = SocketAddr::from(([127, 0, 0, 1], 4747));
        greeting(address, Path::new(folder), &Path::new(folder).join("certs/ca.pem"), ephemeral)
    }

    #[test]
    fn the_first_line_is_what_programs_wait_for() {
        assert_eq!(greet("/shop/.coda", false).lines().next(), Some("coda is ready on 127.0.0.1:4747"));
    }

    #[test]
    fn only_a_folder_that_clients_look_for_is_found_without_being_told() {
        assert!(greet("/shop/.coda", false).contains("Programs in /shop find this node by themselves."));
        assert!(greet("/data/a", false).contains("Programs find this node by:"));
        assert!(greet("/tmp/x/.coda", true).contains("Programs find this node by:"));
        assert!(greet("/data/a", false).contains("export CODA_CA=/data/a/certs/ca.pem"));
    }
}
