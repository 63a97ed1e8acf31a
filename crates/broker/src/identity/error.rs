//! Why certificates cannot be used or made.

use std::path::PathBuf;

use coda_protocol::ids::{ClusterId, NodeId};
use thiserror::Error;

/// `what` is the file, or whose certificate it is where there is none.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("cannot use {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{what} holds no certificate or key that can be read: {why}")]
    Malformed { what: String, why: String },
    #[error("{what} has expired at {at}")]
    Expired { what: String, at: String },
    #[error("{what} is not valid before {from}; is this machine's clock right?")]
    NotYetValid { what: String, from: String },
    #[error("the key in {} does not match the certificate in {}", key.display(), certificate.display())]
    KeyMismatch { certificate: PathBuf, key: PathBuf },
    #[error("{what} is not {expected}: {why}")]
    OtherPurpose { what: String, expected: &'static str, why: String },
    #[error("{what} is the certificate of node {}, not of node {}", found.0, expected.0)]
    OtherNode { what: String, found: NodeId, expected: NodeId },
    #[error("{what} belongs to cluster {found}, not to cluster {expected}")]
    OtherCluster { what: String, found: ClusterId, expected: ClusterId },
    #[error("{what} is not signed by an authority in {}", ca.display())]
    OtherAuthority { what: String, ca: PathBuf },
    #[error("{} exists and is not overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("{why}")]
    BadInput { why: String },
    #[error("{what} is not the certificate of a cluster's authority: {why}")]
    NotAuthority { what: String, why: String },
}

impl IdentityError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Make(_) => "CODA4202",
            Self::Malformed { .. } => "CODA4207",
            Self::Expired { .. } => "CODA4208",
            Self::NotYetValid { .. } => "CODA4209",
            Self::KeyMismatch { .. } => "CODA4210",
            Self::OtherPurpose { .. } => "CODA4211",
            Self::OtherNode { .. } => "CODA4212",
            Self::OtherCluster { .. } => "CODA4213",
            Self::OtherAuthority { .. } => "CODA4214",
            Self::Exists { .. } => "CODA4215",
            Self::BadInput { .. } => "CODA4216",
            Self::NotAuthority { .. } => "CODA4217",
        }
    }
}
