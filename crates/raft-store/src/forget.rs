//! Deleting a group that has left this node, so that a crash at any moment leaves all of it, or what a restart deletes.
//!
//! What the group has voted stays: should it come back, it never votes twice in a term.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use coda_protocol::ids::GroupId;
use tokio::sync::oneshot;

use crate::committer::forget_log;
use crate::db::{Db, write_state};
use crate::error::StoreError;
use crate::log::{LogOp, LogStore, Place};
use crate::markers::Markers;
use crate::storage::{Durability, END, Family};
use crate::view::{StateView, group_range};

const DOING: &str = "deleting a group";
const MARKERS: Markers = Markers::new("forgetting");

/// Deletes log and state of a group that does not run any more.
///
/// # Errors
/// `CODA4106` when the disk refuses; a restart goes on.
pub(crate) async fn forget(db: &Arc<Db>, log: &dyn LogStore, group: GroupId) -> Result<(), StoreError> {
    let all = db.clone();
    let begun = db.workshop().run(move || {
        // From here on a restart finishes the job: a log without its state is never seen.
        all.put_meta_synced(&MARKERS.key(group), &[])?;
        delete_state(&all, group)
    });
    begun.await.map_err(StoreError::io(DOING))??;
    let (tell, told) = oneshot::channel();
    log.submit(group, LogOp::Forget, Place::Beside, Box::new(move |result| drop(tell.send(result))));
    let gone = told.await.map_err(|_| StoreError::Closed)?;
    gone.map_err(StoreError::io(DOING))?;
    let all = db.clone();
    let ended = db.workshop().run(move || all.delete_meta_synced(&MARKERS.key(group)));
    ended.await.map_err(StoreError::io(DOING))?
}

/// Finishes deletions that a crash interrupted.
///
/// # Errors
/// `CODA4106` when the disk refuses.
pub(crate) fn finish_interrupted(db: &Db) -> Result<(), StoreError> {
    for (group, _) in MARKERS.all(db)? {
        tracing::warn!(group = group.0, "an interrupted deletion of a group is finished");
        delete_state(db, group)?;
        let mut batch = db.batch();
        forget_log(group, &mut *batch);
        batch.write(Durability::Synced).map_err(StoreError::refused(DOING))?;
        db.delete_meta_synced(&MARKERS.key(group))?;
    }
    Ok(())
}

/// Groups of which something is kept besides what they have voted.
///
/// # Errors
/// `CODA4106` when the disk refuses.
pub(crate) fn kept(db: &Db, log: &dyn LogStore) -> Result<Vec<GroupId>, StoreError> {
    let mut groups = BTreeSet::new();
    let mut note = |key: &[u8], _: &[u8]| {
        // Five bytes are a group's own, see the committer; those of the node are longer.
        if let [a, b, c, d, _] = *key {
            groups.insert(GroupId(u32::from_be_bytes([a, b, c, d])));
        }
        ControlFlow::Continue(())
    };
    db.now().scan(Family::Meta, &[], END, &mut note).map_err(StoreError::refused(DOING))?;
    let mut kept = Vec::new();
    for group in groups {
        let found = log.recover(group)?;
        let in_log = found.last.is_some() || found.purged.is_some();
        if in_log || StateView::live(db).applied(group)?.is_some() {
            kept.push(group);
        }
    }
    Ok(kept)
}

fn delete_state(db: &Db, group: GroupId) -> Result<(), StoreError> {
    let (from, to) = group_range(group);
    let mut batch = db.batch();
    batch.delete_range(Family::State, &from, &to);
    write_state(batch)?;
    db.flush_state()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::log::{LogPoint, VoteRow};
    use crate::store::{NodeStore, StoreOptions};
    use crate::view::applied_row;

    const GONE: GroupId = GroupId(1);
    const STAYS: GroupId = GroupId(2);

    fn submit(store: &NodeStore, group: GroupId, op: LogOp) {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        store.log().submit(group, op, Place::Here, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
    }

    fn fill(store: &NodeStore, group: GroupId) {
        submit(store, group, LogOp::Vote(VoteRow { term: 7, node: 1, committed: true }));
        submit(
            store,
            group,
            LogOp::Append { first: 4, records: vec![Bytes::from_static(&[1, 0, 7, 0, 0, 0, 0, 0, 0, 0])] },
        );
        submit(store, group, LogOp::Purge { from: 0, upto: LogPoint { term: 7, index: 3 } });
        store.log().note_committed(group, LogPoint { term: 7, index: 4 });
        let (key, row) = applied_row(group, LogPoint { term: 7, index: 4 });
        let mut batch = store.db().batch();
        batch.put(Family::State, &key, &row);
        write_state(batch).unwrap();
    }

    fn is_empty_but_for_its_vote(store: &NodeStore, group: GroupId) -> bool {
        let found = store.log().recover(group).unwrap();
        let state = StateView::live(store.db()).applied(group).unwrap();
        assert_eq!(found.vote.map(|vote| vote.term), Some(7), "a vote is for good");
        (found.last, found.purged, found.committed, state) == (None, None, None, None)
    }

    #[tokio::test]
    async fn a_group_that_is_deleted_leaves_its_vote_and_no_other_group_notices() {
        let dir = tempfile::tempdir().unwrap();
        let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
        fill(&store, GONE);
        fill(&store, STAYS);
        assert_eq!(store.groups().unwrap(), [GONE, STAYS]);
        store.delete_group(GONE).await.unwrap();
        // A position that was noted before goes to disk with the next operation of any group.
        submit(&store, STAYS, LogOp::Vote(VoteRow { term: 7, node: 1, committed: true }));
        assert!(is_empty_but_for_its_vote(&store, GONE) && !is_empty_but_for_its_vote(&store, STAYS));
        assert_eq!(store.groups().unwrap(), [STAYS]);
        store.close().unwrap();
    }

    #[test]
    fn a_deletion_that_a_crash_interrupts_is_finished_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
        fill(&store, GONE);
        store.db().put_meta_synced(&MARKERS.key(GONE), &[]).unwrap();
        store.close().unwrap();
        let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
        assert!(is_empty_but_for_its_vote(&store, GONE));
        assert!(MARKERS.all(store.db()).unwrap().is_empty());
        store.close().unwrap();
    }
}
