//! What most workloads are: clients, workers, and what is done beside; all of it written down, and judged when it is over.

use std::time::Duration;

use coda_checkers::history::Op;
use coda_checkers::properties::{ACCEPTED_WORK_ENDS, TROUBLE_IS_NOT_TOLD};
use coda_client::{ClientError, ConnectOptions, Worker};
use futures::future::{BoxFuture, join_all};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clients::{Clients, look_at_all};
use crate::findings::Findings;
use crate::hands::{Body, Hands, Job};
use crate::judge::{Judge, Rules};
use crate::recorder::Recorder;
use crate::workloads::{Doing, Setting, Workload};

/// The client that looks at everything in the end.
const THE_LAST_CLIENT: u64 = 1_000;
const BESIDE_STOPS_WITHIN: Duration = Duration::from_secs(30);
const WORKERS_STOP_WITHIN: Duration = Duration::from_secs(40);

/// What is asked for in the end, beside every task.
pub type Last = Box<dyn FnOnce(ConnectOptions) -> BoxFuture<'static, anyhow::Result<()>> + Send>;
pub type Check = Box<dyn FnOnce(&[Op], &mut Judge<'_>) + Send>;

pub struct Load {
    pub clients: Vec<Clients>,
    pub hands: Vec<Hands>,
    workers: Vec<JoinHandle<Result<(), ClientError>>>,
    /// What is done beside, until it is told to stop.
    pub beside: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    over: watch::Sender<bool>,
    pub recorder: Recorder,
    findings: Findings,
    rules: Rules,
    last: Option<Last>,
    check: Check,
}

/// What a load is built of.
pub struct Ground {
    pub recorder: Recorder,
    pub options: ConnectOptions,
    pub findings: Findings,
    pub chance: StdRng,
    rules: Rules,
}

impl Ground {
    pub fn of(setting: &mut Setting<'_>, workload: &str) -> anyhow::Result<Self> {
        let out = setting.args.out.canonicalize()?;
        // Nodes see other times of day under these.
        let of_clocks = |name: &String| name.starts_with("clock") || name == "all";
        let clocks_are_right = !setting.args.nemesis.iter().any(of_clocks);
        let rules = Rules { groups: setting.args.groups, clocks_are_right };
        Ok(Self {
            recorder: Recorder::create(&out, workload, setting.operations.clone())?,
            options: setting.cluster.options(&setting.cluster.running())?,
            findings: setting.findings.clone(),
            chance: StdRng::from_rng(&mut setting.chance),
            rules,
        })
    }

    /// So many workers of one queue, each with as many slots.
    pub async fn hands(
        &self,
        setting: &Setting<'_>,
        what: (&'static str, u64, u32),
        body: Body,
    ) -> anyhow::Result<Vec<Hands>> {
        let (queue, workers, slots) = what;
        let mut hands = Vec::new();
        for number in 0..workers {
            let job = Job {
                queue,
                name: queue,
                slots,
                groups: setting.args.groups,
                recorder: self.recorder.clone(),
                findings: self.findings.clone(),
                body: body.clone(),
            };
            // Workers are told from clients by their number.
            hands.push(Hands::start(100 + number, crate::clients::fresh(&self.options), job).await?);
        }
        Ok(hands)
    }

    pub fn load(self, check: impl FnOnce(&[Op], &mut Judge<'_>) + Send + 'static) -> Load {
        Load {
            clients: Vec::new(),
            hands: Vec::new(),
            workers: Vec::new(),
            beside: Vec::new(),
            stop: watch::Sender::new(false),
            over: watch::Sender::new(false),
            recorder: self.recorder,
            findings: self.findings,
            rules: self.rules,
            last: None,
            check: Box::new(check),
        }
    }
}

impl Load {
    /// What is asked for in the end.
    pub fn last(
        mut self,
        last: impl FnOnce(ConnectOptions) -> BoxFuture<'static, anyhow::Result<()>> + Send + 'static,
    ) -> Self {
        self.last = Some(Box::new(last));
        self
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
                self.findings.violation(format!("{ACCEPTED_WORK_ENDS}: something beside the clients still waits"));
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
                Ok(ended) => self.findings.violation(format!("{TROUBLE_IS_NOT_TOLD}: a worker has ended: {ended:?}")),
                Err(_) => self.findings.violation(format!("{ACCEPTED_WORK_ENDS}: a worker does not stop")),
            }
        }
        join_all(self.clients.into_iter().map(Clients::close)).await;
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
