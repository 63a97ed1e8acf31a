//! A time of day that only one node sees: a library between the node and the system, which reads how far off it is from
//! a file. The monotonic clock stays as it is, as it would on a real machine.
//!
//! The usual library for this, libfaketime, and the allocator that nodes use wait for each other for ever.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::world::run;

const SOURCE: &str = include_str!("../clock/skew.c");
pub const COMPILER: &str = "cc";

/// Builds the library, into this folder.
pub fn build(folder: &Path) -> anyhow::Result<PathBuf> {
    let (source, library) = (folder.join("skew.c"), folder.join("skew.so"));
    fs::write(&source, SOURCE)?;
    let name = |path: &Path| path.to_str().map(str::to_owned).context("a path is not written in UTF-8");
    run(COMPILER, &["-O2", "-shared", "-fPIC", "-o", &name(&library)?, &name(&source)?])?;
    Ok(library)
}

#[derive(Clone, Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// For a node with this folder; right for now.
    pub fn make(library: &Path, folder: &Path) -> anyhow::Result<Self> {
        let clock = Self { library: library.to_owned(), file: folder.join("clock") };
        File::create(&clock.file)?.set_len(8)?;
        Ok(clock)
    }

    /// So many seconds off, at once.
    pub fn set(&self, seconds: f64) -> anyhow::Result<()> {
        let nanoseconds = (seconds * 1e9) as i64;
        let file = File::options().write(true).open(&self.file)?;
        // The node has it mapped.
        file.write_all_at(&nanoseconds.to_ne_bytes(), 0).context("a clock cannot be set")
    }

    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("CODA_JEPSEN_CLOCK", self.file.display().to_string())]
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

    /// Whether a process has the library between itself and the system, and the file mapped.
    pub fn is_worn_by(&self, pid: u32) -> bool {
        let names = |path: &Path| path.to_str().map(str::to_owned).unwrap_or_default();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains(&names(&self.library)) && maps.contains(&names(&self.file))
    }
}
