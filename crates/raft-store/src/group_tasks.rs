//! What runs beside a group: news of the leadership, and checkpoints.

use std::sync::Arc;

use coda_protocol::ids::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::group::{GroupRaft, Leadership};
use crate::state_machine::Shared;

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

/// Tells who leads, until openraft stops.
pub(crate) async fn follow_leadership(raft: GroupRaft, leads: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            let failure = match &metrics.running_state {
                Ok(()) | Err(Fatal::Stopped) => None,
                Err(fatal) => Some(fatal.to_string()),
            };
            let running = metrics.running_state.is_ok();
            Leadership {
                term: metrics.current_term,
                leader: metrics.current_leader.filter(|_| running).map(NodeId),
                is_me: running && metrics.state.is_leader(),
                failure,
            }
        };
        leads.send_if_modified(|before| {
            let modified = *before != now;
            *before = now;
            modified
        });
        if metrics.changed().await.is_err() {
            leads.send_if_modified(|last| {
                let modified = last.is_me || last.leader.is_some();
                (last.is_me, last.leader) = (false, None);
                modified
            });
            return;
        }
    }
}

/// Openraft goes on without its state machine when that panics, and its proposers wait for ever. Stops it instead.
pub(crate) async fn watch_state_machine(raft: GroupRaft, shared: Arc<Shared>) {
    shared.alive.closed().await;
    tracing::error!(group = shared.group.0, "CODA4125 the state machine has stopped, the group follows");
    let _ = raft.shutdown().await;
}

/// Makes the state durable whenever enough log has been applied, then lets go of the log before the checkpoint
/// before it: what lies between is kept for followers that lag.
pub(crate) async fn keep_checkpoints(raft: GroupRaft, shared: Arc<Shared>) {
    let mut metrics = raft.metrics();
    let mut previous = metrics.borrow_and_update().snapshot;
    loop {
        tokio::select! {
            () = shared.checkpoint_due.notified() => {
                if raft.trigger().snapshot().await.is_err() {
                    return;
                }
            }
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
                let done = metrics.borrow_and_update().snapshot;
                if done <= previous {
                    continue;
                }
                if let Some(upto) = previous.replace(done.expect("greater than another"))
                    && raft.trigger().purge_log(upto.index()).await.is_err()
                {
                    return;
                }
            }
        }
    }
}
