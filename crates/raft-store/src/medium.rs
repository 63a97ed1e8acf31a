//! What a node's folder lies on.

use std::path::Path;
use std::sync::Arc;

use crate::db::snapshot_dir;
use crate::disk::{DiskProbe, FileSystem};
use crate::error::StoreError;
use crate::files::Files;
use crate::rocks::Rocks;
#[cfg(feature = "sim")]
use crate::sim::SimDisk;
use crate::storage::Storage;
use crate::workshop::Workshop;

/// What a node's folder lies on.
#[derive(Clone, Debug, Default)]
pub enum Medium {
    /// The operating system's files, with RocksDB in them.
    #[default]
    FileSystem,
    /// A disk that is only remembered, for a cluster that lives on one thread, in virtual time. The folder is but a name.
    #[cfg(feature = "sim")]
    Sim(SimDisk),
}

/// A folder that is in use from now on.
pub(crate) struct Opened {
    pub storage: Box<dyn Storage>,
    pub files: Arc<dyn Files>,
    pub workshop: Workshop,
}

impl Medium {
    pub(crate) fn open(&self, dir: &Path) -> Result<Opened, StoreError> {
        match self {
            Self::FileSystem => {
                let files = Arc::new(FileSystem);
                files.create_dir(&snapshot_dir(dir)).map_err(StoreError::io("creating the folder"))?;
                Ok(Opened { storage: Box::new(Rocks::open(dir)?), files, workshop: Workshop::default() })
            }
            #[cfg(feature = "sim")]
            Self::Sim(disk) => {
                let life = disk.open(dir)?;
                let workshop = Workshop::simulated(life.clone());
                Ok(Opened { storage: Box::new(life.clone()), files: Arc::new(life), workshop })
            }
        }
    }

    /// Who knows how much is free there, if not whom the options name.
    pub(crate) fn probe(&self) -> Option<Arc<dyn DiskProbe>> {
        match self {
            Self::FileSystem => None,
            #[cfg(feature = "sim")]
            Self::Sim(disk) => Some(Arc::new(disk.clone())),
        }
    }
}
