//! `coda queue` and `coda-admin queue`: the same views; only operators hold and resume.

use clap::{Args, Subcommand};
use coda_client::ClientError;
use coda_protocol::ids::{Name, check_name};
use coda_protocol::reply::{QueueList, QueueSummary, Reply};
use coda_protocol::request::Request;
use serde_json::json;

use crate::args::{Format, Global};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Screen};
use crate::show;

#[derive(Subcommand, Debug)]
pub enum QueueCommand {
    /// List the queues that have work or workers
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  coda queue list
  coda queue list -o json | jq '.queues[] | select(.ready > 1000)'"
    )]
    List,
    /// Show one queue by kind and name of work, and why each waits
    #[command(after_help = "\
Examples:
  coda queue describe default
  coda queue describe default -o json | jq '.lanes[] | {name, why}'")]
    Describe(QueueName),
}

#[derive(Subcommand, Debug)]
pub enum AdminCommand {
    /// List the queues that have work or workers
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  coda-admin queue list
  coda-admin queue list -o json"
    )]
    List,
    /// Show one queue by kind and name of work, and why each waits
    #[command(after_help = "\
Examples:
  coda-admin queue describe emails")]
    Describe(QueueName),
    /// Hand out nothing more from a queue. Work is still accepted, and what runs goes on
    #[command(after_help = "\
Examples:
  coda-admin queue pause emails")]
    Pause(QueueName),
    /// Hand out the work of a paused queue again
    #[command(
        visible_alias = "resume",
        after_help = "\
Examples:
  coda-admin queue unpause emails"
    )]
    Unpause(QueueName),
}

#[derive(Args, Debug)]
pub struct QueueName {
    /// The queue's name
    name: String,
}

impl QueueName {
    fn checked(self) -> Result<Name, CliError> {
        check_name(&self.name).map_err(ClientError::from)?;
        Ok(self.name.into())
    }
}

pub async fn queue(command: QueueCommand, global: &Global) -> Ended {
    match command {
        QueueCommand::List => list(global).await,
        QueueCommand::Describe(queue) => describe(queue.checked()?, global).await,
    }
}

pub async fn admin(command: AdminCommand, global: &Global) -> Ended {
    match command {
        AdminCommand::List => list(global).await,
        AdminCommand::Describe(queue) => describe(queue.checked()?, global).await,
        AdminCommand::Pause(queue) => hold(queue.checked()?, true, global).await,
        AdminCommand::Unpause(queue) => hold(queue.checked()?, false, global).await,
    }
}

async fn list(global: &Global) -> Ended {
    let cluster = Cluster::connect(global).await?;
    let queues = all(&cluster).await?;
    cluster.close().await;
    if queues.is_empty() {
        output::tip("no queue has work or workers yet: `coda workflow start` or `coda task submit` makes one");
    }
    output::print(&show::queue::list(&queues, &Screen::new(global)))?;
    Ok(Exit::Ok)
}

/// Every queue, as many pages as there are.
pub async fn all(cluster: &Cluster) -> Result<Vec<QueueSummary>, CliError> {
    let (mut all, mut from) = (QueueList::default(), None);
    loop {
        let Reply::QueuePage(page) = cluster.ask(Request::ListQueuesFrom(from)).await? else {
            return Err(ClientError::UnexpectedReply { expected: "QueuePage" }.into());
        };
        from = all.add(page);
        if from.is_none() {
            return Ok(all.into_queues());
        }
    }
}

async fn describe(queue: Name, global: &Global) -> Ended {
    let cluster = Cluster::connect(global).await?;
    let reply = cluster.ask(Request::DescribeLanes(queue)).await?;
    cluster.close().await;
    let Reply::Lanes(description) = reply else {
        return Err(ClientError::UnexpectedReply { expected: "Lanes" }.into());
    };
    output::print(&show::queue::describe(&description, &Screen::new(global)))?;
    Ok(Exit::Ok)
}

async fn hold(queue: Name, paused: bool, global: &Global) -> Ended {
    let request = if paused { Request::PauseQueue } else { Request::UnpauseQueue };
    let cluster = Cluster::connect(global).await?;
    let reply = cluster.ask(request(queue.clone())).await?;
    cluster.close().await;
    let Reply::Done = reply else {
        return Err(ClientError::UnexpectedReply { expected: "Done" }.into());
    };
    let state = if paused { "paused" } else { "active" };
    match global.output {
        Format::Json => output::print(&output::document(&json!({ "queue": queue.as_str(), "state": state })))?,
        Format::Table => output::tip(&format!("queue {queue} is {state}")),
    }
    Ok(Exit::Ok)
}
