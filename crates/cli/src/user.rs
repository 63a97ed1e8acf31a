//! `coda`: what a developer types. The command tree and nothing else; each group has its own file.

use clap::parser::ValueSource;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::args::Global;
use crate::entry::{self, Ended};
use crate::errors::{CliError, Exit};
use crate::{dev, queue, run, serve, topics, work};

/// Task queue and durable workflows: start a node, run workers, start work and see what it does.
#[derive(Parser, Debug)]
#[command(
    name = "coda",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  coda dev                                              a node on this machine, data in ./.coda
  coda serve --config node.toml                         a node as a service
  coda run -n 4 -- coda-worker shop.workflows           four supervised workers
  coda workflow start process_order --input '{\"order\": 7}' --wait
  coda queue describe default                           what waits, and why

`coda help TOPIC` explains more; topics: connecting, input, exit-codes."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Dev(dev::DevArgs),
    Serve(serve::ServeArgs),
    Run(run::RunArgs),
    /// Start workflows and see what their runs do
    #[command(subcommand, visible_alias = "workflows")]
    Workflow(work::WorkflowCommand),
    /// Submit single tasks and see what they do
    #[command(subcommand, visible_alias = "tasks")]
    Task(work::TaskCommand),
    /// See what is queued, who serves it, and why the rest waits
    #[command(subcommand, visible_alias = "queues")]
    Queue(queue::QueueCommand),
    /// Print shell completions
    #[command(after_help = "\
Examples:
  coda completions bash > ~/.local/share/bash-completion/completions/coda
  coda completions zsh > \"${fpath[1]}/_coda\"
  coda completions fish > ~/.config/fish/completions/coda.fish")]
    Completions {
        shell: Shell,
    },
    /// Explain a command or a topic
    Help {
        /// A command such as `workflow start`, or a topic
        topic: Vec<String>,
    },
}

pub fn main() -> ! {
    let (cli, matches) = entry::parse::<Cli>(Cli::command());
    if is_node(&cli.command) && matches.value_source("address") == Some(ValueSource::CommandLine) {
        entry::finish(Err(dev::address_is_for_clients()));
    }
    entry::finish(dispatch(cli))
}

/// Nodes listen, and log as they are told by their own options.
fn is_node(command: &Command) -> bool {
    matches!(command, Command::Dev(_) | Command::Serve(_))
}

fn dispatch(cli: Cli) -> Ended {
    let Cli { global, command } = cli;
    if !is_node(&command) {
        entry::log_if_asked();
    }
    match command {
        Command::Dev(args) => dev::dev(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Run(args) => entry::on_this_thread(run::run(args, global)),
        Command::Workflow(command) => entry::on_this_thread(work::workflow(command, &global)),
        Command::Task(command) => entry::on_this_thread(work::task(command, &global)),
        Command::Queue(command) => entry::on_this_thread(queue::queue(command, &global)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "coda", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
        Command::Help { topic } => help(&topic),
    }
}

fn help(topic: &[String]) -> Ended {
    if let [word] = topic
        && let Some(text) = topics::find(word)
    {
        crate::output::print(text)?;
        return Ok(Exit::Ok);
    }
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in topic {
        command = command.find_subcommand_mut(word).ok_or_else(|| CliError::no_such_topic(&topic.join(" ")))?;
    }
    command.print_long_help().map_err(|error| CliError::local_io(format!("cannot print help: {error}")))?;
    Ok(Exit::Ok)
}
