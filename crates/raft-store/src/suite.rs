//! Openraft's own tests of a store, run on ours, and what they do not ask.

use std::sync::Arc;

use coda_protocol::ids::GroupId;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;

use crate::group_log::GroupLog;
use crate::rows::LogPoint;
use crate::state_machine::{Shared, StateMachine};
use crate::store::{NodeStore, StoreOptions};
use crate::types::{RaftEntry, Types, log_id};

struct Builder;

impl StoreBuilder<Types, GroupLog, StateMachine, (NodeStore, TempDir)> for Builder {
    async fn build(&self) -> Result<((NodeStore, TempDir), GroupLog, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
        let shared = Arc::new(Shared::new(store.db().clone(), GroupId(7), u64::MAX));
        let state_machine = StateMachine::open(shared).unwrap();
        // The suite purges what it never applied.
        let durable_end = Arc::new(u64::MAX.into());
        let log = GroupLog::open(store.log().clone(), GroupId(7), durable_end, Arc::default()).unwrap();
        Ok(((store, dir), log, state_machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_accepts_the_store() {
    Suite::test_all(Builder).await.unwrap();
}

/// A follower would take what is left for what follows the entry before the gap.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_for_a_follower_past_what_is_gone() {
    let (_store, mut log, _) = Builder.build().await.unwrap();
    let at = |index| log_id(LogPoint { term: 2, index });
    let entries = (0..10).map(|index| RaftEntry { log_id: at(index), payload: EntryPayload::Blank });
    log.blocking_append(entries).await.unwrap();
    log.purge(at(5)).await.unwrap();
    for (start, found) in [(0, vec![]), (5, vec![]), (6, vec![6, 7]), (8, vec![])] {
        let read = log.limited_get_log_entries(start, 8).await.unwrap();
        let indexes: Vec<u64> = read.iter().map(|entry| entry.log_id.index()).collect();
        assert_eq!(indexes, found, "from {start}");
    }
}
