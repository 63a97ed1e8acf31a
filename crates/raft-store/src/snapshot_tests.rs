//! Snapshots: the same bytes for the same state, nothing installed from a bad file, no half state after a crash.

use std::fs;
use std::path::{Path, PathBuf};

use coda_engine::kv::Read;
use coda_protocol::ids::GroupId;
use tempfile::TempDir;

use crate::db::{Db, write_state};
use crate::disk::FileSystem;
use crate::error::StoreError;
use crate::install::{finish_interrupted, install};
use crate::medium::Medium;
use crate::rows::{LogPoint, MembershipRow, encode_row};
use crate::snapshot::{digest, write};
use crate::storage::Family;
use crate::view::{StateView, applied_row, membership_row};

const GROUP: GroupId = GroupId(5);

struct World {
    dir: TempDir,
    db: Db,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("snapshots")).unwrap();
        let db = Db::open(dir.path(), &Medium::default()).unwrap();
        Self { dir, db }
    }

    fn put(&self, group: GroupId, row: u32, value: &[u8]) {
        let mut batch = self.db.batch();
        batch.put(Family::State, &key(group, row), value);
        write_state(batch).unwrap();
    }

    /// Rows of about 3 MiB, some of them blobs, and how far they have come.
    fn fill(&self, group: GroupId, applied: u64) {
        (0..6_000).for_each(|row| self.put(group, row, &vec![row as u8; (row % 1_500) as usize]));
        let mut batch = self.db.batch();
        let (applied, membership) = (
            applied_row(group, LogPoint { term: 2, index: applied }),
            membership_row(group, &MembershipRow::default()),
        );
        batch.put(Family::State, &applied.0, &applied.1);
        batch.put(Family::State, &membership.0, &membership.1);
        write_state(batch).unwrap();
    }

    fn view(&self) -> StateView<'_> {
        StateView::live(&self.db)
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        let file = self.dir.path().join("snapshots").join(name);
        write(&self.view(), GROUP, &FileSystem, &file).unwrap();
        file
    }

    /// A copy of a file in this node's folder, as if it had been received.
    fn receive(&self, file: &Path) -> PathBuf {
        let received = self.dir.path().join("snapshots/received");
        fs::copy(file, &received).unwrap();
        received
    }
}

fn key(group: GroupId, row: u32) -> Vec<u8> {
    [&group.0.to_be_bytes()[..], &[9], &row.to_be_bytes()].concat()
}

#[test]
fn an_installed_snapshot_has_the_same_bytes_and_the_same_digest() {
    let (from, to) = (World::new(), World::new());
    from.fill(GROUP, 77);
    let neighbour = GroupId(6);
    to.put(neighbour, 1, b"of another group");
    to.put(GROUP, 99_999, b"of the old state");
    let file = from.snapshot("a");

    let header = install(&to.db, GROUP, &to.receive(&file)).unwrap();
    assert_eq!(header.applied, Some(LogPoint { term: 2, index: 77 }));
    assert_eq!(to.view().applied(GROUP).unwrap(), header.applied);
    assert_eq!(digest(&to.view(), GROUP), digest(&from.view(), GROUP));
    assert_eq!(fs::read(to.snapshot("b")).unwrap(), fs::read(&file).unwrap());
    assert_eq!(to.view().get(&key(GROUP, 99_999)), None, "the old state is gone");
    assert_eq!(to.view().get(&key(neighbour, 1)).as_deref(), Some(&b"of another group"[..]));
}

#[test]
fn a_snapshot_of_another_group_is_refused() {
    let (from, to) = (World::new(), World::new());
    from.fill(GROUP, 77);
    let error = install(&to.db, GroupId(6), &to.receive(&from.snapshot("a"))).unwrap_err();
    assert!(matches!(error, StoreError::CorruptSnapshot { .. }), "{error}");
}

#[test]
fn a_corrupt_snapshot_is_refused_by_name_and_changes_nothing() {
    let (from, to) = (World::new(), World::new());
    from.fill(GROUP, 77);
    to.put(GROUP, 1, b"old");
    let before = digest(&to.view(), GROUP);
    let good = fs::read(from.snapshot("a")).unwrap();
    let refusal = |bytes: &[u8]| {
        let file = to.dir.path().join("snapshots/received");
        fs::write(&file, bytes).unwrap();
        let error = install(&to.db, GROUP, &file).unwrap_err().to_string();
        assert!(error.starts_with("CODA4107 corrupt snapshot"), "{error}");
        assert_eq!(digest(&to.view(), GROUP), before);
        error
    };
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        refusal(&bytes)
    };

    // Blocks are of 1 MiB; the header is short.
    assert!(flipped(500).contains("block 0: wrong checksum"));
    assert!(flipped((1 << 20) + 5_000).contains("block 1: wrong checksum"));
    assert!(flipped(20).contains("header: wrong checksum"));
    assert!(flipped(0).contains("not a Coda snapshot"));
    assert!(flipped(good.len() - 6).contains("footer"));
    assert!(refusal(&good[..good.len() - 1]).contains("footer: it is cut short"));
    assert!(refusal(&good[..(2 << 20)]).contains("block 1: the file is cut short"));
    assert!(refusal(&[&good[..], &[0]].concat()).contains("bytes behind the end"));
    assert!(refusal(b"CODASNAP").contains("header: it is cut short"));

    // Every bit is covered by some checksum.
    for at in (0..good.len()).step_by(good.len() / 97) {
        flipped(at);
    }
}

#[test]
fn an_installation_that_a_crash_interrupted_is_finished_at_the_next_start() {
    let (from, to) = (World::new(), World::new());
    from.fill(GROUP, 77);
    to.fill(GROUP, 3);
    let file = from.snapshot("a");
    // The crash came after the marker, with half of the rows replaced and even flushed.
    fs::copy(&file, to.dir.path().join("snapshots/installing-5")).unwrap();
    let marker = [&u32::MAX.to_be_bytes()[..], b"installing", &GROUP.0.to_be_bytes()].concat();
    to.db.put_meta_synced(&marker, &encode_row(&"installing-5")).unwrap();
    to.put(GROUP, 1, b"half");
    to.db.flush_state().unwrap();
    let World { dir, db } = to;
    drop(db);

    let to = World { db: Db::open(dir.path(), &Medium::default()).unwrap(), dir };
    finish_interrupted(&to.db).unwrap();
    assert_eq!(digest(&to.view(), GROUP), digest(&from.view(), GROUP));
    assert_eq!(to.view().applied(GROUP).unwrap(), Some(LogPoint { term: 2, index: 77 }));
    assert_eq!(to.db.get_meta(&marker).unwrap(), None);
    assert_eq!(fs::read_dir(to.dir.path().join("snapshots")).unwrap().count(), 0, "files are cleaned up");
}

#[test]
fn equal_state_has_equal_bytes_however_it_came_about() {
    let (one, two) = (World::new(), World::new());
    one.fill(GROUP, 77);
    (0..6_000).rev().for_each(|row| two.put(GROUP, row, b"something else first"));
    two.db.flush_state().unwrap();
    two.fill(GROUP, 77);
    assert_eq!(fs::read(one.snapshot("a")).unwrap(), fs::read(two.snapshot("a")).unwrap());
    two.put(GROUP, 0, b"now they differ");
    assert_ne!(digest(&one.view(), GROUP), digest(&two.view(), GROUP));
}
