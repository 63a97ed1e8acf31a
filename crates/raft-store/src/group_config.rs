//! How a group is run, and what openraft is told.

use std::time::Duration;

use coda_protocol::ids::{GroupId, NodeId};
use openraft::{Config, SnapshotPolicy};

use crate::error::StoreError;

/// How a group is run on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOptions {
    pub group: GroupId,
    pub node: NodeId,
    /// Where peers find this node; empty if it never has any.
    pub addr: String,
    pub heartbeat: Duration,
    /// A follower that has heard nothing for the larger of these, which is the leader's lease, and a random time between
    /// them after that, stands for election.
    pub election_min: Duration,
    pub election_max: Duration,
    /// The state is made durable and the log before it let go after this many bytes of log. A restart replays up to
    /// this much, and between one and two times this much is kept for followers that lag.
    pub checkpoint_log_bytes: u64,
}

impl GroupOptions {
    /// Timeouts for a local network, by which a dead leader is replaced after about half a second: a process has to be
    /// held up for eight heartbeats to lose its leadership. Checkpoints that keep a restart well under a second.
    #[must_use]
    pub fn new(group: GroupId, node: NodeId) -> Self {
        Self {
            group,
            node,
            addr: String::new(),
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(100),
            election_max: Duration::from_millis(300),
            checkpoint_log_bytes: 32 << 20,
        }
    }
}

/// What openraft is told. The safety of the log rests on some of it: see the tests.
pub(crate) fn config(options: &GroupOptions) -> Result<Config, StoreError> {
    let ms = |duration: Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: format!("coda-{}", options.group.0),
        heartbeat_interval: ms(options.heartbeat),
        election_timeout_min: ms(options.election_min),
        election_timeout_max: ms(options.election_max),
        // On, a leader that lost its unsynced tail in a crash resumes its term and gives a used position to another
        // entry: replicas diverge. Off, it has to be elected again.
        enable_leader_restore: Some(false),
        // Followers write while the leader's own disk does.
        broadcast_submitted_on_append: Some(true),
        enable_pre_vote: Some(true),
        // By bytes of log, and purged by us, not by counts of entries: `keep_checkpoints`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower is sent a snapshot only when the log it needs is gone.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: ms(Duration::from_secs(600)),
        max_payload_entries: 1_024,
        ..Config::default()
    };
    config.validate().map_err(|error| StoreError::Io { doing: "checking the group's options", why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_safety_rests_on_are_set() {
        let config = config(&GroupOptions::new(GroupId(1), NodeId(1))).unwrap();
        assert_eq!(config.enable_leader_restore, Some(false), "on, replicas diverge after a crash");
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.broadcast_submitted_on_append, Some(true));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert!(config.enable_tick && config.enable_elect && config.enable_heartbeat);
    }
}
