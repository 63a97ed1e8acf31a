//! One measurement from beginning to end: a node, workers, a warm-up, the workload between two readings, the end.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coda_client::Client;
use coda_client::protocol::reply::Counters;
use futures::future::try_join_all;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::args::{Args, Format, Until, Workload};
use crate::drive;
use crate::meter::{self, Machine, Usage};
use crate::node::Node;
use crate::report::{self, Figures};
use crate::workloads::Asker;
use crate::{disk, functions};

/// What a log block of a few commands takes; the disk's limit is measured with it.
const BLOCK_BYTES: usize = 4_096;

pub async fn all(args: &Args) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for round in 0..args.rounds {
        for workload in args.workloads() {
            let measured = one(args, workload, round);
            let one = tokio::select! {
                one = measured => one.with_context(|| workload.name())?,
                // The node and the workers are stopped by leaving.
                _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            };
            match args.output {
                Format::Json => println!("{}", serde_json::to_string(&one)?),
                Format::Table => eprintln!("{} round {round}: {:.0} tasks/s", workload.name(), one.tasks_per_s),
            }
            figures.push(one);
        }
    }
    if args.output == Format::Table {
        print!("{}", report::tables(&figures));
    }
    Ok(())
}

async fn one(args: &Args, workload: Workload, round: u32) -> anyhow::Result<Figures> {
    let node = Node::get(args).await?;
    let crew = Crew::start(args, &node).await?;
    let options = node.options()?;
    let connect = (0..args.clients).map(|_| {
        let session = coda_client::protocol::ids::SessionId::random();
        Client::connect(coda_client::ConnectOptions { session, ..options.clone() })
    });
    let clients = try_join_all(connect).await?;
    let asker = Arc::new(Asker::new(workload, clients.clone()));

    let concurrency = args.concurrency(workload);
    if !args.warmup.is_zero() {
        let until = Until { n: None, duration: Some(args.warmup) };
        drive::closed_loop(&asker, concurrency, until).await.context("warm-up")?;
    }
    let limit = |bytes| node.disk.as_deref().map(|folder| disk::syncs_per_s(folder, bytes)).transpose();
    let disk_before = limit(BLOCK_BYTES)?;
    let core_ms = meter::core_ms();
    let reader = Reader { client: clients[0].clone(), node: node.pid, workers: crew.pids() };

    let before = reader.read().await?;
    let until = args.until(workload);
    let measured = match workload {
        Workload::Backlog => drive::backlog(&asker, concurrency, until.n.unwrap_or_default()).await?,
        Workload::Tasks
        | Workload::Sequential
        | Workload::SequentialInline
        | Workload::Concurrent
        | Workload::ConcurrentInline
        | Workload::Idle => drive::closed_loop(&asker, concurrency, until).await?,
    };
    let after = reader.read().await?;

    let syncs = after.counters.log_syncs.saturating_sub(before.counters.log_syncs).max(1);
    let bytes_per_sync = after.counters.log_bytes.saturating_sub(before.counters.log_bytes) / syncs;
    let disk = Disk { block: disk_before.zip(limit(BLOCK_BYTES)?), same_size: limit(bytes_per_sync as usize)? };
    for client in &clients {
        client.close().await;
    }
    crew.stop().await?;
    node.stop().await?;
    let setting = Setting { workload, round, concurrency, core_ms, sync_delay: args.sync_delay.clone(), disk };
    Ok(Figures::new(&setting, &measured, &before, &after))
}

/// What a measurement was made with.
pub struct Setting {
    pub workload: Workload,
    pub round: u32,
    pub concurrency: usize,
    pub core_ms: f64,
    pub sync_delay: Option<String>,
    pub disk: Disk,
}

/// Appends and syncs per second that the disk did alone.
pub struct Disk {
    /// Of 4 KiB, before and after.
    pub block: Option<(f64, f64)>,
    /// Of as many bytes as the node wrote per sync, after.
    pub same_size: Option<f64>,
}

/// Everything that is counted, at one moment.
pub struct Reading {
    pub counters: Counters,
    pub node: Option<Usage>,
    pub workers: Usage,
    pub own: Usage,
    pub machine: Machine,
}

struct Reader {
    client: Client,
    node: Option<u32>,
    workers: Vec<u32>,
}

impl Reader {
    async fn read(&self) -> anyhow::Result<Reading> {
        let counters = self.client.describe_node().await?.counters;
        Ok(Reading {
            counters,
            node: self.node.and_then(meter::usage),
            workers: meter::usage_of_all(&self.workers),
            own: meter::usage(std::process::id()).unwrap_or_default(),
            machine: meter::machine(),
        })
    }
}

/// Workers: in this process or in others.
struct Crew {
    processes: Vec<Child>,
    here: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>)>,
}

impl Crew {
    async fn start(args: &Args, node: &Node) -> anyhow::Result<Self> {
        if args.worker_processes == 0 {
            let worker = functions::worker(node.options()?, args.slots)?;
            let (stop, stopped) = oneshot::channel::<()>();
            let working = tokio::spawn(async move {
                worker.run_until(async { drop(stopped.await) }).await.context("the worker cannot work")
            });
            return Ok(Self { processes: Vec::new(), here: Some((stop, working)) });
        }
        let start = |_| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--as-worker", "--slots", &args.slots.to_string()]);
            command.env("CODA_ADDRESS", &node.address).env("CODA_CA", &node.ca).env_remove("CODA_SESSION");
            command.stdin(Stdio::piped()).kill_on_drop(true);
            command.spawn().context("cannot start a worker process")
        };
        let processes = (0..args.worker_processes).map(start).collect::<anyhow::Result<_>>()?;
        // Work waits for the first of them; a warm-up shall not be over before the last.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Self { processes, here: None })
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(Child::id).collect()
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        if let Some((stop, working)) = self.here {
            // A worker that has failed already says why below.
            let _ = stop.send(());
            working.await??;
        }
        for process in &mut self.processes {
            drop(process.stdin.take());
            process.wait().await?;
        }
        Ok(())
    }
}
