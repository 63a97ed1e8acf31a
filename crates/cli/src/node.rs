//! The one place that knows how a node is started. Everything else of this crate is on this side of the wire.

pub use coda_broker::node::{Node, NodeConfig};

use coda_broker::node::StartError;

use crate::errors::{CliError, Exit};

/// Another process uses the folder.
const FOLDER_IN_USE: &str = "CODA4101";
/// The address cannot be bound.
const CANNOT_LISTEN: &str = "CODA4203";

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        // Errors of the store carry their code in their text.
        let message = message.strip_prefix(code).map_or(message.as_str(), str::trim_start);
        let exit = if matches!(code, FOLDER_IN_USE | CANNOT_LISTEN) { Exit::Conflict } else { Exit::Failed };
        let plain = Self::new(exit, code, message);
        match code {
            FOLDER_IN_USE => plain.help("use the node that runs there, or give this one a folder with --data-dir"),
            CANNOT_LISTEN => {
                plain.help("is another node running there? choose another port with --port; 0 takes a free one")
            }
            _ => plain,
        }
    }
}
