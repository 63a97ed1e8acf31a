//! What can be wrong between two nodes: faults that end a connection, and what a caller is told.

use std::time::Duration;

use coda_protocol::codec::Malformed;
use coda_protocol::frame::{CLOSE_REPLACED, CLOSE_SHUTDOWN};
use coda_protocol::ids::{ClusterId, GroupId, NodeId, StorageId};
use coda_raft_store::peers::PeerError;
use quinn::{ConnectionError, TransportErrorCode};
use smol_str::{SmolStr, format_smolstr};
use thiserror::Error;

use crate::endpoint::is_tls;

/// Why a connection between nodes is refused or closed. The code is the QUIC application close code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerFault {
    #[error("the first frame is not the hello of a Coda node")]
    NotAPeer,
    #[error("no common version of the peer protocol: there {theirs:?}, here {ours:?}; upgrade one release at a time")]
    VersionMismatch { ours: (u16, u16), theirs: (u16, u16) },
    #[error("a message of {bytes} bytes is larger than the {max} allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("an unexpected frame: {what}")]
    Unexpected { what: &'static str },
    #[error("no hello in time")]
    Silent,
    #[error("a node of cluster {theirs} meets one of cluster {ours}; correct the address, or the node's certificate")]
    WrongCluster { ours: ClusterId, theirs: ClusterId },
    #[error("the certificate does not name a node: {why}; issue one with `coda-admin cert node`")]
    Unnamed { why: String },
    #[error(
        "node {expected} was meant, but the certificate is of node {found}; correct the address or the certificate"
    )]
    WrongNode { expected: NodeId, found: NodeId },
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Why a node that is what it says it is may still not take part.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("node {node} is no member of the cluster; add it first")]
    Unknown { node: NodeId },
    #[error("node {node} was removed from the cluster; to bring it back, wipe its data and add it under a new id")]
    Removed { node: NodeId },
    #[error(
        "node {node} comes with storage {found} and is known with {expected}: its data was lost or exchanged; \
         remove it from the cluster and add it again under a new id"
    )]
    OtherStorage { node: NodeId, expected: StorageId, found: StorageId },
    #[error(
        "node {node} comes for the {incarnation}th time and was here for the {known}th: its data was put back to an earlier \
         day, and has forgotten what it promised since; remove it and add it again under a new id"
    )]
    OldStorage { node: NodeId, incarnation: u64, known: u64 },
    #[error("not ready: {why}; nothing to do, nodes try again")]
    NotReady { why: &'static str },
}

impl PeerFault {
    /// The stable code, as text.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAPeer => "CODA1101",
            Self::VersionMismatch { .. } => "CODA1102",
            Self::TooLarge { .. } => "CODA1103",
            Self::Malformed(_) => "CODA1104",
            Self::Unexpected { .. } => "CODA1105",
            Self::Silent => "CODA1106",
            Self::WrongCluster { .. } => "CODA1107",
            Self::Unnamed { .. } => "CODA1108",
            Self::WrongNode { .. } => "CODA1109",
            Self::Refused(Refused::Unknown { .. }) => "CODA1110",
            Self::Refused(Refused::Removed { .. }) => "CODA1111",
            Self::Refused(Refused::OtherStorage { .. }) => "CODA1112",
            Self::Refused(Refused::OldStorage { .. }) => "CODA1116",
            Self::Refused(Refused::NotReady { .. }) => "CODA1113",
        }
    }

    /// The same code as the number that closes the connection.
    #[must_use]
    pub fn close_code(&self) -> u32 {
        self.code()[4..].parse().expect("codes end in digits")
    }
}

/// Close codes of faults, the ones of later versions included.
const FAULTS: std::ops::RangeInclusive<u64> = 1_101..=1_119;

/// Why a peer was not reached, or did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    #[error("CODA4132 node {node} has no usable address: {why}")]
    Address { node: NodeId, why: String },
    #[error("CODA4133 node {node} does not answer at {at}")]
    NoAnswer { node: NodeId, at: String },
    #[error("CODA4134 the certificate of node {node} is not trusted: {why}; compare the authorities of both nodes")]
    NotTrusted { node: NodeId, why: String },
    #[error(
        "CODA4135 node {node} does not trust this node's certificate: {why}; compare the authorities of both nodes"
    )]
    Distrusted { node: NodeId, why: String },
    /// Found at this end.
    #[error("{} node {node}: {fault}", fault.code())]
    Fault { node: NodeId, fault: PeerFault },
    /// Found at the other end.
    #[error("{code} node {node} says: {why}")]
    RefusedBy { node: NodeId, code: SmolStr, why: String },
    #[error("CODA4136 the connection to node {node} was lost: {why}")]
    Lost { node: NodeId, why: String },
    #[error("CODA4137 node {node} did not answer within {after:?}")]
    Late { node: NodeId, after: Duration },
    #[error("CODA4138 more than {max} {what} at once for node {node}")]
    TooMany { node: NodeId, what: &'static str, max: usize },
    #[error("CODA4139 node {node} is there, but made no progress with {what} for {after:?}")]
    Stalled { node: NodeId, what: &'static str, after: Duration },
    #[error("CODA4140 {bytes} bytes are too much for {what} to node {node}, {max} are allowed")]
    TooLarge { node: NodeId, what: &'static str, bytes: u64, max: u64 },
    #[error("CODA4141 the snapshot for node {node} cannot be read: {why}")]
    Unreadable { node: NodeId, why: String },
    /// The peer could not do it, and says with its own code why.
    #[error("{why}")]
    Failed { why: String },
    #[error("CODA4142 this node does not speak to peers any more, it is stopping")]
    Closed,
}

impl LinkError {
    /// Why dialling or an established connection ended.
    pub fn ended(node: NodeId, error: &ConnectionError) -> Self {
        let lost = |why: &dyn std::fmt::Display| Self::Lost { node, why: why.to_string() };
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let (code, why) = (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason));
                match code {
                    code if FAULTS.contains(&code) => {
                        Self::RefusedBy { node, code: format_smolstr!("CODA{code}"), why: why.into_owned() }
                    }
                    code if code == u64::from(CLOSE_SHUTDOWN) => lost(&"the node is stopping"),
                    code if code == u64::from(CLOSE_REPLACED) => lost(&"a newer connection replaced it"),
                    code => lost(&format_args!("closed with code {code} {why}")),
                }
            }
            ConnectionError::TransportError(error) if is_tls(error.code) => {
                Self::NotTrusted { node, why: error.reason.clone() }
            }
            ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
                Self::Distrusted { node, why: alert(close.error_code) }
            }
            ConnectionError::LocallyClosed => lost(&"this node closed it"),
            error => lost(error),
        }
    }

    /// Two complaints of one kind are one.
    pub fn kind(&self) -> SmolStr {
        let text = self.to_string();
        text.split(' ').next().unwrap_or_default().into()
    }

    /// How much it tells, of several attempts at once.
    pub fn weight(&self) -> u8 {
        match self {
            Self::Address { .. } => 1,
            Self::NoAnswer { .. } => 2,
            Self::Lost { .. } => 3,
            _ => 4,
        }
    }

    fn never_reached(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::NoAnswer { .. }
            | Self::NotTrusted { .. }
            | Self::Distrusted { .. }
            | Self::Fault { .. }
            | Self::RefusedBy { .. }
            | Self::Closed => true,
            Self::Lost { .. }
            | Self::Late { .. }
            | Self::TooMany { .. }
            | Self::Stalled { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::Failed { .. } => false,
        }
    }
}

impl From<LinkError> for PeerError {
    fn from(error: LinkError) -> Self {
        let text = error.to_string();
        if error.never_reached() { Self::Unreachable(text) } else { Self::Failed(text) }
    }
}

/// TLS says why in a number only.
fn alert(code: TransportErrorCode) -> String {
    let alert = u64::from(code) & 0xff;
    let what = match alert {
        42 | 43 => "bad certificate",
        44 => "certificate revoked",
        45 => "certificate expired",
        48 => "unknown authority",
        51 => "bad signature",
        116 => "certificate required",
        120 => "not a port for peers",
        _ => "handshake failed",
    };
    format!("{what} (TLS alert {alert})")
}

/// Why this node could not do what a peer called for. Travels as text, or as the code that resets a stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServeFault {
    #[error("CODA4143 group {group} is not on node {node}, or not yet")]
    NoGroup { node: NodeId, group: GroupId },
    #[error("CODA4144 node {node} is busy: more than {max} {what} at once")]
    Busy { node: NodeId, what: &'static str, max: usize },
    #[error("CODA4145 node {node} cannot store the snapshot: {why}")]
    Store { node: NodeId, why: String },
    #[error("CODA4146 node {node} did not get the whole snapshot: {why}")]
    Incomplete { node: NodeId, why: String },
}

/// What a stream was reset with, in words.
pub fn reset(node: NodeId, code: u64) -> LinkError {
    let why = match code {
        RESET_NO_GROUP => format!("CODA4143 the group is not on node {node}, or not yet"),
        RESET_BUSY => format!("CODA4144 node {node} is busy, or not ready yet"),
        code => format!("CODA4136 node {node} ended the stream with code {code}"),
    };
    LinkError::Failed { why }
}

/// Resets a stream for a group that is not there.
pub const RESET_NO_GROUP: u64 = 4_143;
/// Resets what this node cannot answer at the moment.
pub const RESET_BUSY: u64 = 4_144;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_closes_with_its_code_and_is_known_by_it_at_the_other_end() {
        let fault = PeerFault::from(Refused::Removed { node: NodeId(3) });
        let close = quinn::ApplicationClose {
            error_code: quinn::VarInt::from_u32(fault.close_code()),
            reason: fault.to_string().into_bytes().into(),
        };
        let error = LinkError::ended(NodeId(2), &ConnectionError::ApplicationClosed(close));
        let text = PeerError::from(error.clone()).to_string();
        assert_eq!(error.kind(), "CODA1111");
        assert!(text.contains("CODA1111 node 2 says: node 3 was removed"), "{text}");
        assert!(matches!(PeerError::from(error), PeerError::Unreachable(_)));
    }

    #[test]
    fn a_lost_connection_is_not_an_unreachable_peer() {
        let error = LinkError::ended(NodeId(2), &ConnectionError::TimedOut);
        assert!(matches!(PeerError::from(error), PeerError::Failed(why) if why.contains("CODA4136")));
    }
}
