//! The one place that knows how a node is started. Everything else of this crate is on this side of the wire.

pub use coda_broker::node::{Certificates, DiskOptions, Node, NodeConfig, Peering};

use coda_broker::identity::IdentityError;
use coda_broker::node::StartError;

use crate::errors::{CliError, Exit};

/// Another process uses the folder.
const FOLDER_IN_USE: &str = "CODA4101";
/// The address cannot be bound.
const CANNOT_LISTEN: &str = "CODA4203";

impl From<IdentityError> for CliError {
    fn from(error: IdentityError) -> Self {
        use IdentityError as E;
        let exit = match error {
            E::Exists { .. } => Exit::Conflict,
            E::BadInput { .. } => Exit::Usage,
            E::File { .. }
            | E::Make(_)
            | E::Malformed { .. }
            | E::Expired { .. }
            | E::NotYetValid { .. }
            | E::KeyMismatch { .. }
            | E::OtherPurpose { .. }
            | E::OtherNode { .. }
            | E::OtherCluster { .. }
            | E::OtherAuthority { .. }
            | E::NotAuthority { .. } => Exit::Failed,
        };
        let help = match error {
            E::File { .. } | E::Make(_) => "check the path and its permissions",
            E::Malformed { .. } => "give a PEM file, as `coda-admin cert` writes them",
            E::Expired { .. } => "`coda-admin cert` makes another; --force replaces the one that is there",
            E::NotYetValid { .. } => "correct the clock, or wait",
            E::KeyMismatch { .. } => "certificate and key are made together: use two that were",
            E::OtherPurpose { .. } => "`coda-admin cert node` makes a node's certificate",
            E::OtherNode { .. } => "correct `node.id`, or make a certificate for this node with `coda-admin cert node`",
            E::OtherCluster { .. } => "files of two clusters have met: `coda-admin cert show FILE` says which is whose",
            E::OtherAuthority { .. } => {
                "while one authority takes over from another, ca.pem holds both: put the new one's ca.pem behind it first"
            }
            E::Exists { .. } => "choose another folder with --out, or overwrite with --force",
            E::BadInput { .. } => "see --help for what is allowed",
            E::NotAuthority { .. } => "give the ca.pem that `coda-admin cert ca` wrote",
        };
        Self::new(exit, error.code(), error.to_string()).help(help)
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let error = match error {
            StartError::Identity(error) => return error.into(),
            other => other,
        };
        let (code, message) = (error.code(), error.to_string());
        // Errors of the store carry their code in their text.
        let message = message.strip_prefix(code).map_or(message.as_str(), str::trim_start);
        let exit = if matches!(code, FOLDER_IN_USE | CANNOT_LISTEN) { Exit::Conflict } else { Exit::Failed };
        let plain = Self::new(exit, code, message);
        match code {
            FOLDER_IN_USE => plain.help("use the node that runs there, or give this one a folder with --data-dir"),
            CANNOT_LISTEN => plain
                .help("is another node running there? choose another port: --port, or `listen.client` of `coda serve`"),
            _ => plain,
        }
    }
}
