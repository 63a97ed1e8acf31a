//! The node under test: started fresh, or found running.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use coda_client::ConnectOptions;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::args::Args;

const STARTS_WITHIN: Duration = Duration::from_secs(20);
const STOPS_WITHIN: Duration = Duration::from_secs(10);

pub struct Node {
    pub address: String,
    pub ca: PathBuf,
    pub pid: Option<u32>,
    /// Where the disk is measured.
    pub disk: Option<PathBuf>,
    started: Option<Started>,
}

struct Started {
    child: Child,
    /// What it says to people; shown only when something is wrong.
    said: NamedTempFile,
}

impl Node {
    pub async fn get(args: &Args) -> anyhow::Result<Self> {
        match (&args.address, &args.ca) {
            (Some(address), Some(ca)) => Ok(Self {
                address: address.clone(),
                ca: ca.clone(),
                pid: args.node_pid,
                disk: args.data_on.clone(),
                started: None,
            }),
            (None, _) | (_, None) => Self::start(args).await,
        }
    }

    async fn start(args: &Args) -> anyhow::Result<Self> {
        let program = match &args.coda_bin {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("coda"),
        };
        let disk = args.data_on.clone().unwrap_or_else(std::env::temp_dir);
        let mut command = Command::new(&program);
        command.args(["dev", "--ephemeral", "--port", "0"]);
        if let Some(delay) = &args.sync_delay {
            command.args(["--sync-delay", delay]);
        }
        // `--ephemeral` puts its data into the temporary folder.
        command.env("TMPDIR", &disk).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let said = NamedTempFile::new()?;
        command.stderr(said.reopen()?);
        let why = || format!("cannot start {}: build it with `make build`, or say --coda-bin", program.display());
        let mut child = command.spawn().with_context(why)?;
        let ready = tokio::time::timeout(STARTS_WITHIN, greeting(&mut child)).await;
        let pid = child.id();
        let started = Started { child, said };
        let (address, ca) = started.explain(ready.context("the node did not say that it is ready").flatten())?;
        Ok(Self { address, ca, pid, disk: Some(disk), started: Some(started) })
    }

    pub fn options(&self) -> anyhow::Result<ConnectOptions> {
        let ca = std::fs::read(&self.ca).with_context(|| format!("cannot read {}", self.ca.display()))?;
        Ok(ConnectOptions::new(&self.address, ca)?)
    }

    /// Ends what was started here, cleanly if it can.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let Some(mut started) = self.started.take() else { return Ok(()) };
        let child = &mut started.child;
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, Signal::TERM)?;
        }
        let Ok(status) = tokio::time::timeout(STOPS_WITHIN, child.wait()).await else {
            child.kill().await?;
            bail!("the node did not stop within {STOPS_WITHIN:?}");
        };
        let status = status?;
        started.explain(if status.success() { Ok(()) } else { Err(anyhow!("the node ended with {status}")) })
    }
}

impl Started {
    /// Adds what the node said to an error.
    fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.map_err(|error| match std::fs::read_to_string(self.said.path()) {
            Ok(said) if !said.is_empty() => error.context(said),
            Ok(_) | Err(_) => error,
        })
    }
}

/// Where the node says that clients find it.
async fn greeting(child: &mut Child) -> anyhow::Result<(String, PathBuf)> {
    let Some(out) = child.stdout.take() else { bail!("the node has no standard output") };
    let mut lines = BufReader::new(out).lines();
    let (mut address, mut ca) = (None, None);
    while let Some(line) = lines.next_line().await? {
        if let Some((name, value)) = line.trim().strip_prefix("export ").and_then(|line| line.split_once('=')) {
            match name {
                "CODA_ADDRESS" => address = Some(value.to_owned()),
                "CODA_CA" => ca = Some(PathBuf::from(value)),
                _ => {}
            }
        }
        // The rest is for people, and ends soon; the pipe stays open while it is read to its end.
        if let (Some(address), Some(ca)) = (&address, &ca) {
            let found = (address.clone(), ca.clone());
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(found);
        }
    }
    bail!("the node ended before it was ready")
}
