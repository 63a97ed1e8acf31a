//! The no. `Reject`: the rules refuse, the same on every node. `Unavailable`: this node could not; try again.
//! Each has a stable code, listed with its remedy in `docs/errors.md`.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

/// The rules refuse. Depends only on the request and on replicated state. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Reject {
    #[error("`{name}` is not a valid name: use 1 to 255 bytes without control characters")]
    BadName { name: String },
    #[error("`{id}` is not a valid id: expected a UUID that is not of version 8, which Coda keeps for itself")]
    BadId { id: String },
    #[error(
        "the payload has {bytes} bytes, more than the {bytes_max} allowed: store it elsewhere and pass a reference"
    )]
    PayloadTooLarge { bytes: u64, bytes_max: u64 },
    #[error("the failure has {bytes} bytes, more than the {bytes_max} allowed: shorten its traceback")]
    FailureTooLarge { bytes: u64, bytes_max: u64 },
    #[error("the cache key has {bytes} bytes, more than the {bytes_max} allowed: use a digest of it")]
    CacheKeyTooLong { bytes: u64, bytes_max: u64 },
    #[error("the cache key is malformed: make it with the SDK's functions")]
    BadCacheKey,
    #[error("the retry policy is out of bounds: see docs/errors.md for the limits")]
    BadPolicy,
    #[error("priority {priority} is out of bounds: use 0 to 9, higher first")]
    BadPriority { priority: u8 },
    #[error("the delay of {ms} ms is longer than a year")]
    DelayTooLong { ms: u64 },
    #[error("{count} {what} are more than the {max} allowed in one request: send several")]
    TooMany { what: SmolStr, count: u64, max: u64 },
    #[error("there is no run {run}: it never started, or its retention time is over")]
    NoSuchRun { run: String },
    #[error("there is no task {task}: it was never submitted, or its retention time is over")]
    NoSuchTask { task: String },
    #[error("the id {id} already names other work: use a fresh id for each")]
    IdConflict { id: String },
    #[error("the lease is not held any more: another attempt has superseded this one, stop working on it")]
    StaleLease,
    #[error("the work has already ended")]
    AlreadyEnded,
    #[error("the run has news that its worker has not seen: it cannot be parked")]
    NotIdle,
    #[error("a step of this kind cannot be sent in this request")]
    WrongStepKind,
    #[error("the session holds {max} leases, as many as one may: end some, or serve with several sessions")]
    TooManyLeases { max: u64 },
    #[error("this connection has resumed its session already: say so once, before anything else")]
    ResumedBefore,
}

impl Reject {
    /// The stable code, for programs and for searching the documentation.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadName { .. } => "CODA2001",
            Self::BadId { .. } => "CODA2002",
            Self::PayloadTooLarge { .. } => "CODA2003",
            Self::FailureTooLarge { .. } => "CODA2004",
            Self::CacheKeyTooLong { .. } => "CODA2005",
            Self::BadCacheKey => "CODA2006",
            Self::BadPolicy => "CODA2007",
            Self::BadPriority { .. } => "CODA2008",
            Self::DelayTooLong { .. } => "CODA2009",
            Self::TooMany { .. } => "CODA2010",
            Self::NoSuchRun { .. } => "CODA2011",
            Self::NoSuchTask { .. } => "CODA2012",
            Self::IdConflict { .. } => "CODA2013",
            Self::StaleLease => "CODA2014",
            Self::AlreadyEnded => "CODA2015",
            Self::NotIdle => "CODA2016",
            Self::WrongStepKind => "CODA2017",
            Self::TooManyLeases { .. } => "CODA2018",
            Self::ResumedBefore => "CODA2019",
        }
    }
}

/// This node could not answer; nothing is known to be wrong with the request. Try again with the same ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Unavailable {
    #[error("this node does not lead the group; ask {}", leader.as_deref().unwrap_or("again soon"))]
    NotLeader { leader: Option<String> },
    #[error("overloaded, retry after {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u64 },
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("the connection was lost before the answer came")]
    ConnectionLost,
}

impl Unavailable {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "CODA3001",
            Self::Overloaded { .. } => "CODA3002",
            Self::ShuttingDown => "CODA3003",
            Self::ConnectionLost => "CODA3004",
        }
    }
}

/// Either no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refusal {
    #[error(transparent)]
    Reject(#[from] Reject),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reject(reject) => reject.code(),
            Self::Unavailable(unavailable) => unavailable.code(),
        }
    }
}
