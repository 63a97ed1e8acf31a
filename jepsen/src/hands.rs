//! Workers for tasks that write down every lease: what they are told, what they say in the end, and what becomes of it.
//!
//! They stand on the SDK's `WorkerLink`, since functions of its `Worker` never see a token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coda_checkers::attempts::Attempt;
use coda_checkers::fencing::{Completion, Grant, Write};
use coda_checkers::history::{End, Op};
use coda_checkers::properties::{ACCEPTED_WORK_ENDS, TROUBLE_IS_NOT_TOLD};
use coda_client::{Client, ConnectOptions, Served, WorkerEvent, WorkerLink};
use coda_protocol::ids::{Slotted, TaskId, Work};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::push::TaskLease;
use coda_protocol::request::{CompleteTask, Request, Subscribe};
use coda_protocol::slots::SlotMap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::findings::Findings;
use crate::recorder::Recorder;

/// Everything that was leased is ended and answered by then.
const STOPS_WITHIN: Duration = Duration::from_secs(40);
const EVENTS_AT_ONCE: usize = 64;
/// A late report waits so long for its refusal.
const LATE_PATIENCE: Duration = Duration::from_secs(30);

/// What a body does with a lease. Its outcome is reported under the lease's token, even if that was lost meanwhile.
pub type Body = Arc<dyn Fn(TaskLease) -> BoxFuture<'static, WorkOutcome> + Send + Sync>;

pub struct Hands {
    stop: watch::Sender<bool>,
    working: JoinHandle<()>,
    findings: Findings,
}

struct Worker {
    number: u64,
    link: WorkerLink,
    /// Reports what its link would not send any more.
    late: Client,
    recorder: Recorder,
    slots: SlotMap,
    body: Body,
    /// Leases that it was told are lost.
    lost: Mutex<Vec<(TaskId, u64)>>,
}

/// What workers of a queue have in common.
#[derive(Clone)]
pub struct Job {
    pub queue: &'static str,
    pub name: &'static str,
    pub slots: u32,
    pub groups: u16,
    pub recorder: Recorder,
    pub findings: Findings,
    pub body: Body,
}

impl Hands {
    /// One worker, under the session of the options.
    pub async fn start(number: u64, options: ConnectOptions, job: Job) -> anyhow::Result<Self> {
        let Job { queue, name, slots, groups, recorder, findings, body } = job;
        let subscribe = Subscribe { queue: queue.into(), tasks: vec![name.into()], workflows: Vec::new() };
        let served = vec![Served { subscribe, task_slots: slots, run_slots: 0 }];
        let late = Client::connect(crate::clients::fresh(&options)).await?;
        let (link, mut events) = WorkerLink::open(options, served).await?;
        let slots = SlotMap::even(groups);
        let worker = Arc::new(Worker { number, link, late, recorder, slots, body, lost: Mutex::default() });
        let (stop, mut stopping) = watch::channel(false);
        let told = findings.clone();
        let working = tokio::spawn(async move {
            let (mut bodies, mut batch) = (JoinSet::new(), Vec::new());
            let mut is_draining = false;
            while !(is_draining && bodies.is_empty()) {
                tokio::select! {
                    _ = events.recv_many(&mut batch, EVENTS_AT_ONCE) => {}
                    Some(_) = bodies.join_next() => {}
                    _ = stopping.wait_for(|stop| *stop), if !is_draining => {
                        worker.link.drain();
                        is_draining = true;
                    }
                }
                for event in batch.drain(..) {
                    match event {
                        WorkerEvent::TaskStart(lease) => drop(bodies.spawn(worker.clone().work(lease))),
                        WorkerEvent::LeaseLost { work: Work::Task(task), lease } => {
                            worker.lost.lock().push((task, lease.0));
                        }
                        WorkerEvent::Failed(error) => {
                            told.violation(TROUBLE_IS_NOT_TOLD, format!("worker {number} was told {error}"));
                            return;
                        }
                        WorkerEvent::RunStart { .. }
                        | WorkerEvent::StepEnded { .. }
                        | WorkerEvent::StepsSeen { .. }
                        | WorkerEvent::LeaseLost { .. }
                        | WorkerEvent::Answered { .. }
                        | WorkerEvent::Connected { .. }
                        | WorkerEvent::Disconnected => {}
                    }
                }
            }
            worker.link.settled().await;
            worker.link.close().await;
            worker.late.close().await;
        });
        Ok(Self { stop, working, findings })
    }

    /// Takes nothing new, and ends when all has ended.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        match timeout(STOPS_WITHIN, self.working).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => self.findings.violation(TROUBLE_IS_NOT_TOLD, format!("a worker has panicked: {panic}")),
            Err(_) => self.findings.violation(ACCEPTED_WORK_ENDS, "a worker does not stop"),
        }
    }
}

impl Worker {
    async fn work(self: Arc<Self>, lease: TaskLease) {
        let (task, token) = (lease.task, lease.lease);
        let (attempt, retries_left) = (lease.attempt, lease.retries_left);
        let (group, index) = (group_of(&self.slots, task), token.index());
        let told =
            json!({ "token": token.0, "attempt": attempt, "left": retries_left, "group": group, "index": index });
        self.recorder.note(self.number, "lease", task, told);
        let outcome = (self.body)(lease).await;
        let said = json!({ "token": token.0, "failed": outcome.is_err(), "left": retries_left, "attempt": attempt });
        let begun = self.recorder.begin(self.number, "complete", task, said);
        if self.lost.lock().contains(&(task, token.0)) {
            // It knows that it is late, and says it all the same.
            self.link.abandon(Work::Task(task), token);
            let complete = Request::CompleteTask(CompleteTask { task, lease: token, outcome });
            let answered = self.late.link().ask_within(complete, LATE_PATIENCE).await;
            drop(self.recorder.answered(begun, answered, |_| Value::Null));
            return;
        }
        let failed = outcome.is_err();
        let complete = Request::CompleteTask(CompleteTask { task, lease: token, outcome });
        match self.link.request(complete).await {
            Ok((_, position)) => match position.known() {
                Some(position) => self.recorder.ok(begun, Value::Null, Some(position)),
                // Another attempt was faster; or this was sent twice and has counted the first time.
                None if failed => self.recorder.maybe(begun, "superseded"),
                None => self.recorder.fail(begun, "superseded", None),
            },
            Err(error) => {
                self.recorder.maybe(begun, error.code());
                self.link.abandon(Work::Task(task), token);
            }
        }
    }
}

/// An outcome that is retried, if the policy has retries left.
pub fn failure(message: &str) -> WorkOutcome {
    Err(Failure { kind: "jepsen.Planned".into(), message: message.into(), retryable: true, traceback: String::new() })
}

/// It says which attempt it was.
pub fn ended_by(lease: &TaskLease) -> WorkOutcome {
    Ok(Payload::json(json!({ "attempt": lease.attempt }).to_string()))
}

/// Leases, as workers wrote them down. Bodies in Python do not see their tokens.
pub fn grants(ops: &[Op]) -> Vec<Grant<String>> {
    let leases = ops.iter().filter(|op| op.f == "lease" && has_token(op));
    let grant = |op: &Op| Grant {
        work: key(op),
        group: number(op, "group") as u32,
        token: number(op, "token"),
        attempt: number(op, "attempt") as u32,
        index: number(op, "index"),
    };
    leases.map(grant).collect()
}

/// What workers said in the end, and what became of it.
pub fn completions(ops: &[Op]) -> Vec<Completion<String>> {
    let said = ops.iter().filter(|op| op.f == "complete" && has_token(op));
    let completion = |op: &Op| Completion {
        work: key(op),
        token: number(op, "token"),
        end: op.end,
        is_final: !has_failed(op) || number(op, "left") == 0,
        index: op.position.map(|at| at.index),
    };
    said.map(completion).collect()
}

/// Both, of each attempt, in all languages: the number of the attempt is its token. That tokens proper rise with it is said of
/// [`grants`].
pub fn attempts(ops: &[Op]) -> Vec<Attempt<String>> {
    let said: BTreeMap<(String, u64), &Op> =
        ops.iter().filter(|op| op.f == "complete").map(|op| ((key(op), number(op, "attempt")), op)).collect();
    let attempt = |op: &Op| {
        let (work, token) = (key(op), number(op, "attempt"));
        let failed = said.get(&(work.clone(), token)).filter(|op| has_failed(op)).map(|op| op.end);
        Attempt { work, token, number: token as u32, retries_left: number(op, "left") as u32, failed }
    };
    ops.iter().filter(|op| op.f == "lease").map(attempt).collect()
}

/// What is known of fenced work: who was leased what, whose end counts, and who wrote to a sink.
pub type Fenced = (Vec<Grant<String>>, Vec<Completion<String>>, Vec<Write<String>>);

/// The same of all languages: the number of the attempt is the token.
pub fn by_attempt(ops: &[Op]) -> Fenced {
    let mut works: BTreeMap<String, u32> = BTreeMap::new();
    let mut grants = Vec::new();
    for op in ops.iter().filter(|op| op.f == "lease") {
        let count = works.len() as u32;
        // Attempts of each piece of work count from 1: a group of its own.
        let (work, token) = (key(op), number(op, "attempt"));
        let group = *works.entry(work.clone()).or_insert(count);
        grants.push(Grant { work, group, token, attempt: token as u32, index: token });
    }
    let mut ends: BTreeMap<String, Completion<String>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.f == "wait" && op.end == End::Ok) {
        let said = op.answer["ok"].as_str().and_then(|said| serde_json::from_str::<Value>(said).ok());
        let Some(token) = said.and_then(|said| said["attempt"].as_u64()) else { continue };
        ends.insert(key(op), Completion { work: key(op), token, end: End::Ok, is_final: true, index: None });
    }
    let mut sunk: Vec<&Op> = ops.iter().filter(|op| op.f == "sink").collect();
    sunk.sort_by_key(|op| op.asked);
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    let write = |op: &Op| {
        let (work, token) = (key(op), number(op, "attempt"));
        let highest = highest.entry(work.clone()).or_default();
        *highest = token.max(*highest);
        Write { work, token, accepted: token == *highest, at: op.asked }
    };
    let writes = sunk.into_iter().map(write).collect();
    (grants, ends.into_values().collect(), writes)
}

/// The group whose log a task is in.
pub fn group_of(slots: &SlotMap, task: TaskId) -> u32 {
    slots.group_of(task.slot()).0
}

pub fn key(op: &Op) -> String {
    op.key.clone().unwrap_or_default()
}

/// A number that was asked with.
pub fn number(op: &Op, name: &str) -> u64 {
    op.asked_with[name].as_u64().unwrap_or_default()
}

fn has_token(op: &Op) -> bool {
    op.asked_with.get("token").is_some()
}

fn has_failed(op: &Op) -> bool {
    op.asked_with["failed"].as_bool().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use coda_checkers::fencing;

    use super::*;

    fn op(f: &str, asked: u64, with: Value, answer: Value) -> Op {
        Op {
            op: asked,
            client: 1,
            f: f.into(),
            key: Some("work".into()),
            asked_with: with,
            answer,
            asked,
            answered: asked,
            end: End::Ok,
            position: None,
            error: None,
        }
    }

    fn names(ops: &[Op]) -> Vec<&'static str> {
        let (grants, ends, writes) = by_attempt(ops);
        let broken = fencing::check(&grants, &ends, &writes);
        broken.into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn attempts_are_tokens_of_both_languages() {
        let lease = |asked, attempt| op("lease", asked, json!({ "attempt": attempt }), Value::Null);
        let sink = |asked, attempt| op("sink", asked, json!({ "attempt": attempt }), Value::Null);
        let end =
            |attempt: u64| op("wait", 90, Value::Null, json!({ "ok": json!({ "attempt": attempt }).to_string() }));
        let late = [lease(1, 1), sink(2, 1), lease(3, 2), sink(4, 2), sink(5, 1), sink(6, 2), end(2)];
        assert_eq!(names(&late), [""; 0], "the first goes on, and its second write is refused");
        assert_eq!(names(&[lease(1, 1), lease(2, 1)]), ["fencing_tokens_are_unique"]);
        assert_eq!(names(&[lease(1, 1), lease(3, 2), end(1)]), ["superseded_changes_nothing"]);
        assert_eq!(names(&[lease(1, 1), sink(2, 2), end(1)]), ["fenced_sink_agrees"]);
        assert!(grants(&late).is_empty() && completions(&late).is_empty(), "they have no tokens");
    }
}
