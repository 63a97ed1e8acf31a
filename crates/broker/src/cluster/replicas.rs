//! Brings a group's Raft membership to where the cluster has placed it. Runs beside the group's leader.
//!
//! What is there is compared with what should be, and the first difference is worked on: so it does not matter who began
//! what, or where it was interrupted. A copy is added as a learner and votes once it has caught up; nobody loses a vote
//! before those that replace it have one; and whoever is to go hands leadership over first.

use std::collections::BTreeSet;
use std::time::Duration;

use coda_engine::cluster::command::ClusterCommand;
use coda_engine::command::Command;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::{Group, ProposeError};
use coda_raft_store::peers::Peer;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info};

use super::view::View;
use crate::host::Host;

/// How often what is there is compared with what should be.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A copy that is this many entries behind is as good as there: it gets them while others are made.
pub const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// A copy that has not answered for this long is not given anything to do.
pub const HEARD_LATELY: Duration = Duration::from_secs(1);
/// Leadership is handed to who should have it only when it has been calm for so long: a node that is being stopped has just
/// handed it over, and one that has just come back has to warm up.
const CALM: Duration = Duration::from_secs(5);

/// Until the leadership ends.
pub async fn keep(host: Host, group: Group) {
    let mut view = host.cluster.follow();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calm = Calm { since: host.clock.instant(), voters: BTreeSet::new(), version: None };
    loop {
        tokio::select! {
            _ = look.tick() => {}
            changed = view.changed() => if changed.is_err() { return },
        }
        let now = view.borrow_and_update().clone();
        if let Err(error) = step(&host, &group, &now, &mut calm).await {
            debug!(group = group.id().0, %error, "a step has failed, trying again");
        }
    }
}

/// When leadership may be handed to who should have it.
struct Calm {
    /// Since when all these voters answer.
    since: Instant,
    voters: BTreeSet<NodeId>,
    /// The placement that was there when this leadership began. A later one was made by somebody who knew who leads, and is
    /// followed at once.
    version: Option<u64>,
}

/// One step, if there is one to take.
async fn step(host: &Host, group: &Group, view: &View, calm: &mut Calm) -> Result<(), ProposeError> {
    let Some(row) = view.placements.get(&group.id()) else { return Ok(()) };
    // At the first look, whatever else there is to do: what is placed after that is new.
    let is_new = *calm.version.get_or_insert(row.version) != row.version;
    let (me, id) = (host.node, group.id());
    let wanted: BTreeSet<NodeId> = row.voters.iter().copied().collect();
    // Every node has a copy of the meta group, from which it learns what the cluster is.
    let may_learn: BTreeSet<NodeId> = match id {
        GroupId::META => view.live().map(|member| member.node).collect(),
        _ => wanted.clone(),
    };
    let now = group.membership();
    let followers = group.followers();
    let is_there = |node: &NodeId| {
        *node == me
            || followers.get(node).is_some_and(|follower| {
                // Something, however short the log is: a copy that is empty has no vote.
                let has_some = follower.matched.is_some() && follower.lag <= CAUGHT_UP_ENTRIES;
                let lately = follower.heard.is_some_and(|heard| heard < HEARD_LATELY);
                has_some && lately && host.asking.is_up(host, *node)
            })
    };

    let missing = may_learn.iter().find(|node| !now.voters.contains(node) && !now.learners.contains(node));
    if let Some(node) = missing {
        info!(group = id.0, node = node.0, "a copy is made on another node");
        group.add_learner_soon(Peer { node: *node, addr: view.peer_addr(*node) }).await?;
        return Ok(());
    }
    if !now.is_committed {
        return Ok(());
    }
    if now.is_joint {
        // A change that was interrupted: all who decide now do so alone, and from there it goes on.
        return set_voters(group, now.voters).await;
    }
    let new: BTreeSet<NodeId> = wanted.difference(&now.voters).copied().collect();
    if !new.is_empty() {
        if new.iter().all(is_there) {
            // Nobody leaves before the new ones vote.
            let both: BTreeSet<NodeId> = now.voters.union(&new).copied().collect();
            info!(group = id.0, voters = ?both, "caught up, they vote from now on");
            set_voters(group, both).await?;
        }
        return Ok(());
    }
    if now.voters != wanted {
        if wanted.contains(&me) {
            info!(group = id.0, voters = ?wanted, "the others vote no longer");
            return set_voters(group, wanted).await;
        }
        // Whoever is to go hands over first.
        let preferred = row.leader.filter(|node| is_there(node));
        if let Some(to) = preferred.or_else(|| wanted.iter().copied().find(|node| is_there(node))) {
            info!(group = id.0, to = to.0, "leadership is handed over, this node leaves the group");
            group.transfer_leader(to).await?;
        }
        return Ok(());
    }
    let stray: Vec<NodeId> = now.learners.difference(&may_learn).copied().collect();
    if !stray.is_empty() {
        info!(group = id.0, nodes = ?stray, "copies that nobody waits for are given up");
        group.remove_learners(stray).await?;
        return Ok(());
    }
    if !row.leaving.is_empty() {
        settle(host, id, view).await;
    }
    if now.voters != calm.voters || !now.voters.iter().all(is_there) {
        (calm.since, calm.voters) = (host.clock.instant(), now.voters);
    }
    if let Some(to) = row.leader.filter(|to| *to != me && is_there(to))
        && (is_new || host.clock.instant() - calm.since >= CALM)
    {
        info!(group = id.0, to = to.0, "leadership is handed to the node that should have it");
        (calm.since, calm.version) = (host.clock.instant(), Some(row.version));
        group.transfer_leader(to).await?;
    }
    Ok(())
}

/// Makes these the voters. Others leave the group, but the meta group's: every node has a copy of that.
async fn set_voters(group: &Group, voters: BTreeSet<NodeId>) -> Result<(), ProposeError> {
    let changed = match group.id() {
        GroupId::META => group.demote_others(voters).await,
        _ => group.change_voters(voters).await,
    };
    changed.map(drop)
}

/// Says that the group is where it should be.
async fn settle(host: &Host, group: GroupId, view: &View) {
    let Some(version) = view.map.as_ref().map(|map| map.version) else { return };
    let settle = Command::Cluster(ClusterCommand::SettleGroup { group, version });
    if let Err(error) = host.asking.propose(host, GroupId::META, settle).await {
        debug!(group = group.0, %error, "the group's place cannot be settled, trying again");
    }
}
