mod common;
use std::time::Duration;
use common::{Node, submit};
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::store::{NodeStore, StoreOptions};
use coda_protocol::ids::NodeId;
use std::sync::Arc;

async fn within<T>(what: &str, group: Option<&Group>, f: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(15), f).await {
        Ok(t) => t,
        Err(_) => { eprintln!("STUCK {what} {:?} {:?}", group.map(|g| g.status()), group.map(|g| g.leadership().borrow().clone())); std::process::exit(3) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hunt() {
    for i in 0..1500 {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
            let group = within("start", None, Group::start(store.clone(), GroupOptions::new(common::GROUP, NodeId(1)), Arc::new(coda_raft_store::peers::NoPeers))).await.unwrap();
            within("init", Some(&group), group.initialize_single()).await.unwrap();
            within("propose", Some(&group), group.propose(submit(0..3))).await.unwrap();
            within("propose2", Some(&group), group.propose(submit(0..3))).await.unwrap();
            within("linearize", Some(&group), group.linearize()).await.unwrap();
            within("shutdown", Some(&group), group.shutdown()).await;
            drop(group);
            store.close().unwrap();
        }
        if i % 50 == 0 { eprintln!("{i}") }
    }
}
