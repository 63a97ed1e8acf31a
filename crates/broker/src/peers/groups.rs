//! Where peers' calls end: the groups of this node, by id.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::{Group, ServeError};
use coda_raft_store::peers::Rpc;
use coda_raft_store::store::SnapshotFile;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::RwLock;

/// Finds groups, and who answers for the node itself.
pub trait Groups: Send + Sync + 'static {
    /// The group, if it runs on this node now.
    fn find(&self, group: GroupId) -> Option<Arc<dyn Served>>;

    /// Who answers other nodes' questions, once somebody does.
    fn asked(&self) -> Option<Arc<dyn Asked>>;
}

/// Answers what other nodes ask. What questions there are is not known here.
pub trait Asked: Send + Sync + 'static {
    fn ask(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Bytes>;
}

/// What a group answers; [`Group`] has the same verbs.
pub trait Served: Send + Sync + 'static {
    fn serve(&self, rpc: Rpc, body: Bytes) -> BoxFuture<'static, Result<Bytes, ServeError>>;
    fn serve_appends(&self, requests: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes>;
    fn serve_snapshot(&self, head: Bytes, file: SnapshotFile) -> BoxFuture<'static, Result<Bytes, ServeError>>;
    fn snapshot_file(&self, name: &str) -> SnapshotFile;
}

impl Served for Group {
    fn serve(&self, rpc: Rpc, body: Bytes) -> BoxFuture<'static, Result<Bytes, ServeError>> {
        let group = self.clone();
        async move { Group::serve(&group, rpc, &body).await }.boxed()
    }

    fn serve_appends(&self, requests: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
        Group::serve_appends(self, requests)
    }

    fn serve_snapshot(&self, head: Bytes, file: SnapshotFile) -> BoxFuture<'static, Result<Bytes, ServeError>> {
        let group = self.clone();
        async move { Group::serve_snapshot(&group, &head, file).await }.boxed()
    }

    fn snapshot_file(&self, name: &str) -> SnapshotFile {
        Group::snapshot_file(self, name)
    }
}

/// Groups that come and go while peers call. Clones are the same table.
#[derive(Clone, Default)]
pub struct GroupTable(Arc<RwLock<Table>>);

#[derive(Default)]
struct Table {
    groups: BTreeMap<GroupId, Arc<dyn Served>>,
    asked: Option<Arc<dyn Asked>>,
}

impl GroupTable {
    pub fn insert(&self, group: GroupId, served: Arc<dyn Served>) {
        self.0.write().groups.insert(group, served);
    }

    pub fn remove(&self, group: GroupId) {
        self.0.write().groups.remove(&group);
    }

    /// This answers other nodes' questions from now on.
    pub fn answer_with(&self, asked: Arc<dyn Asked>) {
        self.0.write().asked = Some(asked);
    }

    pub fn clear(&self) {
        *self.0.write() = Table::default();
    }
}

impl Groups for GroupTable {
    fn find(&self, group: GroupId) -> Option<Arc<dyn Served>> {
        self.0.read().groups.get(&group).cloned()
    }

    fn asked(&self) -> Option<Arc<dyn Asked>> {
        self.0.read().asked.clone()
    }
}
