//! `coda-admin node`: see nodes, empty and remove them.

use clap::{Args, Subcommand};
use coda_client::{Admin, ClientError};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::NodeId;
use coda_protocol::operate::ClusterReport;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;
use serde_json::json;

use super::emptying::{self, Emptying};
use super::waiting::Waiting;
use crate::args::{Format, Global, parse_node};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit, printable};
use crate::output::{self, Screen};
use crate::show;

/// What a node says that does not know a question, being older than it.
const MALFORMED: u32 = 1_006;

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Show a node: its groups, disk, peers, and totals since it started
    #[command(after_help = "\
Examples:
  coda-admin node status
  coda-admin node status 3
  coda-admin node status --address 10.0.0.2:4747 -o json")]
    Status {
        /// Its number [default: the node that answers]
        #[arg(value_parser = parse_node)]
        node: Option<NodeId>,
    },
    /// List the nodes of the cluster
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  coda-admin node list
  coda-admin node list --all -o json | jq '.nodes[] | {node, state}'"
    )]
    List {
        /// Those too that were removed
        #[arg(long)]
        all: bool,
    },
    Drain(DrainArgs),
    /// Use a node again that is drained, or being drained
    #[command(after_help = "\
Examples:
  coda-admin node undrain 3")]
    Undrain {
        /// Its number
        #[arg(value_parser = parse_node)]
        node: NodeId,
    },
    Remove(RemoveArgs),
    Replace(ReplaceArgs),
}

/// Empty a node: its leaders and copies go to others, and nothing new comes
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin node drain 3 --wait
  coda-admin node drain 3 && coda-admin cluster status --watch

Nothing is interrupted: a copy is taken from the node only when another node has it. With --wait a bar shows the groups
that are left; Ctrl-C ends the waiting, not the draining. `coda-admin node undrain` takes it back.")]
pub struct DrainArgs {
    /// Its number
    #[arg(value_parser = parse_node)]
    node: NodeId,
    /// Wait until it is empty, without limit unless --timeout is given
    #[arg(long)]
    wait: bool,
    /// Drain it though its copies have nowhere to go, or other nodes are missed
    #[arg(long)]
    yes: bool,
}

/// Remove a node for good, once it is drained and empty
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin node remove 3
  coda-admin node remove 3 --wait

Neither its number nor its data folder can come back. The node is to be drained first.")]
pub struct RemoveArgs {
    /// Its number
    #[arg(value_parser = parse_node)]
    node: NodeId,
    /// Wait until it is empty before that, without limit unless --timeout is given
    #[arg(long)]
    wait: bool,
}

/// Replace a node by others: empty it, wait, and remove it for good
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster token create --address node-1:4747 > token
  coda-admin cluster join --address node-4:4747 --seeds node-1:4747 --token-file token
  coda-admin node replace 3

The new node joins first, under a number of its own: it takes over what the old one has. The old one may be running, and
serves until it is empty, or be lost with its disk: then its copies are made from those of other nodes, and --yes says
that it will not come back. Ctrl-C ends the waiting; run it again to go on.")]
pub struct ReplaceArgs {
    /// The number of the node that leaves
    #[arg(value_parser = parse_node)]
    old: NodeId,
    /// Though it does not answer, or its copies have nowhere to go
    #[arg(long)]
    yes: bool,
}

pub async fn node(command: NodeCommand, global: &Global) -> Ended {
    Cluster::during(global, async |cluster| ask(command, cluster, global).await).await?;
    Ok(Exit::Ok)
}

async fn ask(command: NodeCommand, cluster: &Cluster, global: &Global) -> Result<(), CliError> {
    match command {
        NodeCommand::Status { node } => status(cluster, node, global).await,
        NodeCommand::List { all } => {
            let report = super::report(&cluster.admin()).await?;
            output::print(&show::cluster::nodes(&report.members, all, &Screen::new(global)))
        }
        NodeCommand::Drain(args) => drain(cluster, &args, global).await,
        NodeCommand::Undrain { node } => {
            cluster.admin().undrain(node).await?;
            said(node, "active", &format!("node {node} is used again"), global)
        }
        NodeCommand::Remove(args) => remove(cluster, &args, global).await,
        NodeCommand::Replace(args) => replace(cluster, &args, global).await,
    }
}

/// Of a node that is older than reports, what it can tell.
async fn status(cluster: &Cluster, node: Option<NodeId>, global: &Global) -> Result<(), CliError> {
    let screen = Screen::new(global);
    let report = match node {
        Some(node) => cluster.admin().node_report(Some(node)).await,
        None => cluster.own_report().await,
    };
    match report {
        Ok(report) => output::print(&show::node::report(&report, &screen)),
        Err(ClientError::Refused(Reject::NoCluster)) if node.is_none() => {
            output::print(&described(&cluster.ask(Request::DescribeNode).await?, &screen)?)
        }
        Err(ClientError::ClosedByNode { code: MALFORMED, .. }) if node.is_none() => {
            let again = Cluster::connect(global).await?;
            let reply = again.ask(Request::DescribeNode).await?;
            again.close().await;
            output::print(&described(&reply, &screen)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn described(reply: &Reply, screen: &Screen) -> Result<String, CliError> {
    match reply {
        Reply::Node(node) => Ok(show::node::status(node, screen)),
        _ => Err(ClientError::UnexpectedReply { expected: "Node" }.into()),
    }
}

async fn drain(cluster: &Cluster, args: &DrainArgs, global: &Global) -> Result<(), CliError> {
    let admin = cluster.admin();
    let report = super::report(&admin).await?;
    if !args.yes {
        emptying::check(&report, args.node)?;
    }
    admin.drain(args.node).await?;
    if !args.wait {
        let tip = format!("node {} is being emptied; `coda-admin cluster status` shows how far it is", args.node);
        return said(args.node, "draining", &tip, global);
    }
    until_empty(&cluster.admin_for_watching(), args.node, global).await?;
    let tip = format!("node {0} is empty: stop it, or `coda-admin node remove {0}`", args.node);
    said(args.node, "drained", &tip, global)
}

async fn until_empty(admin: &Admin, node: NodeId, global: &Global) -> Result<(), CliError> {
    output::tip("waiting until it is empty; Ctrl-C ends the waiting, and the cluster goes on");
    let waiting = Waiting::bar(global.timeout);
    let mut emptying = Emptying::new(node);
    let what = format!("node {node} is not empty yet");
    waiting.until(&what, async || admin.report().await, |waiting, report| emptying.look(waiting, &report)).await
}

async fn remove(cluster: &Cluster, args: &RemoveArgs, global: &Global) -> Result<(), CliError> {
    if args.wait {
        until_empty(&cluster.admin_for_watching(), args.node, global).await?;
    }
    cluster.admin().remove(args.node).await?;
    removed(args.node, global)
}

fn removed(node: NodeId, global: &Global) -> Result<(), CliError> {
    let tip = format!("node {node} is removed for good: stop it, its data folder is of no more use");
    said(node, "removed", &tip, global)
}

async fn replace(cluster: &Cluster, args: &ReplaceArgs, global: &Global) -> Result<(), CliError> {
    let admin = cluster.admin();
    let report = super::report(&admin).await?;
    let will = what_replacing_does(&report, args.old)?;
    if !args.yes {
        emptying::check(&report, args.old)?;
        if let Will::Lose(why) = &will {
            return Err(CliError::unconfirmed(why.clone()));
        }
    }
    match will {
        Will::Empty(tip) | Will::Lose(tip) => output::tip(&tip),
    }
    admin.drain(args.old).await?;
    until_empty(&cluster.admin_for_watching(), args.old, global).await?;
    admin.remove(args.old).await?;
    removed(args.old, global)
}

/// What replacing a node means, for the person who asks for it.
#[derive(Debug, PartialEq, Eq)]
enum Will {
    Empty(String),
    /// It does not answer.
    Lose(String),
}

fn what_replacing_does(report: &ClusterReport, old: NodeId) -> Result<Will, CliError> {
    let found = emptying::member(report, old)?;
    let groups = found.member.groups;
    if found.member.state == NodeState::Joining {
        return Err(Reject::WrongNodeState { node: old.0, state: found.member.state }.into());
    }
    Ok(match &found.report {
        Ok(_) => Will::Empty(format!("node {old} serves until other nodes have its copies of {groups} groups")),
        Err(why) => Will::Lose(format!(
            "node {old} does not answer ({}). If its disk is well, start it again instead: replaced, it never comes back, \
             and its copies of {groups} groups are made from those of other nodes",
            printable(why)
        )),
    })
}

fn said(node: NodeId, state: &str, tip: &str, global: &Global) -> Result<(), CliError> {
    match global.output {
        Format::Json => output::print(&output::document(&json!({ "node": node.0, "state": state }))),
        Format::Table => {
            output::tip(tip);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::canned;

    #[test]
    fn who_replaces_a_node_is_told_what_that_means() {
        let mut report = canned::healthy();
        assert!(matches!(what_replacing_does(&report, NodeId(3)), Ok(Will::Empty(_))));
        report.members[2].report = Err("no route\u{1b}[2J".into());
        let Ok(Will::Lose(why)) = what_replacing_does(&report, NodeId(3)) else { panic!() };
        assert!(why.starts_with("node 3 does not answer (no route\u{fffd}[2J). If its disk is well"), "{why}");
        report.members[2].member.state = NodeState::Joining;
        assert_eq!(what_replacing_does(&report, NodeId(3)).unwrap_err().code, "CODA2041");
        assert_eq!(what_replacing_does(&report, NodeId(7)).unwrap_err().code, "CODA2038");
    }
}
