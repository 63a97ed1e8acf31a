//! One piece of each workload: ask, wait, look at the clock.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use coda_client::{Client, RunHandle, StartOptions, SubmitOptions, TaskHandle};

use crate::args::Workload;
use crate::functions::{Load, Steps, now};

/// Between two tasks of W6, so that nothing is warm or queued.
const IDLE: Duration = Duration::from_millis(20);

/// How long it took from asking until...
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// the node said that it is on disk,
    pub accepted: Duration,
    /// the first line of the function was reached (W6 only),
    pub began: Option<Duration>,
    /// the result was here.
    pub ended: Duration,
}

/// Asks for one workload's pieces, over one or more connections.
pub struct Asker {
    workload: Workload,
    clients: Vec<Client>,
}

impl Asker {
    pub fn new(workload: Workload, clients: Vec<Client>) -> Self {
        Self { workload, clients }
    }

    fn client(&self, i: u64) -> &Client {
        &self.clients[i as usize % self.clients.len()]
    }

    pub async fn once(&self, i: u64) -> anyhow::Result<Sample> {
        match self.workload {
            Workload::Tasks | Workload::Backlog => self.task(i).await,
            Workload::Sequential | Workload::Concurrent => self.run(i, "steps_spawned").await,
            Workload::SequentialInline | Workload::ConcurrentInline => self.run(i, "steps_inline").await,
            Workload::Idle => self.stamp(i).await,
        }
    }

    pub async fn submit(&self, i: u64) -> anyhow::Result<TaskHandle> {
        Ok(self.client(i).submit(SubmitOptions::new("noop").args_json(&Load::new(i))?).await?)
    }

    pub async fn fetch(i: u64, task: &TaskHandle) -> anyhow::Result<()> {
        let echoed: Load = task.result_json().await?;
        ensure!(echoed.id == i, "task {i} gave back {}", echoed.id);
        Ok(())
    }

    async fn task(&self, i: u64) -> anyhow::Result<Sample> {
        let asked = Instant::now();
        let task = self.submit(i).await?;
        let accepted = asked.elapsed();
        Self::fetch(i, &task).await?;
        Ok(Sample { accepted, began: None, ended: asked.elapsed() })
    }

    async fn run(&self, i: u64, workflow: &str) -> anyhow::Result<Sample> {
        let steps = Steps { k: self.workload.tasks(), p: Load::new(i) };
        let asked = Instant::now();
        let run: RunHandle = self.client(i).start(StartOptions::new(workflow).input_json(&steps)?).await?;
        let accepted = asked.elapsed();
        let done: u64 = run.result_json().await?;
        ensure!(done == steps.k, "a run did {done} of {} steps", steps.k);
        Ok(Sample { accepted, began: None, ended: asked.elapsed() })
    }

    /// The worker's clock is compared with ours: on one machine that is one clock.
    async fn stamp(&self, i: u64) -> anyhow::Result<Sample> {
        tokio::time::sleep(IDLE).await;
        let options = SubmitOptions::new("stamp").args_json(&serde_json::json!({}))?;
        let (asked, asked_at) = (Instant::now(), now());
        let task = self.client(i).submit(options).await?;
        let accepted = asked.elapsed();
        let began: f64 = task.result_json().await?;
        let ended = asked.elapsed();
        let began = Duration::try_from_secs_f64(began - asked_at).context("the clock was set back meanwhile")?;
        Ok(Sample { accepted, began: Some(began), ended })
    }
}
