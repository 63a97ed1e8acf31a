//! `coda-admin cluster join`: a new node says who it is, and the cluster lets it in.
//!
//! The node is asked, not the operator: its id is in its certificate, and its addresses in its own settings.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use coda_client::{Admin, ClientError, ConnectOptions};
use coda_protocol::cluster::{NodeState, Registration};
use coda_protocol::ids::{NodeId, SessionId};
use coda_protocol::join::JoinToken;
use coda_protocol::operate::{ClusterReport, NodeReport};
use serde_json::json;

use super::waiting::Waiting;
use crate::args::{Format, Global};
use crate::cluster::{self, Cluster};
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output;

/// How long a node that was let in may take until it is at work.
const ACTIVE_WITHIN: Duration = Duration::from_secs(120);
/// More than a token has, and enough to see that it is none.
const TOKEN_FILE_BYTES_MAX: u64 = 4_096;

/// Let a new node into a cluster
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster join --address node-4:4747 --seeds node-1:4747,node-2:4747 --token-file token
  coda-admin cluster token create --address node-1:4747 |
    coda-admin cluster join --address node-4:4747 --seeds node-1:4747 --token-file -

Run it against the new node, which is started and in no cluster yet: --address is the new node's, --seeds are nodes of
the cluster. The same --ca, --cert and --key are used for both. It waits until the node is at work; copies of groups are
moved there after that. Running it again is safe.")]
pub struct JoinArgs {
    /// What `coda-admin cluster token create` printed. Other users of this machine may see it: a file is safer
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file", required_unless_present = "token_file")]
    token: Option<String>,
    /// A file that holds the token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Nodes of the cluster, several separated by commas
    #[arg(long, value_name = "HOST:PORT", required = true)]
    seeds: String,
}

/// Lets a node into a cluster, once: asking again with the same token is safe. It is at work some time later: see
/// [`until_active`].
///
/// # Errors
/// What the cluster refuses, and `CODA4009` when no leader answered in time.
pub async fn join(
    cluster: &Admin,
    token: &JoinToken,
    node: NodeId,
    registration: Registration,
) -> Result<(), CliError> {
    if registration.peer_addr.is_empty() {
        return Err(CliError::no_peer_address(node.0));
    }
    Ok(cluster.join(token, node, registration).await?)
}

/// Waits until a node that was let in is at work.
///
/// # Errors
/// `CODA4320` after the time, and what ends the connection.
pub async fn until_active(cluster: &Admin, node: NodeId, timeout: Duration) -> Result<NodeState, CliError> {
    let waiting = Waiting::spinner(Some(timeout));
    waiting.say(format!("node {node} is let in; waiting until it is at work"));
    let what = format!("node {node} is let in, but is not at work yet");
    waiting.until(&what, async || cluster.report().await, |_, report| Ok(at_work(&report, node))).await
}

fn at_work(report: &ClusterReport, node: NodeId) -> Option<NodeState> {
    let member = report.members.iter().find(|member| member.member.node == node)?;
    match member.member.state {
        NodeState::Joining => None,
        state @ (NodeState::Active | NodeState::Draining | NodeState::Removed) => Some(state),
    }
}

/// Whether the node is in a cluster, and not in this one: two that were begun with one authority have one id.
async fn is_elsewhere(cluster: &Cluster, node: &NodeReport) -> Result<bool, ClientError> {
    if node.state.is_none() {
        return Ok(false);
    }
    let known = cluster.admin().report().await?.members;
    Ok(!known.iter().any(|one| one.member.registration.storage == node.registration.storage))
}

pub async fn command(args: &JoinArgs, global: &Global) -> Ended {
    let token = read_token(args)?;
    let here = cluster::options(global)?;
    let seeds = ConnectOptions {
        addresses: ConnectOptions::new(&args.seeds, Vec::new())?.addresses,
        session: SessionId::random(),
        ..here.clone()
    };
    let new = Cluster::open(here, global.timeout).await?;
    let report = new.own_report().await;
    new.close().await;
    let report = *report?;
    let node = report.node;
    let cluster = Cluster::open(seeds, global.timeout).await?;
    let joined = match is_elsewhere(&cluster, &report).await {
        Ok(false) => join_and_wait(&cluster, &token, node, report.registration, global).await,
        Ok(true) => Err(CliError::in_a_cluster(node.0)),
        Err(error) => Err(error.into()),
    };
    cluster.close().await;
    let state = joined?;
    match global.output {
        Format::Json => {
            output::print(&output::document(&json!({ "node": node.0, "state": state.to_string() })))?;
        }
        Format::Table => output::tip(&format!("node {node} is {state}; `coda-admin cluster status` shows the cluster")),
    }
    Ok(Exit::Ok)
}

async fn join_and_wait(
    cluster: &Cluster,
    token: &JoinToken,
    node: NodeId,
    registration: Registration,
    global: &Global,
) -> Result<NodeState, CliError> {
    if cluster.node() == Some(node) {
        return Err(CliError::seeds_are_the_node(node.0));
    }
    join(&cluster.admin(), token, node, registration).await?;
    let timeout = global.timeout.unwrap_or(ACTIVE_WITHIN);
    until_active(&cluster.admin_for_watching(), node, timeout).await.map_err(|error| {
        let is_late = error.code == "CODA4320";
        let help = "see that node's log: it has to reach the peer addresses of the others, and they its own";
        if is_late { error.help(help) } else { error }
    })
}

fn read_token(args: &JoinArgs) -> Result<JoinToken, CliError> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) if path == Path::new("-") => read_from("standard input", std::io::stdin().lock())?,
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path).map_err(|error| CliError::bad_token_file(&name, error))?;
            read_from(&name, file)?
        }
        (None, None) => unreachable!("clap requires one of them"),
    };
    Ok(text.parse()?)
}

fn read_from(name: &str, from: impl Read) -> Result<String, CliError> {
    let mut text = String::new();
    from.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| CliError::bad_token_file(name, error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::canned;

    fn args(token: Option<&str>, token_file: Option<&Path>) -> JoinArgs {
        JoinArgs { token: token.map(Into::into), token_file: token_file.map(Into::into), seeds: "node-1".into() }
    }

    #[test]
    fn a_token_is_given_or_in_a_file_and_is_never_repeated_in_an_error() {
        let token = JoinToken::random();
        assert_eq!(read_token(&args(Some(&token.to_string()), None)).unwrap(), token);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{token}\n")).unwrap();
        assert_eq!(read_token(&args(None, Some(file.path()))).unwrap(), token);
        let cut = &token.to_string()[..90];
        let error = read_token(&args(Some(cut), None)).unwrap_err();
        assert_eq!((error.code, error.exit.status()), ("CODA2046", 2));
        assert!(!error.to_string().contains(&cut[50..]), "{error}");
        let error = read_token(&args(None, Some(Path::new("/no/such/file")))).unwrap_err();
        assert_eq!((error.code, error.exit.status()), ("CODA4326", 2));
    }

    #[test]
    fn a_node_is_at_work_when_it_is_not_joining_any_more() {
        let mut report = canned::healthy();
        assert_eq!(at_work(&report, NodeId(3)), Some(NodeState::Active));
        report.members[2].member.state = NodeState::Joining;
        assert_eq!(at_work(&report, NodeId(3)), None);
        assert_eq!(at_work(&report, NodeId(9)), None, "not known to the node that answers");
    }
}
