//! The no. `Reject`: the rules refuse, the same on every node. `Unavailable`: this node could not; try again.
//! Each has a stable code, listed with its remedy in `docs/errors.md`.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

use crate::cluster::NodeState;
use crate::codec;

/// The rules refuse. Depends only on the request and on replicated state. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Reject {
    #[error("`{name}` is not a valid name: use 1 to 255 bytes without control characters")]
    BadName {
        #[serde(deserialize_with = "codec::text")]
        name: String,
    },
    #[error("`{id}` is not a valid id: expected a UUID that is not of version 8, which Coda keeps for itself")]
    BadId {
        #[serde(deserialize_with = "codec::text")]
        id: String,
    },
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
    NoSuchRun {
        #[serde(deserialize_with = "codec::text")]
        run: String,
    },
    #[error("there is no task {task}: it was never submitted, or its retention time is over")]
    NoSuchTask {
        #[serde(deserialize_with = "codec::text")]
        task: String,
    },
    #[error("the id {id} already names other work: use a fresh id for each")]
    IdConflict {
        #[serde(deserialize_with = "codec::text")]
        id: String,
    },
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
    #[error("group {group} does not hold this: group 0 holds the cluster's own state, all others hold work")]
    WrongGroup { group: u32 },
    #[error("there is no cluster yet: `coda-admin cluster init` makes one")]
    NoCluster,
    #[error("this is the cluster {cluster} already: an initialised node joins no other")]
    ClusterExists {
        #[serde(deserialize_with = "codec::text")]
        cluster: String,
    },
    #[error("a replication factor of {replication_factor} is not possible: use 1, 3 or 5")]
    BadReplicationFactor { replication_factor: u8 },
    #[error("{groups} data groups are not possible: use 1 to {groups_max}")]
    BadGroupCount { groups: u16, groups_max: u16 },
    #[error(
        "`{address}` is not an address that others could dial: use `host:port`, and another one for peers than for clients"
    )]
    BadAddress {
        #[serde(deserialize_with = "codec::text")]
        address: String,
    },
    #[error("`{label}` is not a valid {what}: use at most {bytes_max} bytes without control characters")]
    BadLabel {
        what: SmolStr,
        #[serde(deserialize_with = "codec::text")]
        label: String,
        bytes_max: u64,
    },
    #[error("the cluster has {nodes_max} nodes, and may not have more: remove one first")]
    ClusterFull { nodes_max: u64 },
    #[error("there is no node {node} in this cluster")]
    NoSuchNode { node: u64 },
    #[error("node {node} was removed from the cluster: empty its data folder and join under another id")]
    NodeRemoved { node: u64 },
    #[error(
        "node {node} is known with another data folder: its disk was wiped or swapped, or another node has this id; join \
         under another id"
    )]
    WipedDisk { node: u64 },
    #[error("node {node} is {state}: only an active node can be drained, and only a draining one be taken back")]
    WrongNodeState { node: u64, state: NodeState },
    #[error("node {node} is in use: drain it first")]
    NotDrained { node: u64 },
    #[error("node {node} still has copies of {groups} groups: wait until it is drained")]
    NotEmpty { node: u64, groups: u64 },
    #[error("node {node} is the last active one: add another first")]
    LastNode { node: u64 },
    #[error("the cluster uses commands of version {needed}, this binary understands {commands_version}: upgrade it")]
    TooOld { commands_version: u32, needed: u32 },
    #[error("the join token is wrong or unknown: make another")]
    BadToken,
    #[error("the join token has expired: make another")]
    TokenExpired,
    #[error("the join token was used by node {node}: make one for each node")]
    TokenUsed { node: u64 },
    #[error(
        "{tokens_max} join tokens are known, and there may not be more: revoke one, or wait until one is forgotten"
    )]
    TooManyTokens { tokens_max: u64 },
    #[error("there is no setting `{key}`: there are {known}")]
    NoSuchSetting {
        #[serde(deserialize_with = "codec::text")]
        key: String,
        #[serde(deserialize_with = "codec::text")]
        known: String,
    },
    #[error("the value is not possible for `{key}`: use {allowed}")]
    BadSetting { key: SmolStr, allowed: SmolStr },
    #[error("there is no group {group} in this cluster")]
    NoSuchGroup { group: u32 },
    #[error("group {group} cannot be placed so: {why}")]
    BadPlacement { group: u32, why: SmolStr },
    #[error("the placement of group {group} has changed meanwhile, it is at version {version}: plan again")]
    PlacementChanged { group: u32, version: u64 },
    #[error(
        "node {node} has started since, for the {known}th time, and this is its start {incarnation}: an older copy of its \
         data folder, or a process that should be gone"
    )]
    OldIncarnation { node: u64, incarnation: u64, known: u64 },
    #[error("the data folder is that of node {node}: correct `node.id`, or use an empty data folder")]
    OtherNode { node: u64 },
    #[error("there can be no node {node}: use 1 to {node_id_max}")]
    BadNodeId { node: u64, node_id_max: u64 },
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
            Self::WrongGroup { .. } => "CODA2030",
            Self::NoCluster => "CODA2031",
            Self::ClusterExists { .. } => "CODA2032",
            Self::BadReplicationFactor { .. } => "CODA2033",
            Self::BadGroupCount { .. } => "CODA2034",
            Self::BadAddress { .. } => "CODA2035",
            Self::BadLabel { .. } => "CODA2036",
            Self::ClusterFull { .. } => "CODA2037",
            Self::NoSuchNode { .. } => "CODA2038",
            Self::NodeRemoved { .. } => "CODA2039",
            Self::WipedDisk { .. } => "CODA2040",
            Self::WrongNodeState { .. } => "CODA2041",
            Self::NotDrained { .. } => "CODA2042",
            Self::NotEmpty { .. } => "CODA2043",
            Self::LastNode { .. } => "CODA2044",
            Self::TooOld { .. } => "CODA2045",
            Self::BadToken => "CODA2046",
            Self::TokenExpired => "CODA2047",
            Self::TokenUsed { .. } => "CODA2048",
            Self::TooManyTokens { .. } => "CODA2049",
            Self::NoSuchSetting { .. } => "CODA2050",
            Self::BadSetting { .. } => "CODA2051",
            Self::NoSuchGroup { .. } => "CODA2052",
            Self::BadPlacement { .. } => "CODA2053",
            Self::PlacementChanged { .. } => "CODA2054",
            Self::OldIncarnation { .. } => "CODA2055",
            Self::OtherNode { .. } => "CODA2056",
            Self::BadNodeId { .. } => "CODA2057",
        }
    }
}

/// This node could not answer; nothing is known to be wrong with the request. Try again with the same ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Unavailable {
    #[error("this node does not lead the group; ask {}", leader.as_deref().unwrap_or("again soon"))]
    NotLeader {
        #[serde(deserialize_with = "codec::maybe_text")]
        leader: Option<String>,
    },
    #[error("overloaded, retry after {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u64 },
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("the connection was lost before the answer came")]
    ConnectionLost,
    #[error("the node's disk is full, writes are refused until space is free; retry after {retry_after_ms} ms")]
    DiskFull { retry_after_ms: u64 },
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
            Self::DiskFull { .. } => "CODA3005",
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
