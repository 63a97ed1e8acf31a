//! `coda-admin`: what an operator types.

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::args::Global;
use crate::entry::{self, Ended};
use crate::errors::Exit;
use crate::{cert, config, operate, queue};

/// Operate Coda: clusters and their nodes, queues, certificates and settings.
#[derive(Parser, Debug)]
#[command(
    name = "coda-admin",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  coda-admin cluster status --watch         nodes, groups, and what is to be moved
  coda-admin cluster health                 one line and an exit status, for scripts
  coda-admin node drain 3 --wait            empty a node before you work on it
  coda-admin node status 3                  one node: groups, disk, peers and totals
  coda-admin queue pause emails             hand out nothing more; what runs goes on
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
    /// Begin a cluster, let nodes in, and see how it is
    #[command(subcommand)]
    Cluster(operate::cluster::ClusterCommand),
    /// See nodes, empty and remove them
    #[command(subcommand, visible_alias = "nodes")]
    Node(operate::node::NodeCommand),
    /// Say which node leads a group
    #[command(subcommand, visible_alias = "leaders")]
    Leader(operate::leader::LeaderCommand),
    Rebalance(operate::rebalance::RebalanceArgs),
    /// See and hold queues
    #[command(subcommand, visible_alias = "queues")]
    Queue(queue::AdminCommand),
    /// Make and see certificates: of a cluster's authority, its nodes and its clients
    #[command(subcommand, visible_alias = "certs")]
    Cert(cert::CertCommand),
    /// See and change the cluster's settings, and check what a node is told by its file
    #[command(subcommand)]
    Config(config::ConfigCommand),
    SupportBundle(operate::bundle::BundleArgs),
    /// Print shell completions
    #[command(after_help = "\
Examples:
  coda-admin completions bash > ~/.local/share/bash-completion/completions/coda-admin")]
    Completions {
        shell: Shell,
    },
}

pub fn main() -> ! {
    let (cli, _) = entry::parse::<Cli>(Cli::command());
    entry::log_if_asked();
    entry::finish(dispatch(cli))
}

fn dispatch(cli: Cli) -> Ended {
    let Cli { global, command } = cli;
    match command {
        Command::Cluster(command) => entry::on_this_thread(operate::cluster::cluster(command, &global)),
        Command::Node(command) => entry::on_this_thread(operate::node::node(command, &global)),
        Command::Leader(command) => entry::on_this_thread(operate::leader::leader(command, &global)),
        Command::Rebalance(args) => entry::on_this_thread(operate::rebalance::rebalance(&args, &global)),
        Command::Queue(command) => entry::on_this_thread(queue::admin(command, &global)),
        Command::Cert(command) => cert::cert(command, &global),
        Command::Config(command) => config::config(command, &global),
        Command::SupportBundle(args) => entry::on_this_thread(operate::bundle::bundle(&args, &global)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "coda-admin", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
    }
}
