//! What both programs do around a command: parse, colours, runtime, and the way out.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;

use clap::{ArgMatches, ColorChoice, Command, FromArgMatches};

use crate::errors::{CliError, Exit};

/// What a command gives back: its own exit status, or an error to print.
pub type Ended = Result<Exit, CliError>;

/// Parses the command line, or ends the process the way clap does: help with 0, usage errors with 2.
pub fn parse<T: FromArgMatches>(mut command: Command) -> (T, ArgMatches) {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Help and usage errors are printed before there is a parsed flag to ask. What follows `--` is not ours.
    if arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--no-color") {
        command = command.color(ColorChoice::Never);
        owo_colors::set_override(false);
    }
    let matches = command.get_matches_from(arguments);
    let parsed = T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    (parsed, matches)
}

/// Ends the program, without the exit handlers of C++. A node that was told to end at once still has RocksDB's threads,
/// and those abort the process when its static objects are destroyed under them.
pub fn finish(ended: Ended) -> ! {
    let exit = ended.unwrap_or_else(|error| {
        error.print();
        error.exit
    });
    // What cannot be written any more was told when it was printed.
    let _ = std::io::stdout().flush();
    signal_hook::low_level::exit(exit.status().into())
}

/// Runs a command on this thread alone. Enough for one connection, and what `coda run` needs: see `run::child`.
pub fn on_this_thread(command: impl Future<Output = Ended>) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::local_io(format!("cannot start a runtime: {error}")))?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    ended
}

/// Logs of the libraries, to standard error, for whoever looks for a fault: `CODA_LOG=debug coda …`.
pub fn log_if_asked() {
    if let Ok(filter) = std::env::var("CODA_LOG") {
        log(&filter);
    }
}

pub fn log(filter: &str) {
    log_as(filter, false);
}

/// For people, or one JSON document per line for programs.
pub fn log_as(filter: &str, is_json: bool) {
    use std::io::IsTerminal;
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    if is_json {
        log.json().init();
    } else {
        log.init();
    }
}
