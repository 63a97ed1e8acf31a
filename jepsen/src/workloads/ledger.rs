//! Runs of several steps, inline and spawned, in a row and side by side. Every body and every reader writes down what it
//! did; what comes out is known from what goes in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use coda_checkers::properties::{
    ACCEPTED_WORK_ENDS, ACKNOWLEDGED_IS_KEPT, NOTHING_IS_INVENTED, ONE_END_PER_WORK, TROUBLE_IS_NOT_TOLD,
};
use coda_client::{BoxError, Client, ClientError, ConnectOptions, StartOptions, Worker, WorkflowContext};
use coda_protocol::ids::{Millis, RunId, SessionId};
use coda_protocol::policy::RetryPolicy;
use futures::future::join_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::{Doing, Kind, Setting, Workload};
use crate::findings::Findings;
use crate::history::History;
use crate::ledger::{Ledger, Made};
use crate::moment::{Moment, ms};
use crate::operations::{Ending, Operations};
use crate::python;

pub const KIND: Kind = Kind {
    name: "ledger",
    about: "runs of several steps, each of which writes down what it does",
    python: Some(include_str!("../../python/ledger_worker.py")),
    start: |setting| Box::pin(async move { Ok(Box::new(Load::start(setting).await?) as Box<dyn Workload>) }),
};

const QUEUE: &str = "ledger";
const WORKFLOW: &str = "ledger";
const TASK: &str = "ledger-step";
/// What a task that fails once in a while waits for.
const SOON: RetryPolicy =
    RetryPolicy { max_retries: 1_000, initial: Millis(20), factor_percent: 200, max: Millis(500), jitter_percent: 50 };
/// Steps that go side by side.
const SIDE_BY_SIDE: u64 = 3;
/// Values stay below this, in every language.
const MODULUS: u64 = 1_000_003;
/// A body takes up to so long.
const BODY_MS_MAX: u64 = 20;
/// Results that are read again at once.
const READ_AGAIN_AT_ONCE: usize = 128;
const READ_AGAIN_PATIENCE: Duration = Duration::from_secs(120);
const WORKER_STOPS_WITHIN: Duration = Duration::from_secs(40);

/// What a step makes of its input, the same in every language.
pub fn value(run: u64, step: &str) -> u64 {
    let step: u64 = step.bytes().map(u64::from).sum();
    (run * 31 + step * 7) % MODULUS
}

/// The names of all steps of a run.
pub fn steps() -> Vec<String> {
    let side_by_side = (0..SIDE_BY_SIDE).map(|n| format!("side-{n}"));
    ["first".to_owned()].into_iter().chain(side_by_side).chain(["last".to_owned()]).collect()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StepArgs {
    run: u64,
    step: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Input {
    run: u64,
}

/// What a run returns: each step as the workflow function saw it.
type Seen = BTreeMap<String, Made>;

/// The load, while it lasts.
struct Load {
    history: History,
    findings: Findings,
    ledger: Ledger,
    runs: Arc<Mutex<BTreeMap<u64, Run>>>,
    stop: Arc<AtomicBool>,
    starting: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
    worker: Option<RunningWorker>,
    python_notes: PathBuf,
}

struct RunningWorker {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ClientError>>,
}

/// One run, as its client knows it.
#[derive(Clone, Debug)]
struct Run {
    id: RunId,
    asked: Moment,
    acknowledged: Option<Moment>,
    ended: Option<(Moment, Seen)>,
}

/// What the load came to.
#[derive(Clone, Debug, Default, Serialize)]
struct LoadReport {
    runs_started: u64,
    runs_acknowledged: u64,
    runs_ended: u64,
    results_read_again: u64,
    steps_recorded: u64,
    executions: u64,
    executions_repeated: u64,
    executions_python: u64,
}

impl Workload for Load {
    fn quiet(&mut self, patience: Duration) -> Doing<'_, ()> {
        Box::pin(self.come_to_an_end(patience))
    }

    fn finish(self: Box<Self>, options: ConnectOptions) -> Doing<'static, Value> {
        Box::pin(async move {
            let read_again = self.read_again(options).await?;
            let report = LoadReport { results_read_again: read_again, ..self.end().await? };
            Ok(serde_json::to_value(report)?)
        })
    }
}

impl Load {
    async fn start(setting: Setting<'_>) -> anyhow::Result<Self> {
        let Setting { args, cluster, history, findings, operations, mut chance, .. } = setting;
        let ledger = Ledger::default();
        let options = cluster.options(&cluster.running())?;
        let worker = worker(options.clone(), &ledger)?;
        let mut load = Self {
            history,
            findings: findings.clone(),
            ledger,
            runs: Arc::default(),
            stop: Arc::default(),
            starting: Vec::new(),
            clients: Vec::new(),
            worker: Some(worker),
            python_notes: python::notes(&args.common.out.canonicalize()?, KIND.name),
        };
        let room = Arc::new(Semaphore::new(args.in_flight));
        let clients = args.clients.max(1);
        let every = Duration::from_secs_f64(clients as f64 / f64::from(args.common.rate.max(1)));
        for first in 0..clients as u64 {
            let fresh = ConnectOptions { session: SessionId::random(), ..options.clone() };
            let client = Client::connect(fresh).await?;
            let starter = Starter {
                client: client.clone(),
                next: first,
                step: clients as u64,
                every,
                room: room.clone(),
                chance: StdRng::seed_from_u64(chance.random()),
                runs: load.runs.clone(),
                findings: findings.clone(),
                operations: operations.clone(),
                stop: load.stop.clone(),
            };
            load.clients.push(client);
            load.starting.push(tokio::spawn(starter.run()));
        }
        Ok(load)
    }

    /// Starts nothing more, and waits for all results.
    async fn come_to_an_end(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + patience;
        for starting in &mut self.starting {
            // What has not come by then is found below, run by run.
            drop(timeout_at(deadline, starting).await);
        }
        self.starting.clear();
        let unfinished: Vec<(u64, Run)> = {
            let runs = self.runs.lock();
            runs.iter().filter(|(_, run)| run.ended.is_none()).map(|(n, run)| (*n, run.clone())).collect()
        };
        for (number, run) in unfinished {
            let what = match run.acknowledged {
                Some(_) => "was acknowledged and has no result",
                None => "is not answered",
            };
            let waited = Moment::now().since(run.asked);
            self.findings
                .violation(ACCEPTED_WORK_ENDS, format!("run {number} ({}) {what} after {} ms", run.id, ms(waited)));
        }
        Ok(())
    }

    /// Asks for every result again, as a client that was not there before.
    async fn read_again(&self, options: ConnectOptions) -> anyhow::Result<u64> {
        let client = Client::connect(options).await?;
        let runs: Vec<(u64, Run)> = self.runs.lock().iter().map(|(n, run)| (*n, run.clone())).collect();
        let mut read = 0;
        for some in runs.chunks(READ_AGAIN_AT_ONCE) {
            let again = some.iter().filter_map(|(n, run)| Some((n, run.id, run.ended.as_ref()?)));
            let again = again.map(|(number, id, (_, before))| {
                let handle = client.run(id);
                async move {
                    match timeout(READ_AGAIN_PATIENCE, handle.result_json::<Seen>()).await {
                        Ok(Ok(seen)) if seen == *before => {}
                        Ok(Ok(seen)) => self.findings.violation(
                            ONE_END_PER_WORK,
                            format!("run {number} ({id}): another reader sees {seen:?}, the first saw {before:?}"),
                        ),
                        Ok(Err(error)) => {
                            let what = format!("run {number} ({id}) cannot be read again: {error}");
                            self.findings.violation(ACKNOWLEDGED_IS_KEPT, what);
                        }
                        Err(_) => self
                            .findings
                            .violation(ACKNOWLEDGED_IS_KEPT, format!("run {number} ({id}) is not answered again")),
                    }
                }
            });
            read += join_all(again).await.len() as u64;
        }
        client.close().await;
        Ok(read)
    }

    /// Ends workers and clients, and checks what everybody has written down.
    async fn end(mut self) -> anyhow::Result<LoadReport> {
        if let Some(RunningWorker { stop, task }) = self.worker.take() {
            drop(stop);
            match timeout(WORKER_STOPS_WITHIN, task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => {
                    self.findings.violation(TROUBLE_IS_NOT_TOLD, format!("the worker has failed: {error}"));
                }
                Ok(Err(panic)) => {
                    self.findings.violation(TROUBLE_IS_NOT_TOLD, format!("the worker has panicked: {panic}"));
                }
                Err(_) => self.findings.violation(ACCEPTED_WORK_ENDS, "the worker does not stop"),
            }
        }
        join_all(self.clients.iter().map(Client::close)).await;
        self.ledger.add(&self.python_notes)?;
        Ok(self.check())
    }

    fn check(&self) -> LoadReport {
        let runs = self.runs.lock();
        let mut report = LoadReport { runs_started: runs.len() as u64, ..LoadReport::default() };
        for (number, run) in runs.iter() {
            self.history.note_at(
                run.asked,
                "run",
                &json!({
                    "run": number,
                    "id": run.id.to_string(),
                    "acknowledged": run.acknowledged,
                    "ended": run.ended.as_ref().map(|(at, _)| at),
                    "seen": run.ended.as_ref().map(|(_, seen)| seen),
                }),
            );
            report.runs_acknowledged += u64::from(run.acknowledged.is_some());
            let Some((_, seen)) = &run.ended else { continue };
            report.runs_ended += 1;
            for step in steps() {
                match seen.get(&step) {
                    Some(made) if made.value == value(*number, &step) => {
                        // The end of the run is one more reader of each step.
                        self.ledger.read(*number, &step, made.clone());
                    }
                    other => {
                        let what = format!("run {number} ({}), {step}: {other:?}", run.id);
                        self.findings.violation(NOTHING_IS_INVENTED, what);
                    }
                }
            }
        }
        for (id, page) in self.ledger.pages() {
            let times = |what: &[(Moment, String)]| what.iter().map(|(at, by)| json!([at, by])).collect::<Vec<_>>();
            let read: Vec<_> = page.read.iter().map(|(at, made)| json!([at, made.by])).collect();
            let at = page.begun.iter().map(|(at, _)| *at).min().unwrap_or_else(Moment::now);
            self.history.note_at(
                at,
                "step",
                &json!({
                    "run": id.run, "step": id.step, "begun": times(&page.begun), "read": read,
                }),
            );
            report.executions += page.begun.len() as u64;
            report.executions_repeated += page.begun.len().saturating_sub(1) as u64;
            report.executions_python += page.begun.iter().filter(|(_, by)| by.starts_with("python")).count() as u64;
            report.steps_recorded += u64::from(!page.read.is_empty());
            for problem in page.problems(&id) {
                self.findings.broken(&problem);
            }
        }
        report
    }
}

/// One client that starts runs.
struct Starter {
    client: Client,
    next: u64,
    step: u64,
    every: Duration,
    room: Arc<Semaphore>,
    chance: StdRng,
    runs: Arc<Mutex<BTreeMap<u64, Run>>>,
    findings: Findings,
    operations: Operations,
    stop: Arc<AtomicBool>,
}

impl Starter {
    /// Until told to stop; then until all that was started has ended.
    async fn run(mut self) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = JoinSet::new();
        while !self.stop.load(Ordering::Relaxed) {
            tick.tick().await;
            while running.try_join_next().is_some() {}
            let Ok(room) = self.room.clone().try_acquire_owned() else { continue };
            let (number, id) = (self.next, run_id(&mut self.chance));
            self.next += self.step;
            let (client, runs, findings) = (self.client.clone(), self.runs.clone(), self.findings.clone());
            let operations = self.operations.clone();
            runs.lock().insert(number, Run { id, asked: Moment::now(), acknowledged: None, ended: None });
            running.spawn(async move {
                if let Err(error) = one(&client, number, id, &runs, &operations).await {
                    findings
                        .violation(TROUBLE_IS_NOT_TOLD, format!("the client of run {number} ({id}) was told {error}"));
                }
                drop(room);
            });
        }
        running.join_all().await;
    }
}

fn run_id(chance: &mut StdRng) -> RunId {
    loop {
        let id = RunId(chance.random());
        if id.check_chosen().is_ok() {
            return id;
        }
    }
}

async fn one(
    client: &Client,
    number: u64,
    id: RunId,
    runs: &Mutex<BTreeMap<u64, Run>>,
    operations: &Operations,
) -> anyhow::Result<()> {
    let asked = Moment::now();
    let options = StartOptions::new(WORKFLOW).id(id).queue(QUEUE).policy(SOON).input_json(&Input { run: number })?;
    let ended = |what, ok: bool| operations.ended(what, asked, if ok { Ending::Ok } else { Ending::Maybe });
    let started = client.start(options).await;
    ended("start of a run", started.is_ok());
    let handle = started?;
    runs.lock().get_mut(&number).context("it was just put there")?.acknowledged = Some(Moment::now());
    let seen = handle.result_json().await;
    ended("run, to its result", seen.is_ok());
    let seen: Seen = seen?;
    runs.lock().get_mut(&number).context("it was just put there")?.ended = Some((Moment::now(), seen));
    Ok(())
}

fn worker(options: ConnectOptions, ledger: &Ledger) -> anyhow::Result<RunningWorker> {
    let (of_tasks, of_runs) = (ledger.clone(), ledger.clone());
    let worker = Worker::builder(options)
        .queue(QUEUE)
        .task(TASK, move |args: StepArgs| body(of_tasks.clone(), args))
        .workflow(WORKFLOW, move |cx: WorkflowContext, Input { run }: Input| workflow(cx, run, of_runs.clone()))
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(worker.run_until(async move { drop(stopped.await) }));
    Ok(RunningWorker { stop, task })
}

/// What every step does, wherever it is executed. Now and then it fails at first.
async fn body(ledger: Ledger, StepArgs { run, step }: StepArgs) -> Result<Made, BoxError> {
    let by = ledger.begin(run, &step);
    let value = value(run, &step);
    tokio::time::sleep(Duration::from_millis(value % BODY_MS_MAX)).await;
    Ok(Made { value, by })
}

async fn workflow(cx: WorkflowContext, run: u64, ledger: Ledger) -> Result<Seen, BoxError> {
    let mut seen = Seen::new();
    let mut read = |step: String, made: Made| {
        ledger.read(run, &step, made.clone());
        seen.insert(step, made);
    };
    read("first".into(), inline(&cx, run, "first", ledger.clone()).await?);
    let side_by_side = (0..SIDE_BY_SIDE).map(|n| {
        let step = format!("side-{n}");
        let args = StepArgs { run, step: step.clone() };
        let spawned = cx.spawn_task::<Made>(TASK, args).key([step.as_str()]).queue(QUEUE).policy(SOON).start();
        async move { Ok::<_, BoxError>((step, spawned.await?)) }
    });
    for ended in join_all(side_by_side).await {
        let (step, made) = ended?;
        read(step, made);
    }
    read("last".into(), inline(&cx, run, "last", ledger.clone()).await?);
    Ok(seen)
}

async fn inline(cx: &WorkflowContext, run: u64, step: &str, ledger: Ledger) -> Result<Made, BoxError> {
    let args = StepArgs { run, step: step.to_owned() };
    Ok(cx.run(step, [step], move || body(ledger, args)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_the_program_in_python_makes() {
        // The same three are in the program's own check.
        assert_eq!((value(0, "first"), value(7, "side-1"), value(40_000, "last")), (3_864, 3_822, 243_049));
        assert_eq!(steps(), ["first", "side-0", "side-1", "side-2", "last"]);
    }
}
