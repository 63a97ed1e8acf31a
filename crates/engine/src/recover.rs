//! State is truth, an effect is a hint: this finds again whatever a lost effect would have said.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, SessionId};
use coda_protocol::planted::{self, Bug};

use crate::due;
use crate::effect::Effect;
use crate::kv::Read;
use crate::tables::{CLUSTER, LANE, LEASE, QUEUE};

/// What a new leader, or one that lost effects, has to know to carry on. Waiting clients are not state: they ask again.
#[must_use]
pub fn recover(kv: &dyn Read, group: GroupId) -> Vec<Effect> {
    let mut effects = Vec::new();
    LANE.scan(
        kv,
        group,
        |_| {},
        |lane, row| {
            if row.ready > 0 && !QUEUE.get(kv, group, &lane.queue).is_some_and(|queue| queue.paused) {
                effects.push(Effect::LaneReady(lane));
            }
            ControlFlow::Continue(())
        },
    );
    if !planted::is(Bug::RecoverForgetsDue) {
        effects.extend(due::next(kv, group).map(Effect::WakeAt));
    }
    effects.extend(CLUSTER.get(kv, group, &()).map(|cluster| Effect::MapChanged(cluster.map_version)));
    if !planted::is(Bug::RecoverForgetsSessions) {
        effects.extend(sessions(kv, group).into_iter().map(Effect::SessionHolds));
    }
    effects
}

fn sessions(kv: &dyn Read, group: GroupId) -> BTreeSet<SessionId> {
    let mut sessions = BTreeSet::new();
    LEASE.scan(
        kv,
        group,
        |_| {},
        |key, _| {
            sessions.insert(key.session);
            ControlFlow::Continue(())
        },
    );
    sessions
}
