//! Exclusive leases: workers whose sessions are ended behind their backs go on regardless, and write to a sink that takes no
//! token smaller than one it has seen. Only the last of them counts, to the cluster and to the sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coda_checkers::fencing::Write;
use coda_client::{Client, ConnectOptions};
use coda_protocol::ids::{LeaseId, SessionId, TaskId};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::TaskLease;
use coda_protocol::request::Request;
use futures::FutureExt;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Kind, Setting, Workload};
use crate::clients::{PATIENCE, Turn, fresh, submit, task, wait};
use crate::groups::task_id;
use crate::hands::ended_by;
use crate::load::{Crew, Load};
use crate::moment::Moment;
use crate::recorder::Recorder;

pub const KIND: Kind = Kind {
    name: "leases",
    about: "workers lose their leases and go on: only the last attempt counts, to a fenced sink too",
    python: Some(include_str!("../../python/leases_worker.py")),
    start: |setting| Box::pin(start(setting)),
};

const CREW: Crew = Crew { queue: "leases", workers: 4, slots: 8 };
const BODY_MS_MAX: u64 = 1_200;
/// Between two sessions that are ended.
const BETWEEN_MS: std::ops::Range<u64> = 1_000..3_000;
/// Bodies take long: a task is as much as so many.
const LONG: f64 = 3.0;

/// Takes writes with a token, unless it has seen a larger one for that work. Cheap to clone.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    highest: BTreeMap<TaskId, LeaseId>,
    writes: Vec<Write<String>>,
}

impl Sink {
    /// Whether it was taken.
    fn write(&self, work: TaskId, token: LeaseId) -> bool {
        let mut inner = self.0.lock();
        let highest = inner.highest.entry(work).or_insert(token);
        let accepted = token >= *highest;
        *highest = token.max(*highest);
        inner.writes.push(Write { work: work.to_string(), token: token.0, accepted, at: Moment::now().0 });
        accepted
    }
}

async fn start(setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let (sink, python) = (Sink::default(), setting.python);
    let of_bodies = sink.clone();
    let mut load = Load::new(setting, KIND.name, move |_, judge| {
        judge.queue();
        judge.leases(&sink.0.lock().writes);
        judge.positions();
    })?;
    let recorder = load.recorder.clone();
    let mut sessions = load.serve(CREW, move |lease| work(of_bodies.clone(), recorder.clone(), lease).boxed()).await?;
    // The worker in Python is nobody special.
    sessions.extend(python);
    let (supervisor, of_supervisor) = (fresh(&load.options), load.fork());
    load.beside(|stop| end_sessions(supervisor, sessions, of_supervisor, stop).boxed());
    load.drive(LONG, |turn| take_turn(turn).boxed()).await?;
    Ok(Box::new(load))
}

async fn take_turn(mut turn: Turn) {
    let id = task_id(&mut turn.chance);
    if submit(&turn, task(id, CREW.queue, CREW.queue, &json!([turn.turn])), json!({})).await {
        wait(&turn.recorder, &turn.client, turn.number, id, PATIENCE).await;
    }
}

/// Writes when it begins and when it ends, and believes all the time that the work is its own.
async fn work(sink: Sink, recorder: Recorder, lease: TaskLease) -> WorkOutcome {
    let write = |when: &str| {
        let accepted = sink.write(lease.task, lease.lease);
        recorder.note(
            0,
            "sink",
            lease.task,
            json!({ "attempt": lease.attempt, "token": lease.lease.0, "accepted": accepted, "when": when }),
        );
    };
    write("begin");
    sleep(Duration::from_millis(lease.lease.0.wrapping_mul(0x9E37_79B9) % BODY_MS_MAX)).await;
    write("end");
    ended_by(&lease)
}

/// Says of workers that live that they are dead, as a supervisor might that is wrong.
async fn end_sessions(
    options: ConnectOptions,
    sessions: Vec<SessionId>,
    mut chance: StdRng,
    mut stop: watch::Receiver<bool>,
) {
    let Ok(client) = Client::connect(options).await else { return };
    loop {
        let between = Duration::from_millis(chance.random_range(BETWEEN_MS));
        if timeout(between, stop.wait_for(|stop| *stop)).await.is_ok() {
            break;
        }
        let Some(session) = sessions.choose(&mut chance) else { break };
        drop(client.link().ask_within(Request::EndSession(*session), PATIENCE).await);
    }
    client.close().await;
}
