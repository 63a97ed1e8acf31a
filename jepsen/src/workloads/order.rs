//! Bursts of tasks of different priorities through a few slots: of what waits, the right one is leased.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coda_checkers::history::{End, Op};
use coda_checkers::order::{self, Leased};
use coda_protocol::limits::PRIORITY_MAX;
use coda_protocol::push::TaskLease;
use futures::FutureExt;
use futures::future::join_all;
use rand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::{Kind, Setting, Workload};
use crate::clients::{Clients, Turn, submit, task};
use crate::groups::task_id;
use crate::hands::{self, key, number, success};
use crate::judge::Judge;
use crate::load::Ground;

pub const KIND: Kind = Kind {
    name: "order",
    about: "bursts of tasks through few slots: higher priority first, then in the order of acceptance",
    start: |setting| Box::pin(start(setting)),
};

const QUEUE: &str = "order";
/// Few, so that there is always something to choose from.
const WORKERS: u64 = 2;
const SLOTS: u32 = 2;
const BURST: usize = 20;
const BODY: Duration = Duration::from_millis(5);

async fn start(mut setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let ground = Ground::of(&mut setting, KIND.name)?;
    let body = |_: TaskLease| {
        async {
            sleep(BODY).await;
            success(&json!(null))
        }
        .boxed()
    };
    let hands = ground.hands(&setting, (QUEUE, WORKERS, SLOTS), Arc::new(body)).await?;
    let recorder = ground.recorder.clone();
    let turns = move |mut turn: Turn| {
        let recorder = recorder.clone();
        async move {
            let burst: Vec<_> = (0..BURST)
                .map(|n| {
                    let mut one = task(task_id(&mut turn.chance), QUEUE, QUEUE, &json!(n));
                    one.priority = turn.chance.random_range(0..=PRIORITY_MAX);
                    one
                })
                .collect();
            let burst = burst.into_iter().map(|one| {
                let about = json!({ "priority": one.priority });
                submit(&recorder, &turn, one, about)
            });
            join_all(burst).await;
        }
        .boxed()
    };
    let (options, mut chance) = (ground.options.clone(), ground.chance.clone());
    let mut load = ground.load(|ops, judge| {
        judge.queue();
        judge.leases(&[]);
        judge.positions();
        in_order(ops, judge);
    });
    load.hands = hands;
    let rate = f64::from(setting.args.rate) / BURST as f64;
    load.clients.push(Clients::start(&options, setting.args, rate, &mut chance, turns).await?);
    Ok(Box::new(load) as Box<dyn Workload>)
}

fn in_order(ops: &[Op], judge: &mut Judge<'_>) {
    // Accepted then, for the first time.
    let submits = ops.iter().filter(|op| op.f == "submit" && op.end == End::Ok && op.answer["existed"] == json!(false));
    let accepted: BTreeMap<String, (u8, u64)> =
        submits.filter_map(|op| Some((key(op), (number(op, "priority") as u8, op.position?.index)))).collect();
    let mut lanes: BTreeMap<u32, Vec<Leased<String>>> = BTreeMap::new();
    for grant in hands::grants(ops).into_iter().filter(|grant| grant.attempt == 1) {
        let Some(&(priority, accepted)) = accepted.get(&grant.work) else { continue };
        let one = Leased { work: grant.work, priority, accepted, token: grant.token, granted: grant.index };
        lanes.entry(grant.group).or_default().push(one);
    }
    let chosen: usize = lanes.values().map(Vec::len).sum();
    lanes.values().for_each(|lane| judge.violations(order::check(lane)));
    judge.figure("leased in order", json!(chosen));
}
