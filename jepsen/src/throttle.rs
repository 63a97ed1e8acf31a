//! How much a process may write per second: a control group of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tracing::info;

use crate::needs::THROTTLE;

const PREFIX: &str = "coda-jepsen-";
const BLOCK_BYTES: u64 = 16 << 10;
const BLOCKS: u64 = 16;

/// Over when it is dropped.
pub struct Throttle {
    folder: PathBuf,
    pid: u32,
}

impl Throttle {
    /// The process writes to the device at most so many bytes, in so many pieces, per second.
    pub fn begin(pid: u32, device: &str, bytes: u64, pieces: u64) -> anyhow::Result<Self> {
        sweep();
        let folder = Path::new(THROTTLE).join(format!("{PREFIX}{}-{pid}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let throttle = Self { folder, pid };
        throttle.write("blkio.throttle.write_bps_device", &format!("{device} {bytes}"))?;
        throttle.write("blkio.throttle.write_iops_device", &format!("{device} {pieces}"))?;
        throttle.write("cgroup.procs", &pid.to_string())?;
        Ok(throttle)
    }

    /// How long a process under the same limits takes to write [`BLOCKS`] blocks, and how long it should at least.
    pub fn measure(&self, into: &Path, bytes_per_second: u64) -> anyhow::Result<(Duration, Duration)> {
        let began = Instant::now();
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec dd if=/dev/zero of=\"$0\" bs={BLOCK_BYTES} count={BLOCKS} oflag=direct \
             status=none",
            self.folder.display()
        );
        let done = Command::new("sh").args(["-c", &script]).arg(into.join("throttled")).status()?;
        ensure!(done.success(), "the measurement of a slow disk has failed: {done}");
        drop(fs::remove_file(into.join("throttled")));
        let least = Duration::from_secs_f64((BLOCK_BYTES * BLOCKS) as f64 / bytes_per_second as f64);
        Ok((began.elapsed(), least))
    }

    fn write(&self, file: &str, what: &str) -> anyhow::Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, what).with_context(|| format!("cannot write `{what}` into {}", path.display()))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // The process may be gone; then the group is empty already.
        drop(fs::write(Path::new(THROTTLE).join("cgroup.procs"), self.pid.to_string()));
        drop(fs::remove_dir(&self.folder));
    }
}

/// Removes what killed suites have left behind.
fn sweep() {
    let folders = fs::read_dir(THROTTLE).into_iter().flatten().flatten();
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|name| name.split('-').next()) else { continue };
        if !Path::new("/proc").join(owner).exists() {
            info!(name, "removing the control group of a process that is gone");
            drop(fs::remove_dir(folder.path()));
        }
    }
}
