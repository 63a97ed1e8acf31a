//! Bursts of tasks of different priorities through a few slots: of what waits, the right one is leased.

use std::collections::BTreeMap;
use std::time::Duration;

use coda_checkers::history::{End, Op};
use coda_checkers::order::{self, Leased};
use coda_protocol::limits::PRIORITY_MAX;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::TaskLease;
use futures::FutureExt;
use futures::future::join_all;
use rand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::{Kind, Setting, Workload};
use crate::clients::{Turn, submit, task};
use crate::groups::task_id;
use crate::hands::{self, ended_by, key, number};
use crate::judge::Judge;
use crate::load::{Crew, Load};

pub const KIND: Kind = Kind {
    name: "order",
    about: "bursts of tasks through few slots: higher priority first, then in the order of acceptance",
    // Order is told by tokens, which bodies in Python do not see.
    python: None,
    start: |setting| Box::pin(start(setting)),
};

/// Few, so that there is always something to choose from.
const CREW: Crew = Crew { queue: "order", workers: 2, slots: 2 };
const BURST: usize = 20;
const BODY: Duration = Duration::from_millis(5);

async fn start(setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let mut load = Load::new(setting, KIND.name, judge)?;
    load.serve(CREW, |lease| body(lease).boxed()).await?;
    load.drive(BURST as f64, |turn| take_turn(turn).boxed()).await?;
    Ok(Box::new(load))
}

async fn body(lease: TaskLease) -> WorkOutcome {
    sleep(BODY).await;
    ended_by(&lease)
}

async fn take_turn(mut turn: Turn) {
    let burst: Vec<_> = (0..BURST)
        .map(|n| {
            let mut one = task(task_id(&mut turn.chance), CREW.queue, CREW.queue, &json!(n));
            one.priority = turn.chance.random_range(0..=PRIORITY_MAX);
            one
        })
        .collect();
    let burst = burst.into_iter().map(|one| {
        let about = json!({ "priority": one.priority });
        submit(&turn, one, about)
    });
    join_all(burst).await;
}

fn judge(ops: &[Op], judge: &mut Judge<'_>) {
    judge.queue();
    judge.leases(&[]);
    judge.positions();
    in_order(ops, judge);
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
