//! Openraft's own tests of a store, run on ours.

use std::sync::Arc;

use coda_protocol::ids::GroupId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::group_log::GroupLog;
use crate::state_machine::{Shared, StateMachine};
use crate::store::{NodeStore, StoreOptions};
use crate::types::Types;

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
