//! A disk of a node's own: a file system in a file, which can lose its power, stand still, run full, or be slow.
//!
//! A power cut is real. The file system is shut down without writing anything: what the node has not synced is not in the
//! file, and is gone when it is mounted again, as if the plug had been pulled.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::FallocateFlags;
use tokio::time::{Instant, sleep};

use crate::world::{ask, run};

/// Room for some minutes of load. The file takes only what is written.
const BYTES: u64 = 2 << 30;
/// Seconds until the file system writes by itself what nobody has synced. Long: a power cut shall find such.
const COMMIT_SECONDS: u32 = 300;
/// Processes that have been killed let go of their files within it.
const LETS_GO_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Written and not synced: whether it survives says whether the power was really cut.
const CANARY: &str = "not-synced";
const FILLER: &str = "filler";
/// The last of the room is taken in blocks.
const FILL_BYTES_MIN: u64 = 4 << 10;

#[derive(Clone, Debug)]
pub struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    /// A new one, in this folder, mounted as its folder `data`.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let disk = Self { image: folder.join("disk.img"), mounted: folder.join("data") };
        fs::create_dir_all(&disk.mounted)?;
        let image = File::create(&disk.image).with_context(|| format!("cannot make {}", disk.image.display()))?;
        image.set_len(BYTES)?;
        // Nothing is kept back for root, whom nodes run as.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", path(&disk.image)?])?;
        disk.mount()?;
        Ok(disk)
    }

    pub fn folder(&self) -> &Path {
        &self.mounted
    }

    /// The power is gone. Whoever still runs on it, gets errors.
    pub fn cut(&self) -> anyhow::Result<()> {
        let mut canary = File::create(self.mounted.join(CANARY))?;
        canary.write_all(CANARY.as_bytes())?;
        run("xfs_io", &["-x", "-c", "shutdown", path(&self.mounted)?])
    }

    /// The power is back, and nobody runs on it. Whether what was not synced is gone, as it has to be.
    pub async fn restore(&self) -> anyhow::Result<bool> {
        self.unmount().await?;
        self.mount()?;
        let canary = self.mounted.join(CANARY);
        let is_gone = fs::metadata(&canary).map_or(true, |file| file.len() == 0);
        drop(fs::remove_file(&canary));
        Ok(is_gone)
    }

    /// Takes all room that there is. How many bytes are left.
    pub fn fill(&self) -> anyhow::Result<u64> {
        let filler = File::create(self.mounted.join(FILLER))?;
        let (mut at, mut part) = (0, self.free()?.next_power_of_two());
        while part >= FILL_BYTES_MIN {
            match rustix::fs::fallocate(&filler, FallocateFlags::empty(), at, part) {
                Ok(()) => at += part,
                Err(rustix::io::Errno::NOSPC) => part /= 2,
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
        self.free()
    }

    pub fn empty(&self) -> anyhow::Result<()> {
        fs::remove_file(self.mounted.join(FILLER)).context("the disk was not filled")
    }

    pub fn free(&self) -> anyhow::Result<u64> {
        let space = rustix::fs::statvfs(&self.mounted)?;
        Ok(space.f_bavail * space.f_frsize)
    }

    /// A program that freezes it, says so, and thaws it when its input ends: also when this process is gone.
    pub fn freezer(&self) -> Command {
        let mut command = Command::new("sh");
        let script = "fsfreeze --freeze \"$0\" && echo frozen && { read -r _; fsfreeze --unfreeze \"$0\"; }";
        command.args(["-c", script]).arg(&self.mounted).process_group(0);
        command
    }

    /// The device below, as the kernel counts them: `7:3`.
    pub fn device(&self) -> anyhow::Result<String> {
        let device = fs::metadata(&self.mounted).context("the disk is not there")?;
        let device = std::os::unix::fs::MetadataExt::dev(&device);
        Ok(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// What was in it can be looked at by mounting the file again.
    pub async fn remove(&self) {
        drop(self.unmount().await);
        drop(fs::remove_file(&self.image));
    }

    fn mount(&self) -> anyhow::Result<()> {
        let options = format!("loop,noatime,commit={COMMIT_SECONDS}");
        run("mount", &["-o", &options, path(&self.image)?, path(&self.mounted)?])
    }

    async fn unmount(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LETS_GO_WITHIN;
        while let Err(error) = ask("umount", &[path(&self.mounted)?]) {
            if Instant::now() >= deadline {
                bail!("somebody holds the disk: {error:#}");
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not written in UTF-8", path.display()))
}
