//! Decides what should be where. Runs beside the meta group's leader.
//!
//! It remembers nothing but whether somebody has asked for a rebalance, and when somebody else last moved a leader: each
//! round reads what is decided, asks the planner what is left to do, and decides the part of it that concerns one group.
//! Bringing it about is up to that group's leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coda_engine::cluster::command::{ClusterCommand, PlaceGroup};
use coda_engine::cluster::settings::REBALANCE_AUTO;
use coda_engine::command::Command;
use coda_engine::placement::Layout;
use coda_engine::query;
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::rebalance::{Plan, Step};
use coda_protocol::reject::{Refusal, Unavailable};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info};

use super::replicas::{CAUGHT_UP_ENTRIES, HEARD_LATELY};
use super::view::View;
use crate::host::Host;
use crate::router::Router;

/// How often it is looked after what is to be decided.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node that is gone for less than this is not worth moving leaders for: they moved by themselves already.
const PATIENCE_ROUNDS: u32 = 4;
/// How long a leader stays where an operator has put it, before leaders are spread evenly again.
const MOVED_PATIENCE: Duration = Duration::from_secs(5);

/// Until the leadership ends.
pub async fn keep(host: Host, meta: Router) {
    let mut view = host.cluster.follow();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calm_rounds = 0;
    let mut reachable = BTreeSet::new();
    let mut moves = Moves::default();
    loop {
        let is_round = tokio::select! {
            _ = look.tick() => true,
            changed = view.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
        };
        moves.see(&view.borrow_and_update(), host.clock.instant());
        let now = reached(&host, &meta);
        if now != reachable {
            (reachable, calm_rounds) = (now, 0);
        } else if is_round {
            calm_rounds += 1;
        }
        if moves.last.is_some_and(|moved| host.clock.instant() - moved < MOVED_PATIENCE) {
            // Else the leader that was just moved would be moved back before anybody has seen it there.
            continue;
        }
        let is_calm = calm_rounds >= PATIENCE_ROUNDS;
        if let Err(error) = round(&host, &meta, &reachable, is_calm, &mut moves).await {
            debug!(%error, "a round of the steward has failed, trying again");
        }
    }
}

/// Who should lead, and whether it was the steward who said so.
#[derive(Default)]
struct Moves {
    leaders: BTreeMap<GroupId, Option<NodeId>>,
    /// What the steward has decided last.
    own: Option<(GroupId, Option<NodeId>)>,
    /// When somebody else has moved a leader.
    last: Option<Instant>,
}

impl Moves {
    fn see(&mut self, view: &View, now: Instant) {
        let leaders = view.placements.iter().map(|(group, row)| (*group, row.leader)).collect();
        let before = std::mem::replace(&mut self.leaders, leaders);
        let is_moved = |(group, leader): (&GroupId, &Option<NodeId>)| {
            before.get(group).is_some_and(|before| before != leader) && self.own != Some((*group, *leader))
        };
        if self.leaders.iter().any(is_moved) {
            self.last = Some(now);
        }
    }
}

/// Nodes that answer the meta group's leader.
fn reached(host: &Host, meta: &Router) -> BTreeSet<NodeId> {
    let followers = meta.shared.group.followers();
    let lately = followers.into_iter().filter(|(_, follower)| follower.heard.is_some_and(|heard| heard < HEARD_LATELY));
    lately.map(|(node, _)| node).chain([host.node]).collect()
}

async fn round(
    host: &Host,
    meta: &Router,
    reachable: &BTreeSet<NodeId>,
    is_calm: bool,
    moves: &mut Moves,
) -> Result<(), Refusal> {
    let view = host.cluster.get();
    let followers = meta.shared.group.followers();
    for member in view.live().filter(|member| member.state == NodeState::Joining) {
        let has_copy = followers.get(&member.node).is_some_and(|follower| {
            follower.lag <= CAUGHT_UP_ENTRIES && follower.matched.is_some() && reachable.contains(&member.node)
        });
        if has_copy {
            info!(node = member.node.0, "a node has joined the cluster");
            let activate = Command::Cluster(ClusterCommand::Activate { node: member.node });
            host.asking.propose(host, GroupId::META, activate).await?;
        }
    }
    let is_asked = host.rebalance.is_asked();
    if !is_asked && (!is_calm || !meta.read(|kv, _| REBALANCE_AUTO.get(kv))) {
        return Ok(());
    }
    let Some((plan, layout, version)) = planned(host, meta, reachable).await? else { return Ok(()) };
    let Some(group) = plan.steps.first().map(Step::group) else {
        host.rebalance.done();
        return Ok(());
    };
    let place = place(&plan, &layout, group, version);
    moves.own = Some((group, place.leader));
    let place = Command::Cluster(ClusterCommand::PlaceGroup(place));
    host.asking.propose(host, GroupId::META, place).await.map(drop)
}

/// What a group's steps come to.
fn place(plan: &Plan, layout: &Layout, group: GroupId, seen: u64) -> PlaceGroup {
    let mut after = layout.clone();
    plan.steps.iter().filter(|step| step.group() == group).for_each(|step| after.take(step));
    let replicas = &after.groups[&group];
    let voters: Vec<NodeId> = replicas.voters.iter().copied().collect();
    let leader = replicas.leader.filter(|leader| voters.contains(leader)).or(voters.first().copied());
    PlaceGroup { group, voters, leader, seen }
}

/// The plan from what is decided, what it was made from, and the version of the map that says so.
async fn planned(
    host: &Host,
    meta: &Router,
    reachable: &BTreeSet<NodeId>,
) -> Result<Option<(Plan, Layout, u64)>, Refusal> {
    let read = meta.read(|kv, _| Some((query::cluster::layout(kv).ok()?, query::cluster::map_version(kv)?)));
    let Some((mut layout, version)) = read else { return Ok(None) };
    for (node, known) in &mut layout.nodes {
        known.reachable = reachable.contains(node);
    }
    // Who should lead will, once it is back: until then it is who leads now.
    for (group, replicas) in &mut layout.groups {
        if !replicas.leader.is_some_and(|leader| reachable.contains(&leader)) {
            let leader = host.asking.find_leader(host, *group).await;
            replicas.leader = leader.filter(|leader| replicas.voters.contains(leader));
        }
    }
    let planning = layout.clone();
    let plan = host.store.workshop().run(move || planning.plan()).await;
    let plan = plan.map_err(|_| Unavailable::ShuttingDown)?;
    Ok(Some((plan, layout, version)))
}

/// What is left to do: what is not decided yet, and what is decided and not there yet.
pub async fn left(host: &Host, meta: &Router) -> Result<Plan, Refusal> {
    let reachable = reached(host, meta);
    let Some((mut plan, layout, _)) = planned(host, meta, &reachable).await? else { return Ok(Plan::default()) };
    let planned: BTreeSet<GroupId> = plan.steps.iter().map(Step::group).collect();
    let view = host.cluster.get();
    let mut coming = Vec::new();
    for (group, row) in view.placements.iter().filter(|(group, _)| !planned.contains(group)) {
        let leader = host.asking.find_leader(host, *group).await;
        coming.extend(row.leaving.iter().map(|node| Step::RemoveVoter { group: *group, node: *node }));
        let preferred = row.leader.filter(|node| reachable.contains(node));
        if let (Some(from), Some(to)) = (leader, preferred)
            && from != to
        {
            coming.push(Step::TransferLeader { group: *group, from, to });
        }
        if let Some(copies) = copies_on_their_way(host, *group, &layout) {
            coming.extend(copies);
        }
    }
    coming.append(&mut plan.steps);
    Ok(Plan { steps: coming, ..plan })
}

/// Voters that a group should have and has not, as far as this node's copy of it knows.
fn copies_on_their_way(host: &Host, group: GroupId, layout: &Layout) -> Option<Vec<Step>> {
    let now = host.routes.hosted(group)?.membership();
    let wanted = layout.groups.get(&group)?.voters.iter().filter(|node| !now.voters.contains(node));
    Some(wanted.map(|node| Step::Promote { group, node: *node }).collect())
}

/// Somebody has asked for a rebalance. Lost with the node that was asked.
#[derive(Clone, Debug, Default)]
pub struct Rebalance(Arc<AtomicBool>);

impl Rebalance {
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn done(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
