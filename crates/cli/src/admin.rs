//! `coda-admin`: what an operator types.

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::args::Global;
use crate::entry::{self, Ended};
use crate::errors::Exit;
use crate::{admin_node, cert, config, queue};

/// Operate Coda: see what nodes and queues do, and hold queues while you work on what they feed.
#[derive(Parser, Debug)]
#[command(
    name = "coda-admin",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  coda-admin node status                    version, groups and totals of the node that answers
  coda-admin queue pause emails             hand out nothing more; what runs goes on
  coda-admin queue list -o json             for scripts
  coda-admin cert ca --out ca --cluster-name shop
  coda-admin config check node.toml         what a node is told, and why

Exit statuses are those of `coda`: see `coda help exit-codes`."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// See and hold queues
    #[command(subcommand, visible_alias = "queues")]
    Queue(queue::AdminCommand),
    /// See what a node does
    #[command(subcommand, visible_alias = "nodes")]
    Node(admin_node::NodeCommand),
    /// Make and see certificates: of a cluster's authority, its nodes and its clients
    #[command(subcommand, visible_alias = "certs")]
    Cert(cert::CertCommand),
    /// See what a node is told
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print shell completions
    #[command(after_help = "\
Examples:
  coda-admin completions bash > ~/.local/share/bash-completion/completions/coda-admin")]
    Completions { shell: Shell },
}

pub fn main() -> ! {
    let (cli, _) = entry::parse::<Cli>(Cli::command());
    entry::log_if_asked();
    entry::finish(dispatch(cli))
}

fn dispatch(cli: Cli) -> Ended {
    let Cli { global, command } = cli;
    match command {
        Command::Queue(command) => entry::on_this_thread(queue::admin(command, &global)),
        Command::Node(command) => entry::on_this_thread(admin_node::node(command, &global)),
        Command::Cert(command) => cert::cert(command, &global),
        Command::Config(command) => config::config(command, &global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "coda-admin", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
    }
}
