//! A node is away while very much happens, and catches up with what is told by a snapshot while traffic goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coda_checkers::properties as p;
use coda_client::{Client, ConnectOptions, SubmitOptions};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{NodeId, SessionId, TaskId};
use coda_protocol::operate::ClusterReport;
use coda_protocol::payload::Payload;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{Bite, Doing, Kind, Nemesis, Plan, nothing};
use crate::groups::task_id;
use crate::moment::Moment;
use crate::probers::Spread;
use crate::stage::Stage;

/// Writes at once, each followed by the next.
const WRITERS: usize = 256;
/// One in so many adds a task to the state; the others are known already.
const NEW_EVERY: u64 = 10;
/// So that a million commands are more log than is kept for those who are behind.
const ARGS_BYTES: usize = 512;
/// A queue that nobody serves.
const QUEUE: &str = "flood";
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Commands are counted so often.
const SAID_EVERY: u64 = 100_000;
/// How long latency is measured before the node comes back.
const BEFORE: Duration = Duration::from_secs(5);
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(300);
/// It is as far as everybody else.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

pub const KINDS: &[Kind] = &[Kind {
    name: "lag",
    about: "a node is away while --lag-commands pass, and catches up under load",
    needs: &[],
    mixes: false,
    make: || Box::new(Lag::default()),
}];

#[derive(Default)]
struct Lag {
    node: u64,
    bite: Option<Bite>,
}

impl Nemesis for Lag {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let (node, led) = stage.some_node()?;
        self.node = node;
        let more = format!("{} commands", stage.args.lag_commands);
        Some(Plan { nodes: vec![node], led, more, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            self.bite = Some(lag(stage, self.node).await?);
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async { Ok(self.bite.take().unwrap_or_else(|| Err("it was never away".into()))) })
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, ()> {
        nothing()
    }
}

async fn lag(stage: &mut Stage, node: u64) -> anyhow::Result<Bite> {
    let commands = stage.args.lag_commands;
    let had = applied(&stage.operator.report().await?, node);
    stage.cluster.kill(node).await?;
    flood(stage, commands).await?;

    let calm = Moment::now();
    sleep(BEFORE).await;
    let back = Moment::now();
    let purged = purged(&stage.operator.report().await?);
    let needs_snapshot = purged.iter().filter(|(group, index)| had.get(group).is_some_and(|had| had < *index)).count();
    stage.cluster.start(node).await?;
    let deadline = Instant::now() + CATCHES_UP_WITHIN;
    loop {
        let report = stage.operator.report().await?;
        if has_caught_up(&report, node) {
            break;
        }
        anyhow::ensure!(Instant::now() < deadline, "node {node} does not catch up within {CATCHES_UP_WITHIN:?}");
        sleep(LOOK_AGAIN).await;
    }
    let there = Moment::now();
    let before = Spread::of(stage.probes().latencies(calm, back));
    let during = Spread::of(stage.probes().latencies(back, there));
    let took = there.since(back);
    info!(node, ?took, ?before, ?during, ?purged, "caught up");
    stage.measured(
        "catch-up",
        json!({
            "node": node, "commands": commands, "ms": took.as_millis() as u64, "purged": purged, "had": had, "by_snapshot": needs_snapshot,
            "probe_ms_before": before, "probe_ms_during": during,
        }),
    );
    match needs_snapshot {
        0 => Ok(Err(format!("{commands} commands were not enough for a snapshot"))),
        groups => Ok(Ok(format!("it was {commands} commands behind, and needed snapshots of {groups} groups"))),
    }
}

/// Up to where each group's leader has no log any more: who is further behind needs a snapshot.
fn purged(report: &ClusterReport) -> BTreeMap<u32, u64> {
    let at = report.groups.iter().filter_map(|group| {
        let replica = report.replica(group.group, group.leader?)?;
        Some((group.group.0, replica.purged))
    });
    at.collect()
}

/// What the node has of each group.
fn applied(report: &ClusterReport, node: u64) -> BTreeMap<u32, u64> {
    let its = report.groups.iter().filter_map(|group| {
        let replica = report.replica(group.group, NodeId(node))?;
        Some((group.group.0, replica.applied))
    });
    its.collect()
}

fn has_caught_up(report: &ClusterReport, node: u64) -> bool {
    let is_active = report.members.iter().any(|member| {
        member.member.node == NodeId(node) && member.member.state == NodeState::Active && member.report.is_ok()
    });
    is_active
        && report.groups.iter().filter(|group| group.voters.contains(&NodeId(node))).all(|group| {
            let leader = group.leader.and_then(|leader| report.replica(group.group, leader));
            let its = report.replica(group.group, NodeId(node));
            matches!((leader, its), (Some(leader), Some(its)) if its.applied + CAUGHT_UP_ENTRIES >= leader.committed)
        })
}

/// So many commands, in all groups, as fast as they go.
async fn flood(stage: &mut Stage, commands: u64) -> anyhow::Result<()> {
    let options = stage.cluster.options(&stage.cluster.running())?;
    let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut writers = JoinSet::new();
    let args = Payload::json(format!("\"{}\"", "x".repeat(ARGS_BYTES)));
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(ConnectOptions { session: SessionId::random(), ..options.clone() }).await?);
    }
    for writer in 0..WRITERS {
        let (client, sent) = (clients[writer % clients.len()].clone(), sent.clone());
        let (findings, failed) = (stage.findings.clone(), failed.clone());
        let mut chance = StdRng::from_rng(&mut stage.chance);
        let mut task: TaskId = task_id(&mut chance);
        let args = args.clone();
        writers.spawn(async move {
            while !failed.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                if number >= commands {
                    return;
                }
                if number % SAID_EVERY == 0 {
                    info!(number, "commands while a node is away");
                }
                if number % NEW_EVERY == 0 {
                    task = task_id(&mut chance);
                }
                if let Err(error) =
                    client.submit(SubmitOptions::new("flood").id(task).queue(QUEUE).args(args.clone())).await
                {
                    findings.violation(p::TROUBLE_IS_NOT_TOLD, format!("a write of the flood was told {error}"));
                    failed.store(true, Ordering::Relaxed);
                }
            }
        });
    }
    writers.join_all().await;
    for client in clients {
        client.close().await;
    }
    Ok(())
}
