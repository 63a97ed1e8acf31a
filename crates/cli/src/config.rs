//! `coda-admin config`: what a node is told, before it is told, and what the whole cluster is set to.

use std::path::PathBuf;

use clap::Subcommand;

use crate::args::{Global, parse_setting};
use crate::entry::{self, Ended};
use crate::errors::Exit;
use crate::operate::setting;
use crate::output::{self, Screen};
use crate::settings::Sources;
use crate::show;

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check a node's configuration, and show what holds and where it comes from
    #[command(after_help = "\
Examples:
  coda-admin config check /etc/coda/node.toml
  coda-admin config check node.toml --set log.level=debug
  coda-admin config check node.toml -o json

This process's environment counts, as that of `coda serve` would. All mistakes are told at once, each with its line;
the exit status is then 2.")]
    Check {
        /// The file; without one, only the environment and --set
        file: Option<PathBuf>,
        /// Any setting of the file; may be given several times
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
        set: Vec<(String, String)>,
    },
    /// List everything that can be set, with bounds, defaults and the names in the environment
    #[command(after_help = "\
Examples:
  coda-admin config keys
  coda-admin config keys -o json")]
    Keys,
    Get(setting::GetArgs),
    Set(setting::SetArgs),
    Unset(setting::UnsetArgs),
    /// List the cluster's settings that differ from their defaults
    #[command(after_help = "\
Examples:
  coda-admin config diff
  coda-admin config diff -o json")]
    Diff,
}

pub fn config(command: ConfigCommand, global: &Global) -> Ended {
    let screen = Screen::new(global);
    let text = match command {
        ConfigCommand::Check { file, set } => {
            let mut sources = Sources::new(file.as_deref());
            sources.set(&set);
            show::config::effective(&sources.load()?, &screen)
        }
        ConfigCommand::Keys => show::config::keys(&screen),
        ConfigCommand::Get(args) => return entry::on_this_thread(setting::get(&args, global)),
        ConfigCommand::Set(args) => return entry::on_this_thread(setting::set(&args, global)),
        ConfigCommand::Unset(args) => return entry::on_this_thread(setting::unset(&args, global)),
        ConfigCommand::Diff => return entry::on_this_thread(setting::diff(global)),
    };
    output::print(&text)?;
    Ok(Exit::Ok)
}
