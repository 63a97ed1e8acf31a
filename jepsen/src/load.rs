//! What most workloads are: clients, workers, and what is done beside; all of it written down, and judged when it is over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coda_checkers::history::Op;
use coda_checkers::properties::{ACCEPTED_WORK_ENDS, TROUBLE_IS_NOT_TOLD};
use coda_client::{ClientError, ConnectOptions, Worker};
use coda_protocol::ids::SessionId;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::TaskLease;
use futures::future::{BoxFuture, join_all};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::args::RunArgs;
use crate::clients::{Clients, Turn, fresh, look_at_all};
use crate::findings::Findings;
use crate::hands::{Hands, Job};
use crate::judge::{Judge, Rules};
use crate::python;
use crate::recorder::Recorder;
use crate::workloads::{Doing, Setting, Workload};

/// The client that looks at everything in the end.
const THE_LAST_CLIENT: u64 = 1_000;
/// Workers are told from clients by their number.
const THE_FIRST_WORKER: u64 = 100;
const BESIDE_STOPS_WITHIN: Duration = Duration::from_secs(30);
const WORKERS_STOP_WITHIN: Duration = Duration::from_secs(40);

/// What is asked for in the end, beside every task.
pub type Last = Box<dyn FnOnce(ConnectOptions) -> BoxFuture<'static, anyhow::Result<()>> + Send>;
pub type Check = Box<dyn FnOnce(&[Op], &mut Judge<'_>) + Send>;

/// The workers of one queue, each with as many slots.
#[derive(Clone, Copy)]
pub struct Crew {
    pub queue: &'static str,
    pub workers: u64,
    pub slots: u32,
}

pub struct Load {
    pub recorder: Recorder,
    /// How clients and workers reach the cluster.
    pub options: ConnectOptions,
    pub findings: Findings,
    args: RunArgs,
    chance: StdRng,
    /// What workers in Python write down.
    notes: PathBuf,
    clients: Vec<Clients>,
    hands: Vec<Hands>,
    workers: Vec<JoinHandle<Result<(), ClientError>>>,
    /// What is done beside, until it is told to stop.
    beside: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    over: watch::Sender<bool>,
    rules: Rules,
    last: Option<Last>,
    check: Check,
}

impl Load {
    /// Nobody yet; what all have written down is checked in the end.
    pub fn new(
        setting: Setting<'_>,
        workload: &str,
        check: impl FnOnce(&[Op], &mut Judge<'_>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let Setting { args, cluster, findings, operations, chance, .. } = setting;
        let out = args.common.out.canonicalize()?;
        // Nodes see other times of day under these.
        let of_clocks = |name: &String| name.starts_with("clock") || name == "all";
        let clocks_are_right = !args.nemesis.iter().any(of_clocks);
        Ok(Self {
            recorder: Recorder::create(&out, workload, operations)?,
            options: cluster.options(&cluster.running())?,
            findings,
            notes: python::notes(&out, workload),
            rules: Rules { groups: args.groups, clocks_are_right },
            args: args.clone(),
            chance,
            clients: Vec::new(),
            hands: Vec::new(),
            workers: Vec::new(),
            beside: Vec::new(),
            stop: watch::Sender::new(false),
            over: watch::Sender::new(false),
            last: None,
            check: Box::new(check),
        })
    }

    /// What is asked for in the end.
    pub fn last(
        &mut self,
        last: impl FnOnce(ConnectOptions) -> BoxFuture<'static, anyhow::Result<()>> + Send + 'static,
    ) {
        self.last = Some(Box::new(last));
    }

    /// Workers that execute tasks of a queue; their sessions.
    pub async fn serve(
        &mut self,
        crew: Crew,
        body: impl Fn(TaskLease) -> BoxFuture<'static, WorkOutcome> + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<SessionId>> {
        let (body, mut sessions) = (Arc::new(body), Vec::new());
        for number in 0..crew.workers {
            let job = Job {
                queue: crew.queue,
                name: crew.queue,
                slots: crew.slots,
                groups: self.args.groups,
                recorder: self.recorder.clone(),
                findings: self.findings.clone(),
                body: body.clone(),
            };
            let options = fresh(&self.options);
            sessions.push(options.session);
            self.hands.push(Hands::start(THE_FIRST_WORKER + number, options, job).await?);
        }
        Ok(sessions)
    }

    /// Clients that take turns, each of which is as much as so many operations.
    pub async fn drive(
        &mut self,
        operations_per_turn: f64,
        take_turn: impl Fn(Turn) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let rate = f64::from(self.args.common.rate) / operations_per_turn;
        let clients =
            Clients::start(&self.options, &self.args, rate, &self.recorder, &mut self.chance, take_turn).await?;
        self.clients.push(clients);
        Ok(())
    }

    /// Chance for something of its own.
    pub fn fork(&mut self) -> StdRng {
        StdRng::from_rng(&mut self.chance)
    }

    /// Something beside, until it is told to stop.
    pub fn beside(&mut self, work: impl FnOnce(watch::Receiver<bool>) -> BoxFuture<'static, ()>) {
        self.beside.push(tokio::spawn(work(self.stop.subscribe())));
    }

    /// A worker of the SDK, until all has ended.
    pub fn worker(&mut self, worker: Worker) {
        let mut over = self.over.subscribe();
        self.workers.push(tokio::spawn(worker.run_until(async move { drop(over.wait_for(|over| *over).await) })));
    }

    async fn come_to_an_end(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        for beside in std::mem::take(&mut self.beside) {
            if timeout(BESIDE_STOPS_WITHIN, beside).await.is_err() {
                self.findings.violation(ACCEPTED_WORK_ENDS, "something beside the clients still waits");
            }
        }
        for clients in &mut self.clients {
            clients.quiet(patience, &self.findings).await;
        }
        Ok(())
    }

    async fn judge(self, options: ConnectOptions) -> anyhow::Result<Value> {
        look_at_all(&self.recorder, &options, THE_LAST_CLIENT).await?;
        if let Some(last) = self.last {
            last(options).await?;
        }
        join_all(self.hands.into_iter().map(Hands::stop)).await;
        self.over.send_replace(true);
        for worker in self.workers {
            match timeout(WORKERS_STOP_WITHIN, worker).await {
                Ok(Ok(Ok(()))) => {}
                Ok(ended) => self.findings.violation(TROUBLE_IS_NOT_TOLD, format!("a worker has ended: {ended:?}")),
                Err(_) => self.findings.violation(ACCEPTED_WORK_ENDS, "a worker does not stop"),
            }
        }
        join_all(self.clients.into_iter().map(Clients::close)).await;
        self.recorder.read(&self.notes)?;
        let ops = self.recorder.history()?;
        let mut judge = Judge::new(&ops, &self.findings, self.rules);
        (self.check)(&ops, &mut judge);
        Ok(judge.figures())
    }
}

impl Workload for Load {
    fn quiet(&mut self, patience: Duration) -> Doing<'_, ()> {
        Box::pin(self.come_to_an_end(patience))
    }

    fn finish(self: Box<Self>, options: ConnectOptions) -> Doing<'static, Value> {
        Box::pin(self.judge(options))
    }
}
