//! One process of a worker: its own process group, killed with us.
//!
//! The kernel sends the parent-death signal when the *thread* that started the child ends. `coda run` therefore lives on
//! a current-thread runtime: children are started by the main thread, which ends with the process.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};

use coda_protocol::ids::SessionId;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, kill_process_group};
use tokio::process::{Child as Process, Command};

use crate::args::Global;

/// What is started, and with which environment beside our own.
pub struct Recipe {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Recipe {
    /// `command` is not empty: clap requires it. What says how to connect is meant for the workers too.
    pub fn new(command: Vec<OsString>, global: &Global) -> Self {
        let mut command = command.into_iter();
        let address = global.address.as_ref().map(|address| ("CODA_ADDRESS", address.into()));
        let file = |variable, file: &Option<OsString>| file.clone().map(|file| (variable, file));
        let files = [file("CODA_CA", &global.ca), file("CODA_CERT", &global.cert), file("CODA_KEY", &global.key)];
        Self {
            program: command.next().unwrap_or_default(),
            arguments: command.collect(),
            environment: address.into_iter().chain(files.into_iter().flatten()).collect(),
        }
    }

    pub fn program(&self) -> String {
        self.program.display().to_string()
    }

    pub fn start(&self, index: usize, session: SessionId) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("CODA_SESSION", session.to_string())
            .env("CODA_WORKER_INDEX", index.to_string())
            // A background process group that reads from the terminal would be stopped by it.
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        die_with_us(&mut command);
        let process = command.spawn()?;
        let pid = process.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Child { process, pid })
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "nothing safe runs between fork and exec")]
fn die_with_us(command: &mut Command) {
    let us = getpid();
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed. It makes two
    // system calls and returns errors that own nothing: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before the signal was set.
            if getppid() == Some(us) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
}

/// Elsewhere the kernel has no such signal; workers still end with every way out that runs our code.
#[cfg(not(target_os = "linux"))]
fn die_with_us(_command: &mut Command) {}

/// A running process and whatever it starts within its group.
pub struct Child {
    process: Process,
    pid: Pid,
}

impl Child {
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for the process; what it left behind in its group is killed.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.process.wait().await;
        self.kill();
        status
    }

    /// Asks the process itself to finish; its own children are its own business.
    pub fn terminate(&self) {
        let _ = kill_process(self.pid, Signal::TERM);
    }

    /// Ends the whole group. An error means that nobody is left.
    pub fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}
