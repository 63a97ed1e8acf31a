//! Everything a program that uses Coda may be told, each with a stable code and the next thing to do.

use coda_protocol::frame::FrameError;
use coda_protocol::limits::FRAME_BYTES_MAX;
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use thiserror::Error;

/// Why a request, or the connection itself, failed for good. What can be tried again was tried again already.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    #[error(
        "no Coda node is configured: run `coda dev` in this project, or set CODA_ADDRESS=host:port and CODA_CA=path/to/ca.pem"
    )]
    NotConfigured,
    #[error("`{address}` is not an address: write `host` or `host:port`, several separated by commas")]
    BadAddress { address: String },
    #[error("cannot read {path}: {why}; correct the path in {named_by}")]
    Unreadable { path: String, why: String, named_by: String },
    #[error(
        "{path} is not a client file: {why}; it should read {{\"address\": \"127.0.0.1:4747\", \"ca\": \"certs/ca.pem\"}}"
    )]
    BadClientFile { path: String, why: String },
    #[error("the CA is not usable: {why}; give the PEM file that `coda-admin cert` or `coda dev` wrote")]
    BadCa { why: String },
    #[error("CODA_SESSION is `{value}`, which is not a UUID: unset it, a supervising parent sets it")]
    BadSession { value: String },
    #[error("no Coda node answered at {addresses} within {waited_ms} ms ({last}): is it running there?")]
    NoNode { addresses: String, waited_ms: u64, last: String },
    #[error("the node at {address} is not trusted: {why}; use the CA certificate of that cluster")]
    Untrusted { address: String, why: String },
    #[error(
        "the node at {address} serves only clients that show a certificate: pass one of its cluster with --cert and --key, `cert` and `key`, or CODA_CERT and CODA_KEY"
    )]
    CertificateRequired { address: String },
    #[error("the node at {address} refuses this client's certificate: {why}")]
    CertificateRefused { address: String, why: String },
    #[error("the client's certificate is not usable: {why}; give the files that `coda-admin cert client` wrote")]
    BadCertificate { why: String },
    #[error("no answer within {ms} ms{}", last.as_ref().map(|last| format!("; last refusal: {last}")).unwrap_or_default())]
    Deadline { ms: u64, last: Option<Unavailable> },
    #[error("the link is closed: open another one")]
    Closed,
    #[error(
        "the request has {bytes} bytes, more than the {FRAME_BYTES_MAX} allowed: store the data elsewhere and pass a reference"
    )]
    RequestTooLarge { bytes: usize },
    #[error("the node's reply does not fit the request ({expected} was expected): upgrade the older side")]
    UnexpectedReply { expected: &'static str },
    #[error("{why}")]
    BadOptions { why: String },
    #[error("the value cannot be carried: {why}")]
    BadPayload { why: String },
    #[error("no UDP socket can be opened: {why}")]
    Socket { why: String },
    /// The node closed the connection with one of the codes of [`FrameError`].
    #[error("the node closed the connection: {reason}")]
    ClosedByNode { code: u32, reason: String },
    /// The node's bytes are not the protocol.
    #[error("the node does not speak Coda's protocol: {0}")]
    Protocol(FrameError),
    #[error(transparent)]
    Refused(#[from] Reject),
}

impl ClientError {
    /// The stable code, listed with its remedy in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured => "CODA4001",
            Self::BadAddress { .. } => "CODA4002",
            Self::Unreadable { .. } => "CODA4003",
            Self::BadClientFile { .. } => "CODA4004",
            Self::BadCa { .. } => "CODA4005",
            Self::BadSession { .. } => "CODA4006",
            Self::NoNode { .. } => "CODA4007",
            Self::Untrusted { .. } => "CODA4008",
            Self::Deadline { .. } => "CODA4009",
            Self::Closed => "CODA4010",
            Self::RequestTooLarge { .. } => "CODA4011",
            Self::UnexpectedReply { .. } => "CODA4012",
            Self::BadOptions { .. } => "CODA4013",
            Self::BadPayload { .. } => "CODA4014",
            Self::Socket { .. } => "CODA4015",
            Self::ClosedByNode { code, .. } => closed_by_node(*code),
            Self::Protocol(error) => error.code(),
            Self::Refused(reject) => reject.code(),
            Self::CertificateRequired { .. } => "CODA4225",
            Self::CertificateRefused { .. } => "CODA4226",
            Self::BadCertificate { .. } => "CODA4227",
        }
    }

    /// Whether the rules refused this because another attempt has superseded the lease, or the work has ended.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Refused(Reject::StaleLease | Reject::AlreadyEnded))
    }
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Reject(reject) => Self::Refused(reject),
            Refusal::Unavailable(last) => Self::Deadline { ms: 0, last: Some(last) },
        }
    }
}

/// A node newer than this client may close with a code that is unknown here.
fn closed_by_node(code: u32) -> &'static str {
    match code {
        1001 => "CODA1001",
        1002 => "CODA1002",
        1003 => "CODA1003",
        1004 => "CODA1004",
        1005 => "CODA1005",
        1006 => "CODA1006",
        1007 => "CODA1007",
        1008 => "CODA1008",
        1009 => "CODA1009",
        _ => "CODA1000",
    }
}
