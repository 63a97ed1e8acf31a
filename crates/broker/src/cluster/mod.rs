//! A node as one of several: what it knows of the cluster, what nodes ask each other, and who brings replicas where they
//! should be.
//!
//! Every node has a copy of the meta group, and learns from it alone what the cluster is. What is decided there is brought
//! about by whoever leads what it is about:
//!
//! ```text
//!  meta group's log ──applied──▶ view ──▶ sessions (the map), peers (who may be here), hosting (which groups run here)
//!        ▲                         │
//!        │ PlaceGroup, Activate    ├──▶ steward, with the meta group's leader: what should be where
//!        └─────────────────────────┤
//!        ▲ SettleGroup             └──▶ replicas, with each group's leader: brings Raft's membership there
//!        └───────────────────────────────┘
//! ```

mod admission;
mod answer;
mod ask;
pub mod everyone;
mod formation;
mod hand_over;
mod hosting;
mod operate;
mod replicas;
mod report;
mod steward;
mod view;

pub use admission::Door;
pub use answer::Answers;
pub use ask::Asking;
#[cfg(feature = "testing")]
pub use ask::{Answered, Ask};
pub use formation::{follow, init, register};
pub use hand_over::hand_over;
pub use hosting::{Hosting, HostingOptions};
pub use operate::operate;
pub use report::counters;
pub use steward::Rebalance;
pub use view::{ClusterView, View};

use std::collections::BTreeMap;

use coda_protocol::ids::GroupId;
use tokio::task::JoinSet;

use crate::host::Host;
use crate::router::Router;

/// Keeps what runs beside each leadership on this node, from its beginning to its end.
pub async fn keep(host: Host) {
    let mut led: BTreeMap<(GroupId, u64), JoinSet<()>> = BTreeMap::new();
    let mut changes = host.routes.changes();
    loop {
        changes.borrow_and_update();
        let now: BTreeMap<_, Router> = host.routes.led().into_iter().map(|router| (router.key(), router)).collect();
        led.retain(|key, _| now.contains_key(key));
        for (key, router) in now {
            led.entry(key).or_insert_with(|| beside(&host, &router));
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn beside(host: &Host, router: &Router) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(replicas::keep(host.clone(), router.shared.group.clone()));
    if router.shared.group.id() == GroupId::META {
        tasks.spawn(steward::keep(host.clone(), router.clone()));
    }
    tasks
}
