//! The signals that ask a long-running command to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::{CliError, Exit};

/// SIGINT, SIGTERM and SIGHUP as they come.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` under `nohup`, which asks to outlive the terminal.
    hangup: Option<Signal>,
}

impl Signals {
    pub fn new() -> Result<Self, CliError> {
        let hangup = if is_ignored(SignalKind::hangup()) { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())?, hangup })
    }

    /// For a service, which has no terminal: SIGHUP asks it to read its files again.
    pub fn of_a_service() -> Result<(Self, Reloads), CliError> {
        let reloads = Reloads(Some(listen(SignalKind::hangup())?));
        let signals = Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: None,
        };
        Ok((signals, reloads))
    }

    /// The next one, as the exit status of a program that it ends.
    pub async fn next(&mut self) -> Exit {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = hangup => SignalKind::hangup(),
        };
        Exit::Signal(kind.as_raw_value() as u8)
    }
}

/// SIGHUP, where it means to read files again.
pub struct Reloads(Option<Signal>);

impl Reloads {
    /// Nobody asks.
    pub fn none() -> Self {
        Self(None)
    }

    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|error| CliError::local_io(format!("cannot listen for signals: {error}")))
}

/// Whether whoever started this process had the signal ignored. Only Linux tells without `unsafe`.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}
