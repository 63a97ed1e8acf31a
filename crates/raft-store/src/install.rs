//! Replacing a group's state by a snapshot, so that a crash at any moment leaves the old state or the new.

use std::path::Path;

use coda_protocol::ids::GroupId;
use coda_protocol::planted::{self, Bug};

use crate::db::{Db, write_state};
use crate::error::StoreError;
use crate::markers::Markers;
use crate::rows::{decode_row, encode_row};
use crate::snapshot::{Header, Reader};
use crate::storage::Family;
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
    let header = Reader::open(&**db.files(), file)?.for_each(|_, _| Ok(()))?;
    if header.group != group.0 {
        let why = format!("it is of group {}, not of group {}", header.group, group.0);
        return Err(StoreError::CorruptSnapshot { file: file.to_owned(), at: "header".into(), why });
    }
    let name = format!("installing-{}", group.0);
    let ours = db.snapshot_dir().join(&name);
    let files = db.files();
    files.rename(file, &ours).map_err(StoreError::io(DOING))?;
    files.sync_path(&ours).map_err(StoreError::io(DOING))?;
    files.sync_path(&db.snapshot_dir()).map_err(StoreError::io(DOING))?;
    // From here on a restart finishes the job: half a state is never seen as a state.
    db.put_meta_synced(&MARKERS.key(group), &encode_row(&name))?;
    replace(db, group, &ours)?;
    #[cfg(feature = "sim")]
    if let Some(life) = db.workshop().life() {
        life.installs();
    }
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
    for path in db.files().list(&db.snapshot_dir()).map_err(StoreError::io(DOING))? {
        db.files().remove(&path).map_err(StoreError::io("removing an old snapshot"))?;
    }
    Ok(())
}

fn replace(db: &Db, group: GroupId, file: &Path) -> Result<(), StoreError> {
    let (from, to) = group_range(group);
    let mut batch = db.batch();
    if !planted::is(Bug::InstallOver) {
        batch.delete_range(Family::State, &from, &to);
    }
    let header = Reader::open(&**db.files(), file)?.for_each(|key, value| {
        batch.put(Family::State, key, value);
        if batch.bytes() < BATCH_BYTES {
            return Ok(());
        }
        write_state(std::mem::replace(&mut batch, db.batch()))
    })?;
    let (key, row) = membership_row(group, &header.membership);
    batch.put(Family::State, &key, &row);
    if let Some(applied) = header.applied {
        let (key, row) = applied_row(group, applied);
        batch.put(Family::State, &key, &row);
    }
    write_state(batch)?;
    db.flush_state()?;
    db.delete_meta_synced(&MARKERS.key(group))?;
    db.files().remove(file).map_err(StoreError::io(DOING))
}
