//! What can go wrong with the files of a node. Codes are stable: scripts and runbooks match on them.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::storage::Refused;

/// A node's storage could not be opened or used. Never the client's fault, never a decision of the rules.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder is locked by a living process.
    #[error("CODA4101 another coda process uses {}", dir.display())]
    InUse { dir: PathBuf },
    /// Written by a version of Coda whose format this binary does not know.
    #[error("CODA4102 {} has format {found}; this binary understands format {expected}", dir.display())]
    UnknownFormat { dir: PathBuf, found: String, expected: u32 },
    /// Bytes on disk are not what was written. Other nodes have copies: a copy of the folder from before would have
    /// forgotten what this node has promised them.
    #[error(
        "CODA4103 corrupt storage in {}: {why}. Replace this node by a new one, with `coda-admin node replace`; a node \
         that is alone needs a copy of the folder",
        dir.display()
    )]
    Corrupt { dir: PathBuf, why: String },
    /// A record of the log or of our own bookkeeping cannot be understood. It is never skipped.
    #[error("CODA4104 unreadable record {at}: {why}")]
    UnreadableRecord { at: String, why: String },
    /// The folder belongs to another node of the cluster.
    #[error("CODA4105 {} belongs to node {found}, not to node {expected}", dir.display())]
    WrongNode { dir: PathBuf, found: u64, expected: u64 },
    /// The disk or the file system refused.
    #[error("CODA4106 storage failure while {doing}: {why}")]
    Io { doing: &'static str, why: String },
    /// A snapshot's bytes do not match their checksums; nothing was installed.
    #[error("CODA4107 corrupt snapshot {}: {at}: {why}", file.display())]
    CorruptSnapshot { file: PathBuf, at: String, why: String },
    /// The store is closed, or its committer thread is gone.
    #[error("CODA4108 the store is closed")]
    Closed,
    /// The storage opens, and is not all that it was: what was acknowledged is missing from it.
    #[error(
        "CODA4340 {} has lost what it had confirmed: {why}; a node may neither vote nor lead with it. Replace the node \
         (`coda-admin node replace`), or restore the folder from a copy if it is alone",
        dir.display()
    )]
    Amnesia { dir: PathBuf, why: String },
    /// Bytes that were read while the node runs are not what was written.
    #[error("CODA4341 damaged storage, found while {doing}: {why}; check the disk and replace the node")]
    Damaged { doing: &'static str, why: String },
    /// Our own mistake, noticed in time: the log would lose what the state has not made durable.
    #[error("CODA4109 refused for group {group}: {why}")]
    PurgeTooFar { group: u32, why: String },
}

/// What RocksDB begins with where a checksum is wrong.
const CORRUPTION: &str = "Corruption:";

impl StoreError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "CODA4101",
            Self::UnknownFormat { .. } => "CODA4102",
            Self::Corrupt { .. } => "CODA4103",
            Self::UnreadableRecord { .. } => "CODA4104",
            Self::WrongNode { .. } => "CODA4105",
            Self::Io { .. } => "CODA4106",
            Self::CorruptSnapshot { .. } => "CODA4107",
            Self::Closed => "CODA4108",
            Self::PurgeTooFar { .. } => "CODA4109",
            Self::Amnesia { .. } => "CODA4340",
            Self::Damaged { .. } => "CODA4341",
        }
    }

    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { doing, why: error.to_string() }
    }

    pub(crate) fn refused(doing: &'static str) -> impl FnOnce(Refused) -> Self {
        move |Refused(why)| {
            if why.starts_with(CORRUPTION) { Self::Damaged { doing, why } } else { Self::Io { doing, why } }
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Corrupt { .. }
            | StoreError::UnreadableRecord { .. }
            | StoreError::CorruptSnapshot { .. }
            | StoreError::Amnesia { .. }
            | StoreError::Damaged { .. } => io::ErrorKind::InvalidData,
            StoreError::InUse { .. }
            | StoreError::UnknownFormat { .. }
            | StoreError::WrongNode { .. }
            | StoreError::Io { .. }
            | StoreError::PurgeTooFar { .. }
            | StoreError::Closed => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Ends the process: the state behind the log can no longer be trusted to be the same on every node.
#[expect(clippy::disallowed_methods, reason = "the message is out; a panic would be caught by the runtime")]
pub(crate) fn stop_process(message: &str) -> ! {
    tracing::error!("{message}");
    // Also to stderr: the subscriber may be asynchronous, and abort does not flush it.
    eprintln!("{message}");
    #[cfg(feature = "sim")]
    crate::sim::stop_node(message);
    std::process::abort();
}
