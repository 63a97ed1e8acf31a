//! Exclusive leases: workers whose sessions are ended behind their backs go on regardless, and write to a sink that takes no
//! token smaller than one it has seen. Only the last of them counts, to the cluster and to the sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coda_checkers::fencing::Write;
use coda_client::{Client, ConnectOptions};
use coda_protocol::ids::{LeaseId, TaskId};
use coda_protocol::push::TaskLease;
use coda_protocol::request::Request;
use futures::FutureExt;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Kind, Setting, Workload};
use crate::clients::{Clients, PATIENCE, Turn, fresh, submit, task, wait};
use crate::groups::task_id;
use crate::hands::{Hands, Job, success};
use crate::load::Ground;
use crate::moment::Moment;

pub const KIND: Kind = Kind {
    name: "leases",
    about: "workers lose their leases and go on: only the last attempt counts, to a fenced sink too",
    start: |setting| Box::pin(start(setting)),
};

const QUEUE: &str = "leases";
const WORKERS: u64 = 4;
const SLOTS: u32 = 8;
const BODY_MS_MAX: u64 = 1_200;
/// Between two sessions that are ended.
const BETWEEN_MS: std::ops::Range<u64> = 1_000..3_000;
/// Of all workloads' rate, so many times less: bodies take long.
const SLOWER: f64 = 3.0;

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

async fn start(mut setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let ground = Ground::of(&mut setting, KIND.name)?;
    let sink = Sink::default();
    let (mut hands, mut sessions) = (Vec::new(), Vec::new());
    for number in 0..WORKERS {
        let (of_body, recorder) = (sink.clone(), ground.recorder.clone());
        let body = move |lease: TaskLease| work(of_body.clone(), recorder.clone(), lease).boxed();
        let job = Job {
            queue: QUEUE,
            name: QUEUE,
            slots: SLOTS,
            groups: setting.args.groups,
            recorder: ground.recorder.clone(),
            findings: ground.findings.clone(),
            body: Arc::new(body),
        };
        let options = fresh(&ground.options);
        sessions.push(options.session);
        hands.push(Hands::start(100 + number, options, job).await?);
    }
    let recorder = ground.recorder.clone();
    let turns = move |mut turn: Turn| {
        let recorder = recorder.clone();
        async move {
            let id = task_id(&mut turn.chance);
            if submit(&recorder, &turn, task(id, QUEUE, QUEUE, &json!(turn.turn)), json!({})).await {
                wait(&recorder, &turn.client, turn.number, id, PATIENCE).await;
            }
        }
        .boxed()
    };
    let (options, mut chance) = (ground.options.clone(), ground.chance.clone());
    let mut load = ground.load(move |_, judge| {
        judge.queue();
        judge.leases(&sink.0.lock().writes);
        judge.positions();
    });
    load.hands = hands;
    let (supervisor, of_supervisor) = (fresh(&options), StdRng::from_rng(&mut chance));
    load.beside(|stop| end_sessions(supervisor, sessions, of_supervisor, stop).boxed());
    let rate = f64::from(setting.args.rate) / SLOWER;
    load.clients.push(Clients::start(&options, setting.args, rate, &mut chance, turns).await?);
    Ok(Box::new(load) as Box<dyn Workload>)
}

/// Writes when it begins and when it ends, and believes all the time that the work is its own.
async fn work(
    sink: Sink,
    recorder: crate::recorder::Recorder,
    lease: TaskLease,
) -> coda_protocol::payload::WorkOutcome {
    let write = |when: &str| {
        let accepted = sink.write(lease.task, lease.lease);
        recorder.note(0, "sink", lease.task, json!({ "token": lease.lease.0, "accepted": accepted, "when": when }));
    };
    write("begin");
    sleep(Duration::from_millis(lease.lease.0.wrapping_mul(0x9E37_79B9) % BODY_MS_MAX)).await;
    write("end");
    success(&json!(lease.lease.0))
}

/// Says of workers that live that they are dead, as a supervisor might that is wrong.
async fn end_sessions(
    options: ConnectOptions,
    sessions: Vec<coda_protocol::ids::SessionId>,
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
