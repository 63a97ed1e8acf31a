//! What operators do with a cluster: let nodes in, empty and remove them, move leaders and copies, see how it is.
//!
//! Deliberately absent: any rule of what is allowed. The cluster decides; what is refused here is refused because a person
//! would probably not want it, and `--yes` says otherwise. Read in this order.

pub mod cluster;
pub mod join;
pub mod token;
pub mod verify;

pub mod leader;
pub mod node;
pub mod rebalance;
pub mod setting;

pub mod bundle;

mod emptying;
mod waiting;

use coda_client::Admin;
use coda_protocol::operate::ClusterReport;
use coda_protocol::reject::Reject;

use crate::errors::CliError;

/// Everything about the cluster, where there is one.
async fn report(admin: &Admin) -> Result<Box<ClusterReport>, CliError> {
    let report = admin.report().await?;
    if report.cluster.is_none() {
        return Err(Reject::NoCluster.into());
    }
    Ok(report)
}
