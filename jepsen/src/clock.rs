//! A time of day that only one node sees: a library between the node and the system, which reads how far off it is from
//! a file. The monotonic clock stays as it is, as it would on a real machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::needs::fake_time;

#[derive(Clone, Debug)]
pub struct FakeClock {
    library: &'static str,
    file: PathBuf,
}

impl FakeClock {
    /// For a node with this folder; right for now.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let library = fake_time().context("the library libfaketime is not installed")?;
        let clock = Self { library, file: folder.join("clock") };
        clock.set(0.0)?;
        Ok(clock)
    }

    /// So many seconds off, at once.
    pub fn set(&self, seconds: f64) -> anyhow::Result<()> {
        // Read again with each question for the time: it must be whole at any moment.
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, format!("{seconds:+.3}\n"))?;
        fs::rename(&fresh, &self.file).context("a clock cannot be set")
    }

    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            // Without it a program of timers stands still at its first one.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
        ]
    }

    /// How far off the clock is that a process sees with it, in seconds.
    pub fn seen(&self) -> anyhow::Result<f64> {
        let now = |command: &mut Command| -> anyhow::Result<f64> {
            let said = command.arg("+%s.%N").output()?.stdout;
            Ok(String::from_utf8_lossy(&said).trim().parse()?)
        };
        let fake = now(Command::new("date").envs(self.environment()))?;
        Ok(fake - now(&mut Command::new("date"))?)
    }

    /// Whether a process has the library between itself and the system.
    pub fn is_worn_by(&self, pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(self.library))
    }
}
