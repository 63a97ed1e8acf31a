//! Replacing a group's state by a snapshot, so that a crash at any moment leaves the old state or the new.

use std::fs::{self, File};
use std::path::Path;

use coda_protocol::ids::GroupId;
use rocksdb::WriteBatch;

use crate::db::Db;
use crate::error::StoreError;
use crate::markers::Markers;
use crate::rows::{decode_row, encode_row};
use crate::snapshot::{Header, Reader};
use crate::view::{applied_row, group_range, membership_row};

/// Rows are written in batches of about this size.
const BATCH_BYTES: usize = 4 << 20;
const DOING: &str = "installing a snapshot";
const MARKERS: Markers = Markers::new("installing");

/// Checks all of a snapshot file, then replaces its group's state by it and makes that durable. Takes the file.
///
/// # Errors
/// `CODA4107` for a bad file, with the state untouched; `CODA4106` when the disk refuses.
pub(crate) fn install(db: &Db, group: GroupId, file: &Path) -> Result<Header, StoreError> {
    let header = Reader::open(file)?.for_each(|_, _| Ok(()))?;
    if header.group != group.0 {
        let why = format!("it is of group {}, not of group {}", header.group, group.0);
        return Err(StoreError::CorruptSnapshot { file: file.to_owned(), at: "header".into(), why });
    }
    let name = format!("installing-{}", group.0);
    let ours = db.snapshot_dir().join(&name);
    fs::rename(file, &ours).map_err(StoreError::io(DOING))?;
    sync(&ours)?;
    sync(&db.snapshot_dir())?;
    // From here on a restart finishes the job: half a state is never seen as a state.
    db.put_meta_synced(&MARKERS.key(group), &encode_row(&name))?;
    replace(db, group, &ours)?;
    Ok(header)
}

/// Finishes installations that a crash interrupted, and removes files that belong to nobody.
///
/// # Errors
/// As [`install`].
pub(crate) fn finish_interrupted(db: &Db) -> Result<(), StoreError> {
    for (group, row) in MARKERS.all(db)? {
        let name: String = decode_row("installation marker", &row)?;
        tracing::warn!(group = group.0, "an interrupted snapshot installation is finished");
        replace(db, group, &db.snapshot_dir().join(name))?;
    }
    for entry in fs::read_dir(db.snapshot_dir()).map_err(StoreError::io(DOING))? {
        let path = entry.map_err(StoreError::io(DOING))?.path();
        fs::remove_file(path).map_err(StoreError::io("removing an old snapshot"))?;
    }
    Ok(())
}

fn replace(db: &Db, group: GroupId, file: &Path) -> Result<(), StoreError> {
    let (from, to) = group_range(group);
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(db.state(), from, to);
    let header = Reader::open(file)?.for_each(|key, value| {
        batch.put_cf(db.state(), key, value);
        if batch.size_in_bytes() < BATCH_BYTES {
            return Ok(());
        }
        db.write_state(std::mem::take(&mut batch))
    })?;
    let (key, row) = membership_row(group, &header.membership);
    batch.put_cf(db.state(), key, row);
    if let Some(applied) = header.applied {
        let (key, row) = applied_row(group, applied);
        batch.put_cf(db.state(), key, row);
    }
    db.write_state(batch)?;
    db.flush_state()?;
    db.delete_meta_synced(&MARKERS.key(group))?;
    fs::remove_file(file).map_err(StoreError::io(DOING))
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io(DOING))
}
