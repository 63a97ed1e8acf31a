//! Before a clean stop: whatever this node leads is led by others first, so that nobody waits for an election.

use std::time::Duration;

use coda_protocol::ids::NodeId;
use coda_raft_store::group::{Follower, Group};
use futures::future::join_all;
use tokio::time::timeout;
use tracing::{info, warn};

use super::replicas::HEARD_LATELY;
use crate::host::Host;

/// How long handing over may hold up a stop. Whoever is left without a leader then elects one.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);

/// Hands over all that this node leads, at once.
pub async fn hand_over(host: &Host) {
    let led = host.routes.led().into_iter().map(|router| router.shared.group.clone());
    join_all(led.map(|group| hand_over_one(host, group))).await;
}

async fn hand_over_one(host: &Host, group: Group) {
    let voters = group.membership().voters;
    let mut others: Vec<(NodeId, Follower)> = group.followers().into_iter().collect();
    others.retain(|(node, other)| {
        let lately = other.heard.is_some_and(|heard| heard < HEARD_LATELY);
        voters.contains(node) && lately && host.asking.is_up(host, *node)
    });
    let Some((to, _)) = others.into_iter().min_by_key(|(_, other)| other.lag) else { return };
    let id = group.id();
    info!(group = id.0, to = to.0, "leadership is handed over before this node stops");
    if let Err(error) = group.transfer_leader(to).await {
        return warn!(group = id.0, %error, "leadership cannot be handed over");
    }
    let mut leadership = group.leadership();
    let over = leadership.wait_for(|now| !now.is_me && now.leader.is_some());
    if timeout(HAND_OVER_PATIENCE, over).await.is_err() {
        warn!(group = id.0, to = to.0, "leadership was not taken over in time");
    }
}
