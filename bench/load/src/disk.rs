//! What the disk can do at most: append and sync, one after the other.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

const MEASURED_FOR: Duration = Duration::from_millis(400);

/// Appends of `bytes` each followed by an fdatasync, per second, in a file of its own in `folder`.
pub fn syncs_per_s(folder: &Path, bytes: usize) -> anyhow::Result<f64> {
    let file = tempfile::Builder::new().prefix("coda-bench-").tempfile_in(folder);
    let file = file.with_context(|| format!("cannot write to {}", folder.display()))?;
    let mut file = OpenOptions::new().append(true).open(file.path()).map(|append| (append, file))?;
    let block = vec![0xC0; bytes.max(1)];
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < MEASURED_FOR {
        file.0.write_all(&block)?;
        rustix::fs::fdatasync(&file.0)?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}
