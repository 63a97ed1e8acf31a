//! A child process with its output in files. Killed when it is dropped, whatever else goes wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    out: PathBuf,
    /// What earlier starts have written there.
    out_before: u64,
}

impl Process {
    /// Starts it; what it says is added to `NAME.out` and `NAME.err` in the folder.
    pub fn spawn(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let [out, err] = ["out", "err"].map(|kind| folder.join(format!("{name}.{kind}")));
        let append = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        let out_before = fs::metadata(&out).map_or(0, |file| file.len());
        command.stdin(Stdio::null()).stdout(append(&out)?).stderr(append(&err)?);
        // Ctrl-C is for the suite, which then ends what it has started.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("it has no process id")?;
        Ok(Self { name: name.to_owned(), child, pid, out, out_before })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// The states of its threads, as the kernel writes them: `R` runs, `S` sleeps, `T` is stopped, `D` waits for a disk.
    pub fn states(&self) -> String {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
        // The name before it stands in parentheses and may contain anything.
        stats.filter_map(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next()).collect()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// Waits for a line on its standard output that begins so.
    pub async fn until_it_says(&mut self, words: &str, patience: Duration) -> anyhow::Result<()> {
        let says = async {
            loop {
                let said = fs::read(&self.out).unwrap_or_default();
                let said = String::from_utf8_lossy(said.get(self.out_before as usize..).unwrap_or_default());
                if said.lines().any(|line| line.starts_with(words)) && said.ends_with('\n') {
                    return Ok::<(), anyhow::Error>(());
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} has ended instead of saying `{words}`: {status}", self.name);
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        let said = timeout(patience, says).await;
        said.with_context(|| format!("{} has not said `{words}` within {patience:?}", self.name))?
    }

    /// Waits for its end.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let ended = timeout(patience, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} does not end within {patience:?}", self.name))??)
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Whether it has ended by itself.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}
