//! What runs beside a group: news of the leadership, and checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coda_protocol::ids::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::group::{GroupRaft, Leadership};
use crate::group_log::GroupLog;
use crate::hung::Standing;
use crate::state_machine::Shared;
use crate::types::LogId;

/// Tasks that live as long as their group.
pub(crate) struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Tasks {
    pub fn spawn(tasks: impl IntoIterator<Item = JoinHandle<()>>) -> Self {
        Self(Mutex::new(tasks.into_iter().collect()))
    }

    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.0.lock());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.lock().iter().for_each(JoinHandle::abort);
    }
}

/// Tells who leads, and whether this node has others to send to, until openraft stops.
pub(crate) async fn follow_leadership(
    raft: GroupRaft,
    standing: Arc<Standing>,
    leads: watch::Sender<Leadership>,
    replicates: Arc<AtomicBool>,
) {
    // Not `metrics`, which changes several times with every entry: each change would wake a thread.
    let mut servers = raft.server_metrics();
    let mut given_up = standing.given_up();
    loop {
        let now = {
            let server = servers.borrow_and_update();
            let others = server.membership_config.nodes().count() > 1;
            replicates.store(server.state.is_leader() && others, Ordering::Relaxed);
            let term = server.vote.leader_id().term;
            given_up.borrow_and_update();
            let leads = server.state.is_leader();
            let is_me = leads && standing.may_lead_in(term);
            // A leader that was started again is still the last one that its vote was given to, and leads no more.
            let leader = server.current_leader.filter(|leader| (*leader == server.id) == is_me).map(NodeId);
            Leadership { term, leader, is_me, failure: None }
        };
        leads.send_if_modified(|before| {
            let modified = *before != now;
            *before = now;
            modified
        });
        tokio::select! {
            changed = servers.changed() => if changed.is_err() {
                break;
            },
            // This holds the other end.
            _ = given_up.changed() => {}
        }
    }
    // It has ended, and its last report says why.
    let failure = match &raft.metrics().borrow_watched().running_state {
        Ok(()) | Err(Fatal::Stopped) => None,
        Err(fatal) => Some(fatal.to_string()),
    };
    leads.send_if_modified(|last| {
        let modified = last.is_me || last.leader.is_some() || last.failure != failure;
        (last.is_me, last.leader, last.failure) = (false, None, failure);
        modified
    });
}

/// Openraft goes on without its state machine when that panics, and its proposers wait for ever. Stops it instead.
pub(crate) async fn watch_state_machine(raft: GroupRaft, shared: Arc<Shared>) {
    shared.alive.closed().await;
    tracing::error!(group = shared.group.0, "CODA4125 the state machine has stopped, the group follows");
    let _ = raft.shutdown().await;
}

/// Makes the state durable whenever it is asked to, then lets go of the log before the checkpoint before it: what lies
/// between is kept for followers that lag.
pub(crate) async fn keep_checkpoints(raft: GroupRaft, shared: Arc<Shared>, log: GroupLog) {
    let mut metrics = raft.metrics();
    let mut previous = metrics.borrow_and_update().snapshot;
    // The metrics change with every entry: they are looked at only while there is something to see.
    let mut under_way = false;
    loop {
        tokio::select! {
            () = shared.checkpoint_due.notified() => {
                if raft.trigger().snapshot().await.is_err() {
                    return;
                }
                under_way = true;
            }
            changed = metrics.changed(), if under_way => {
                if changed.is_err() {
                    return;
                }
                let done = metrics.borrow_and_update().snapshot;
                if done <= previous {
                    continue;
                }
                under_way = false;
                if let Some(upto) = previous.replace(done.expect("greater than another"))
                    && raft.trigger().purge_log(unless_owed(&raft, &shared, &log, upto.index())).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// How far the log may go, so that who is sent a snapshot finds what follows it.
fn unless_owed(raft: &GroupRaft, shared: &Shared, log: &GroupLog, upto: u64) -> u64 {
    let replication = raft.metrics().borrow_watched().replication.clone().unwrap_or_default();
    let matched = |node: u64| replication.get(&node).and_then(|matched| matched.as_ref()).map_or(0, LogId::index);
    shared.owed.purge_upto(upto, log.kept_bytes(), matched)
}
