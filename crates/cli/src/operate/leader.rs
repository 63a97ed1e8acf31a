//! `coda-admin leader`: who leads a group.

use clap::{Args, Subcommand};
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::operate::ClusterReport;
use serde_json::json;

use crate::args::{Format, Global, parse_group, parse_node};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::Exit;
use crate::output;

#[derive(Subcommand, Debug)]
pub enum LeaderCommand {
    Transfer(TransferArgs),
}

/// Hand the leadership of a group to another node
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin leader transfer 2
  coda-admin leader transfer 2 --to 3

Nothing is lost and no work stops: clients follow the new leader. Where rebalance.auto is on, leaders are spread evenly
again after a while; to keep a node free of them, drain it.")]
pub struct TransferArgs {
    /// The group; 0 is the meta group
    #[arg(value_parser = parse_group)]
    group: GroupId,
    /// The node that is to lead [default: the best one]
    #[arg(long, value_name = "NODE", value_parser = parse_node)]
    to: Option<NodeId>,
}

pub async fn leader(command: LeaderCommand, global: &Global) -> Ended {
    let LeaderCommand::Transfer(TransferArgs { group, to }) = command;
    let move_it = async |cluster: &Cluster| {
        let admin = cluster.admin();
        admin.transfer_leader(group, to).await?;
        // It has moved, whether or not anybody can tell where.
        Ok(match to {
            Some(to) => Some(to),
            None => admin.report().await.ok().and_then(|report| leader_of(&report, group)),
        })
    };
    let leader = Cluster::during(global, move_it).await?;
    match global.output {
        Format::Json => {
            let document = json!({ "group": group.0, "leader": leader.map(|leader| leader.0) });
            output::print(&output::document(&document))?;
        }
        Format::Table => {
            let leads = leader.map_or_else(|| "another node leads".to_owned(), |leader| format!("node {leader} leads"));
            output::tip(&format!("{leads} group {group}"));
        }
    }
    Ok(Exit::Ok)
}

fn leader_of(report: &ClusterReport, group: GroupId) -> Option<NodeId> {
    report.groups.iter().find(|one| one.group == group)?.leader
}
