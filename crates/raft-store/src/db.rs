//! An open folder: its rows, its files, and who does in it what takes long.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::files::Files;
use crate::medium::Medium;
use crate::storage::{Batch, Durability, END, Family, Rows, Storage};
use crate::workshop::Workshop;

/// What a node keeps, and its folder.
pub struct Db {
    storage: Box<dyn Storage>,
    files: Arc<dyn Files>,
    workshop: Workshop,
    dir: PathBuf,
}

impl Db {
    /// Opens or creates it.
    pub(crate) fn open(dir: &Path, medium: &Medium) -> Result<Self, StoreError> {
        let opened = medium.open(dir)?;
        Ok(Self { storage: opened.storage, files: opened.files, workshop: opened.workshop, dir: dir.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn snapshot_dir(&self) -> PathBuf {
        snapshot_dir(&self.dir)
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    pub(crate) fn workshop(&self) -> &Workshop {
        &self.workshop
    }

    pub(crate) fn now(&self) -> Box<dyn Rows + '_> {
        self.storage.now()
    }

    pub(crate) fn batch(&self) -> Box<dyn Batch + '_> {
        self.storage.batch()
    }

    pub(crate) fn get_meta(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.now().get(Family::Meta, key).map_err(StoreError::refused("reading meta"))
    }

    pub(crate) fn put_meta_synced(&self, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.put(Family::Meta, key, row);
        batch.write(Durability::Synced).map_err(StoreError::refused("writing meta"))
    }

    pub(crate) fn delete_meta_synced(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.delete(Family::Meta, key);
        batch.write(Durability::Synced).map_err(StoreError::refused("writing meta"))
    }

    /// Makes everything applied so far durable. Blocks.
    pub(crate) fn flush_state(&self) -> Result<(), StoreError> {
        self.storage.flush().map_err(StoreError::refused("flushing state"))
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        let rows = self.now();
        for family in [Family::Log, Family::State, Family::Meta] {
            let mut empty = true;
            let mut first = |_: &[u8], _: &[u8]| {
                empty = false;
                ControlFlow::Break(())
            };
            rows.scan(family, &[], END, &mut first).map_err(StoreError::refused("opening"))?;
            if !empty {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes to the state without the WAL: durable with the next flush, or again from the log.
pub(crate) fn write_state(batch: Box<dyn Batch + '_>) -> Result<(), StoreError> {
    batch.write(Durability::Unlogged).map_err(StoreError::refused("writing state"))
}

/// Where a node's snapshots lie.
pub(crate) fn snapshot_dir(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}
