//! Clients that do something again and again, at a rate, with a bound on what is under way; and what all of them ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coda_checkers::history::{End, Op};
use coda_checkers::properties::{ACCEPTED_WORK_ENDS, TROUBLE_IS_NOT_TOLD};
use coda_client::{Client, ConnectOptions};
use coda_protocol::ids::{Millis, SessionId, TaskId};
use coda_protocol::limits::PRIORITY_DEFAULT;
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reject::{Refusal, Reject};
use coda_protocol::reply::Reply;
use coda_protocol::request::{Request, SubmitTask};
use futures::future::{BoxFuture, join_all};
use futures::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::args::RunArgs;
use crate::findings::Findings;
use crate::recorder::Recorder;

/// Whoever waits so long for an answer goes on without knowing.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// In the end, when all is well, an answer takes no longer.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// Questions at once in the end.
const AT_ONCE: usize = 64;

pub struct Clients {
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
}

/// One of many.
pub struct Turn {
    pub recorder: Recorder,
    pub client: Client,
    /// Which client.
    pub number: u64,
    /// Which turn: no two of a workload are the same.
    pub turn: u64,
    pub chance: StdRng,
}

impl Clients {
    /// Each as a session of its own; so many turns a second of all together.
    pub async fn start(
        options: &ConnectOptions,
        args: &RunArgs,
        rate: f64,
        recorder: &Recorder,
        chance: &mut StdRng,
        take_turn: impl Fn(Turn) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let mut all = Self { stop: Arc::default(), running: Vec::new(), clients: Vec::new() };
        let count = args.clients.max(1) as u64;
        let every = Duration::from_secs_f64(count as f64 / rate.max(0.1));
        let (turns, room) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(args.in_flight)));
        let take_turn = Arc::new(take_turn);
        for number in 0..count {
            let client = Client::connect(fresh(options)).await?;
            all.clients.push(client.clone());
            let (stop, turns, room, take_turn) = (all.stop.clone(), turns.clone(), room.clone(), take_turn.clone());
            let recorder = recorder.clone();
            let mut chance = StdRng::seed_from_u64(chance.random());
            all.running.push(tokio::spawn(async move {
                let (mut tick, mut running) = (interval(every), JoinSet::new());
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stop.load(Ordering::Relaxed) {
                    tick.tick().await;
                    while running.try_join_next().is_some() {}
                    let Ok(room) = room.clone().try_acquire_owned() else { continue };
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    let chance = StdRng::seed_from_u64(chance.random());
                    let (recorder, client) = (recorder.clone(), client.clone());
                    let turn = take_turn(Turn { recorder, client, number, turn, chance });
                    running.spawn(async move {
                        turn.await;
                        drop(room);
                    });
                }
                running.join_all().await;
            }));
        }
        Ok(all)
    }

    /// No more turns, and those that were begun are waited for.
    pub async fn quiet(&mut self, patience: Duration, findings: &Findings) {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + patience;
        for running in std::mem::take(&mut self.running) {
            match timeout_at(deadline, running).await {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => findings.violation(TROUBLE_IS_NOT_TOLD, format!("a client has panicked: {panic}")),
                Err(_) => findings.violation(ACCEPTED_WORK_ENDS, "a client still waits when all is well"),
            }
        }
    }

    pub async fn close(self) {
        join_all(self.clients.iter().map(Client::close)).await;
    }
}

/// The same cluster, as somebody new.
pub fn fresh(options: &ConnectOptions) -> ConnectOptions {
    ConnectOptions { session: SessionId::random(), ..options.clone() }
}

/// A task of this name, to be varied.
pub fn task(id: TaskId, queue: &str, name: &str, args: &Value) -> SubmitTask {
    SubmitTask {
        task: id,
        name: name.into(),
        queue: queue.into(),
        args: Payload::json(args.to_string()),
        priority: PRIORITY_DEFAULT,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    }
}

/// Submits; whether it was acknowledged.
pub async fn submit(turn: &Turn, submit: SubmitTask, about: Value) -> bool {
    let begun = turn.recorder.begin(turn.number, "submit", submit.task, about);
    let answered = turn.client.link().ask_within(Request::SubmitTask(submit), PATIENCE).await;
    let existed = |reply: &Reply| match reply {
        Reply::Started { existed } => json!({ "existed": existed }),
        other => json!({ "unexpected": format!("{other:?}") }),
    };
    turn.recorder.answered(begun, answered, existed).is_ok()
}

/// Asks how a task is; a task that is not there is an answer too.
pub async fn look(
    recorder: &Recorder,
    client: &Client,
    number: u64,
    task: TaskId,
    patience: Duration,
) -> Option<Value> {
    let begun = recorder.begin(number, "look", task, Value::Null);
    match client.link().ask_within(Request::DescribeTask(task), patience).await {
        Ok(answer) => match answer.result {
            Ok(Reply::Task(task)) => {
                let value = json!({ "there": true, "ended": task.outcome.is_some(), "attempts": task.attempts });
                recorder.ok(begun, value.clone(), answer.position.known());
                Some(value)
            }
            Err(Refusal::Reject(Reject::NoSuchTask { .. })) => {
                let value = json!({ "there": false, "ended": false, "attempts": 0 });
                recorder.ok(begun, value.clone(), answer.position.known());
                Some(value)
            }
            other => {
                recorder.fail(begun, format!("{other:?}"), None);
                None
            }
        },
        Err(error) => {
            recorder.maybe(begun, error.code());
            None
        }
    }
}

/// Waits for a task's end.
pub async fn wait(recorder: &Recorder, client: &Client, number: u64, task: TaskId, patience: Duration) -> bool {
    let begun = recorder.begin(number, "wait", task, Value::Null);
    let answered = client.link().ask_within(Request::AwaitTask(task), patience).await;
    let outcome = |reply: &Reply| match reply {
        Reply::Ended(Ok(payload)) => json!({ "ok": String::from_utf8_lossy(&payload.data) }),
        Reply::Ended(Err(failure)) => json!({ "failed": failure.message }),
        other => json!({ "unexpected": format!("{other:?}") }),
    };
    recorder.answered(begun, answered, outcome).is_ok()
}

/// Somebody new looks at every task that may be there, and waits for its end.
pub async fn look_at_all(recorder: &Recorder, options: &ConnectOptions, number: u64) -> anyhow::Result<()> {
    let client = Client::connect(fresh(options)).await?;
    let submitted = recorder.history()?.into_iter().filter(|op| op.f == "submit" && op.end != End::Fail);
    let tasks: Vec<TaskId> = submitted.filter_map(|op: Op| op.key?.parse().ok()).collect();
    let one = |task: TaskId| {
        let (recorder, client) = (recorder.clone(), client.clone());
        async move {
            // What is waited for without having been acknowledged may not be there.
            let first = look(&recorder, &client, number, task, LAST_PATIENCE).await;
            if first.is_some_and(|seen| seen["there"] == json!(true)) {
                wait(&recorder, &client, number, task, LAST_PATIENCE).await;
                look(&recorder, &client, number, task, LAST_PATIENCE).await;
            }
        }
    };
    stream::iter(tasks).map(one).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    client.close().await;
    Ok(())
}
