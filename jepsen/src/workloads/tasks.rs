//! Tasks of their own through a queue, some of them later: nothing is lost, nothing invented, nothing early.

use std::time::Duration;

use coda_protocol::ids::Millis;
use futures::FutureExt;
use rand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::{Kind, Setting, Workload};
use crate::clients::{Clients, PATIENCE, look, submit, task, wait};
use crate::groups::task_id;
use crate::hands::success;
use crate::load::Ground;

pub const KIND: Kind = Kind {
    name: "tasks",
    about: "tasks of a queue, some of them later: none is lost, invented or early",
    start: |setting| Box::pin(start(setting)),
};

const QUEUE: &str = "tasks";
const WORKERS: u64 = 3;
const SLOTS: u32 = 8;
const DELAY_MS: std::ops::Range<u64> = 100..2_000;
/// Of so many tasks one is delayed.
const ONE_IN: u64 = 4;
const BODY_MS_MAX: u64 = 20;

async fn start(mut setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let ground = Ground::of(&mut setting, KIND.name)?;
    let body = |lease: coda_protocol::push::TaskLease| {
        async move {
            sleep(Duration::from_millis(lease.lease.0 % BODY_MS_MAX)).await;
            success(&json!(lease.lease.0))
        }
        .boxed()
    };
    let hands = ground.hands(&setting, (QUEUE, WORKERS, SLOTS), std::sync::Arc::new(body)).await?;
    let recorder = ground.recorder.clone();
    let turns = move |mut turn: crate::clients::Turn| {
        let recorder = recorder.clone();
        async move {
            let id = task_id(&mut turn.chance);
            let delay = if turn.turn.is_multiple_of(ONE_IN) { turn.chance.random_range(DELAY_MS) } else { 0 };
            let mut one = task(id, QUEUE, QUEUE, &json!(turn.turn));
            one.delay = Millis(delay);
            let acknowledged = submit(&recorder, &turn, one, json!({ "delay_us": delay * 1_000 })).await;
            if acknowledged && turn.turn.is_multiple_of(2) {
                look(&recorder, &turn.client, turn.number, id, PATIENCE).await;
            }
            if acknowledged && turn.turn.is_multiple_of(3) {
                wait(&recorder, &turn.client, turn.number, id, PATIENCE).await;
            }
        }
        .boxed()
    };
    let (options, mut chance) = (ground.options.clone(), ground.chance.clone());
    let mut load = ground.load(|_, judge| {
        judge.queue();
        judge.leases(&[]);
        judge.delays();
        judge.positions();
    });
    load.hands = hands;
    load.clients.push(Clients::start(&options, setting.args, f64::from(setting.args.rate), &mut chance, turns).await?);
    Ok(Box::new(load) as Box<dyn Workload>)
}
