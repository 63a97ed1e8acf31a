//! Transfers as runs that fail and are executed again from the top: each key has one value, whoever reads it and however often
//! the run begins anew; what goes out of one account comes into another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coda_checkers::history::{End, Op};
use coda_checkers::ledger::{self, Booking, Transfer};
use coda_checkers::memo::{self, Look, Offer};
use coda_checkers::{set, work};
use coda_client::{BoxError, Client, ConnectOptions, Worker, WorkflowContext};
use coda_protocol::ids::{Millis, RunId};
use coda_protocol::limits::PRIORITY_DEFAULT;
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reply::Reply;
use coda_protocol::request::{Request, StartRun};
use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Kind, Setting, Workload};
use crate::clients::{PATIENCE, Turn, fresh};
use crate::hands::key;
use crate::judge::Judge;
use crate::load::Load;
use crate::recorder::Recorder;

pub const KIND: Kind = Kind {
    name: "memo",
    about: "transfers that are executed again and again: one value per key, and the total never changes",
    python: Some(include_str!("../../python/memo_worker.py")),
    start: |setting| Box::pin(start(setting)),
};

const QUEUE: &str = "memo";
const WORKFLOW: &str = "memo-transfer";
const TASK: &str = "memo-book";
const WORKERS: u64 = 2;
const ACCOUNTS: u64 = 10;
const AMOUNT_MAX: i64 = 1_000;
/// A run fails so often at most before it is let through.
const FAILS_MAX: u64 = 3;
const BODY_MS_MAX: u64 = 30;
/// Executions of bodies in Python count from here.
const FIRST_IN_PYTHON: u64 = 1 << 40;
/// A body that begins later than this after its result was read was begun though the result was known.
const LATE_US: u64 = 1_000_000;
const LAST_PATIENCE: Duration = Duration::from_secs(60);
const LAST_CLIENT: u64 = 1_000;
const AT_ONCE: usize = 64;
const SOON: RetryPolicy =
    RetryPolicy { max_retries: 1_000, initial: Millis(20), factor_percent: 200, max: Millis(300), jitter_percent: 50 };
/// A run is several executions of several steps: as much as so many.
const STEPS: f64 = 3.0;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Input {
    run: String,
    payer: u64,
    payee: u64,
    amount: i64,
    fails: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    run: String,
    step: String,
    account: u64,
    amount: i64,
}

/// What a step returned, and which execution of its body made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Made {
    account: u64,
    amount: i64,
    by: u64,
}

type Seen = BTreeMap<String, Made>;

/// What all executions of this process share.
#[derive(Clone)]
struct Shared {
    recorder: Recorder,
    bodies: Arc<AtomicU64>,
    executions: Arc<Mutex<BTreeMap<String, u64>>>,
}

async fn start(setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let mut load = Load::new(setting, KIND.name, judge)?;
    let of_last = load.recorder.clone();
    load.last(move |options| read_all(of_last, options).boxed());
    let shared = Shared { recorder: load.recorder.clone(), bodies: Arc::default(), executions: Arc::default() };
    for _ in 0..WORKERS {
        load.worker(worker(fresh(&load.options), &shared)?);
    }
    load.drive(STEPS, |turn| begin(turn).boxed()).await?;
    Ok(Box::new(load))
}

fn worker(options: ConnectOptions, shared: &Shared) -> anyhow::Result<Worker> {
    let (of_tasks, of_runs) = (shared.clone(), shared.clone());
    let worker = Worker::builder(options)
        .queue(QUEUE)
        .task(TASK, move |step: Step| body(of_tasks.clone(), step))
        .workflow(WORKFLOW, move |cx: WorkflowContext, input: Input| transfer(cx, input, of_runs.clone()));
    Ok(worker.build()?)
}

/// Starts a run, and sometimes waits for its end.
async fn begin(mut turn: Turn) {
    let recorder = turn.recorder.clone();
    let run = loop {
        let run = RunId(turn.chance.random());
        if run.check_chosen().is_ok() {
            break run;
        }
    };
    let payer = turn.chance.random_range(0..ACCOUNTS);
    let payee = (payer + turn.chance.random_range(1..ACCOUNTS)) % ACCOUNTS;
    let (amount, fails) = (turn.chance.random_range(1..=AMOUNT_MAX), turn.chance.random_range(0..=FAILS_MAX));
    let about = json!({ "from": payer, "to": payee, "amount": amount });
    let input = json!(Input { run: run.to_string(), payer, payee, amount, fails });
    let options = StartRun {
        run,
        workflow: WORKFLOW.into(),
        queue: QUEUE.into(),
        input: Payload::json(input.to_string()),
        priority: PRIORITY_DEFAULT,
        policy: SOON,
        delay: Millis(0),
    };
    let begun = recorder.begin(turn.number, "start", run, about);
    let answered = turn.client.link().ask_within(Request::StartRun(options), PATIENCE).await;
    let existed = |reply: &Reply| json!({ "existed": matches!(reply, Reply::Started { existed: true }) });
    if recorder.answered(begun, answered, existed).is_ok() && turn.turn.is_multiple_of(2) {
        result(&recorder, &turn.client, turn.number, run, PATIENCE).await;
    }
}

async fn result(recorder: &Recorder, client: &Client, number: u64, run: RunId, patience: Duration) {
    let begun = recorder.begin(number, "result", run, Value::Null);
    let answered = client.link().ask_within(Request::AwaitRun(run), patience).await;
    let seen = |reply: &Reply| match reply {
        Reply::Ended(Ok(payload)) => serde_json::from_slice(&payload.data).unwrap_or(Value::Null),
        Reply::Ended(Err(failure)) => json!({ "failed": failure.message }),
        _ => Value::Null,
    };
    drop(recorder.answered(begun, answered, seen));
}

/// In the end somebody new reads all results. A run of which nobody knows may not be there.
async fn read_all(recorder: Recorder, options: ConnectOptions) -> anyhow::Result<()> {
    let client = Client::connect(fresh(&options)).await?;
    let started = recorder.history()?.into_iter().filter(|op| op.f == "start" && op.end != End::Fail);
    let runs: Vec<RunId> = started.filter_map(|op| op.key?.parse().ok()).collect();
    let one = |run| {
        let (recorder, client) = (recorder.clone(), client.clone());
        async move { result(&recorder, &client, LAST_CLIENT, run, LAST_PATIENCE).await }
    };
    stream::iter(runs).map(one).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    client.close().await;
    Ok(())
}

/// What every step does. What it returns is different each time.
async fn body(shared: Shared, step: Step) -> Result<Made, BoxError> {
    let by = shared.bodies.fetch_add(1, Ordering::Relaxed);
    let Step { run, step, account, amount } = step;
    shared.recorder.note(0, "offer", format!("{run} {step}"), json!(by));
    sleep(Duration::from_millis(by % BODY_MS_MAX)).await;
    Ok(Made { account, amount, by })
}

async fn transfer(cx: WorkflowContext, input: Input, shared: Shared) -> Result<Seen, BoxError> {
    let Input { run, payer, payee, amount, fails } = input;
    let mut seen = Seen::new();
    let spawn = |step: &str, account: u64, amount: i64| {
        let args = Step { run: run.clone(), step: step.to_owned(), account, amount };
        cx.spawn_task::<Made>(TASK, args).key([step]).queue(QUEUE).policy(SOON).start()
    };
    let mut read = |step: &str, made: Made| {
        shared.recorder.note(1, "read", format!("{run} {step}"), json!(made));
        seen.insert(step.to_owned(), made);
    };
    // Side by side, and one of them twice: one execution, and both see what it made.
    let (out, again, into) = (spawn("out", payer, -amount), spawn("out", payer, -amount), spawn("in", payee, amount));
    read("out", out.await?);
    read("in", into.await?);
    read("out", again.await?);
    let executions = {
        let mut executions = shared.executions.lock();
        let count = executions.entry(run.clone()).or_default();
        *count += 1;
        *count
    };
    if executions <= fails {
        return Err(format!("execution {executions} fails, {fails} are to").into());
    }
    let args = Step { run: run.clone(), step: "note".into(), account: payer, amount: 0 };
    let of_note = shared.clone();
    read("note", cx.run("note", ["note"], move || body(of_note, args)).await?);
    Ok(seen)
}

fn judge(ops: &[Op], judge: &mut Judge<'_>) {
    judge.positions();
    let offers = ops.iter().filter(|op| op.f == "offer");
    let offers: Vec<Offer<String, u64>> = offers
        .map(|op| Offer { key: key(op), value: op.asked_with.as_u64().unwrap_or_default(), at: op.asked })
        .collect();
    let mut looks = Vec::new();
    let mut look = |key: String, made: &Value, asked: u64, answered: u64| {
        looks.push(Look { key, value: made["by"].as_u64(), asked, answered, index: None });
    };
    for op in ops.iter().filter(|op| op.end == End::Ok) {
        match op.f.as_str() {
            "read" => look(key(op), &op.asked_with, op.asked, op.answered),
            // The end of the run is one more reader of each step.
            "result" => {
                let steps = op.answer.as_object().into_iter().flatten().filter(|(_, made)| made.is_object());
                steps.for_each(|(step, made)| look(format!("{} {step}", key(op)), made, op.asked, op.answered));
            }
            _ => {}
        }
    }
    judge.violations(memo::check(&offers, &looks, LATE_US));
    let in_python = offers.iter().filter(|offer| offer.value >= FIRST_IN_PYTHON).count();
    let figures = json!({ "executions of bodies": offers.len(), "in Python": in_python, "reads": looks.len() });
    judge.figure("memo", figures);
    runs(ops, judge);
}

/// Runs as work: none is lost, each has one end, and it is booked as it was asked for.
fn runs(ops: &[Op], judge: &mut Judge<'_>) {
    let starts = || ops.iter().filter(|op| op.f == "start");
    let results = || ops.iter().filter(|op| op.f == "result" && op.end == End::Ok);
    let seen = work::Seen {
        submitted: starts().map(|op| work::Submitted { key: key(op), asked: op.asked, end: op.end }).collect(),
        executed: Vec::new(),
        ended: results().map(|op| work::Ended { key: key(op), outcome: &op.answer, at: op.answered }).collect(),
        drained: true,
    };
    let (summary, broken) = work::check(&seen);
    judge.violations(broken);
    let adds: Vec<_> =
        starts().map(|op| set::Add { key: key(op), asked: op.asked, answered: op.answered, end: op.end }).collect();
    // Who was told that there is no such run has looked, too.
    let looked = ops.iter().filter(|op| op.f == "result" && op.end != End::Maybe);
    let looked: Vec<_> = looked
        .map(|op| set::Look { key: key(op), there: op.end == End::Ok, asked: op.asked, answered: op.answered })
        .collect();
    judge.violations(set::check(&adds, &looked).1);
    let asked: BTreeMap<String, &Op> = starts().map(|op| (key(op), op)).collect();
    let mut transfers: BTreeMap<String, Transfer<String>> = BTreeMap::new();
    for op in results() {
        let Some(start) = asked.get(&key(op)) else { continue };
        let number = |name: &str| start.asked_with[name].as_u64().unwrap_or_default();
        let booked = ["out", "in"].into_iter().filter_map(|step| {
            let made: Made = serde_json::from_value(op.answer.get(step)?.clone()).ok()?;
            Some(Booking { account: made.account, amount: made.amount })
        });
        let (from, to, amount) = (number("from"), number("to"), number("amount") as i64);
        transfers.insert(key(op), Transfer { key: key(op), from, to, amount, booked: booked.collect() });
    }
    let transfers: Vec<_> = transfers.into_values().collect();
    let (balances, broken) = ledger::check(&transfers);
    judge.violations(broken);
    judge.figure(
        "transfers",
        json!({
            "acknowledged": summary.accepted, "ended": summary.ended,
            "accepted without an answer": summary.maybe_accepted, "balances": balances,
        }),
    );
}
