//! Tasks of their own through a queue, some of them later: nothing is lost, nothing invented, nothing early.

use std::time::Duration;

use coda_checkers::history::Op;
use coda_protocol::ids::Millis;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::TaskLease;
use futures::FutureExt;
use rand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::{Kind, Setting, Workload};
use crate::clients::{PATIENCE, Turn, look, submit, task, wait};
use crate::groups::task_id;
use crate::hands::ended_by;
use crate::judge::Judge;
use crate::load::{Crew, Load};

pub const KIND: Kind = Kind {
    name: "tasks",
    about: "tasks of a queue, some of them later: none is lost, invented or early",
    python: Some(include_str!("../../python/tasks_worker.py")),
    start: |setting| Box::pin(start(setting)),
};

const CREW: Crew = Crew { queue: "tasks", workers: 3, slots: 8 };
const DELAY_MS: std::ops::Range<u64> = 100..2_000;
/// Of so many tasks one is delayed.
const ONE_IN: u64 = 4;
const BODY_MS_MAX: u64 = 20;

async fn start(setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let mut load = Load::new(setting, KIND.name, judge)?;
    load.serve(CREW, |lease| body(lease).boxed()).await?;
    load.drive(1.0, |turn| take_turn(turn).boxed()).await?;
    Ok(Box::new(load))
}

async fn body(lease: TaskLease) -> WorkOutcome {
    sleep(Duration::from_millis(lease.lease.0 % BODY_MS_MAX)).await;
    ended_by(&lease)
}

async fn take_turn(mut turn: Turn) {
    let id = task_id(&mut turn.chance);
    let delay = if turn.turn.is_multiple_of(ONE_IN) { turn.chance.random_range(DELAY_MS) } else { 0 };
    let mut one = task(id, CREW.queue, CREW.queue, &json!([turn.turn]));
    one.delay = Millis(delay);
    if !submit(&turn, one, json!({ "delay_us": delay * 1_000 })).await {
        return;
    }
    if turn.turn.is_multiple_of(2) {
        look(&turn.recorder, &turn.client, turn.number, id, PATIENCE).await;
    }
    if turn.turn.is_multiple_of(3) {
        wait(&turn.recorder, &turn.client, turn.number, id, PATIENCE).await;
    }
}

fn judge(_: &[Op], judge: &mut Judge<'_>) {
    judge.queue();
    judge.leases(&[]);
    judge.delays();
    judge.positions();
}
