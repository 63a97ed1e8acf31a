//! What nodes say of themselves when they meet.

use coda_protocol::ids::{ClusterId, NodeId, StorageId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// What nodes say of themselves before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Changes with each start of the node.
    pub incarnation: u64,
    /// Made with the data folder: another one under the same node id means that the node has lost what it promised.
    pub storage: StorageId,
    /// Where this node can be dialled, `host:port`; empty if only the membership knows.
    pub address: SmolStr,
    /// Program and version, for logs and status.
    pub program: SmolStr,
}
