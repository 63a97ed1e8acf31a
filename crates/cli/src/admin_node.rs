//! `coda-admin node`.

use clap::Subcommand;
use coda_client::ClientError;
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;

use crate::args::Global;
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::Exit;
use crate::output::{self, Screen};
use crate::show;

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Show the node that answers: version, sessions, groups and totals since it started
    #[command(after_help = "\
Examples:
  coda-admin node status
  coda-admin node status --address 10.0.0.2:4747 -o json")]
    Status,
}

pub async fn node(command: NodeCommand, global: &Global) -> Ended {
    let NodeCommand::Status = command;
    let cluster = Cluster::connect(global).await?;
    let reply = cluster.ask(Request::DescribeNode).await?;
    cluster.close().await;
    let Reply::Node(node) = reply else {
        return Err(ClientError::UnexpectedReply { expected: "Node" }.into());
    };
    output::print(&show::node::status(&node, &Screen::new(global)))?;
    Ok(Exit::Ok)
}
