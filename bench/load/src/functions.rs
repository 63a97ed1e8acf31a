//! What the worker executes. The same in `bench/python/app.py`, and in the peers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use coda_client::{ConnectOptions, StepFailed, Worker, WorkflowContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::args::Args;

/// About 200 bytes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub id: u64,
    pub kind: String,
    pub data: String,
}

impl Load {
    pub fn new(id: u64) -> Self {
        Self { id, kind: "noop".into(), data: "x".repeat(165) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Steps {
    pub k: u64,
    pub p: Load,
}

pub fn worker(options: ConnectOptions, slots: u32) -> anyhow::Result<Worker> {
    let worker = Worker::builder(options)
        .task_slots(slots)
        .run_slots(slots)
        .task("noop", |load: Load| async move { Ok::<_, Infallible>(load) })
        .task("stamp", |_: HashMap<String, Value>| async { Ok::<_, Infallible>(now()) })
        .workflow("steps_spawned", steps_spawned)
        .workflow("steps_inline", steps_inline);
    Ok(worker.build()?)
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn steps_spawned(cx: WorkflowContext, Steps { k, p }: Steps) -> Result<u64, StepFailed> {
    for _ in 0..k {
        cx.spawn_task::<Load>("noop", &p).await?;
    }
    Ok(k)
}

async fn steps_inline(cx: WorkflowContext, Steps { k, p }: Steps) -> Result<u64, StepFailed> {
    for i in 0..k {
        let load = Load { id: i, ..p.clone() };
        cx.run("step", [i64::try_from(i).unwrap_or(0)], || async { Ok::<_, Infallible>(load) }).await?;
    }
    Ok(k)
}

/// The program as a worker process: until its standard input closes, which it also does when its parent dies.
pub async fn serve(args: &Args) -> anyhow::Result<()> {
    let options = ConnectOptions::discover()?;
    let (left, parent_left) = oneshot::channel();
    std::thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = left.send(());
    });
    let parent_left = async { drop(parent_left.await) };
    worker(options, args.slots)?.run_until(parent_left).await.context("the worker cannot work")
}
