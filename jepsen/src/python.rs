//! A worker in Python, with the SDK: one process, which serves all workloads that have a program for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use coda_checkers::properties::TROUBLE_IS_NOT_TOLD;
use coda_protocol::ids::SessionId;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::cluster::Cluster;
use crate::findings::Findings;
use crate::process::Process;
use crate::world;

const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What it says when it works.
const SERVES: &str = "serving ";
/// Imports the programs of workloads.
const MODULE: &str = "jepsen_worker";
const NOTES: (&str, &str) = ("jepsen_notes", include_str!("../python/jepsen_notes.py"));

/// What it writes down for a workload.
pub fn notes(out: &Path, workload: &str) -> PathBuf {
    out.join(format!("python-{workload}.jsonl"))
}

pub struct PythonWorker {
    process: Process,
    session: SessionId,
}

impl PythonWorker {
    /// `python` is that of a virtual environment with the SDK: the worker's program lies beside it. Each program is of the
    /// workload of that name.
    pub async fn start(
        python: &Path,
        programs: &[(&str, &str)],
        cluster: &Cluster,
        out: &Path,
    ) -> anyhow::Result<Self> {
        let folder = out.canonicalize()?;
        let module = |workload: &str| format!("{workload}_worker");
        for (name, text) in programs.iter().map(|(workload, text)| (module(workload), *text)) {
            fs::write(folder.join(format!("{name}.py")), text)?;
        }
        fs::write(folder.join(format!("{}.py", NOTES.0)), NOTES.1)?;
        let imports: String = programs.iter().map(|(workload, _)| format!("import {}\n", module(workload))).collect();
        fs::write(folder.join(format!("{MODULE}.py")), imports)?;
        let session = SessionId::random();
        let mut command = world::command(python.with_file_name("coda-worker"));
        command.args([MODULE, "-n", "0"]).current_dir(&folder).envs(cluster.environment()?);
        command.env("CODA_SESSION", session.to_string()).env("CODA_WORKER_INDEX", "0");
        command.env("JEPSEN_NOTES", &folder).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", &folder);
        let mut process = Process::spawn("python", command, &folder)?;
        let deadline = Instant::now() + STARTS_WITHIN;
        while !fs::read_to_string(folder.join("python.err")).unwrap_or_default().contains(SERVES) {
            ensure!(!process.is_over() && Instant::now() < deadline, "the worker in Python does not start");
            sleep(LOOK_AGAIN).await;
        }
        info!("the worker in Python serves");
        Ok(Self { process, session })
    }

    /// Who it is to the cluster.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// It ends what it works on, or hands it back.
    pub async fn stop(mut self, findings: &Findings) -> anyhow::Result<()> {
        if self.process.is_over() {
            findings.violation(TROUBLE_IS_NOT_TOLD, "the worker in Python has ended by itself: see python.err");
            return Ok(());
        }
        self.process.signal(Signal::TERM)?;
        let status = self.process.ended(STOPS_WITHIN).await?;
        if !status.success() {
            findings.violation(TROUBLE_IS_NOT_TOLD, format!("the worker in Python did not stop cleanly: {status}"));
        }
        Ok(())
    }
}
