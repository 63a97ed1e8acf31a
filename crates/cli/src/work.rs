//! `coda workflow` and `coda task`: start work, wait for how it ends, and see what it does meanwhile.

use std::time::Duration;

use clap::{Args, Subcommand};
use coda_client::ClientError;
use coda_protocol::ids::{Millis, Name, RunId, TaskId, check_name};
use coda_protocol::limits::{PRIORITY_DEFAULT, PRIORITY_MAX, RETRIES_MAX};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reply::Reply;
use coda_protocol::request::{Request, StartRun, SubmitTask};
use serde_json::json;

use crate::args::{Format, Global, parse_duration};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Screen};
use crate::{input, show};

/// Where the SDKs register what names no queue.
const QUEUE_DEFAULT: &str = "default";

#[derive(Subcommand, Debug)]
pub enum WorkflowCommand {
    /// Start a run of a workflow and print its id; with --wait, its result
    #[command(
        visible_alias = "run",
        after_help = "\
Examples:
  coda workflow start process_order --input '{\"order\": 7}'
  coda workflow start process_order --input @order.json --wait --timeout 5m
  echo '{\"order\": 7}' | coda workflow start process_order --input - --queue slow --priority 9
  coda workflow start nightly --id 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01    safe to repeat: one run"
    )]
    Start {
        #[command(flatten)]
        new: NewWork,
        /// The run's id, to start it only once however often this is repeated [default: a fresh one]
        #[arg(long, value_name = "UUID")]
        id: Option<RunId>,
    },
    /// Wait for a run to end and print its result, as JSON
    #[command(after_help = "\
Examples:
  coda workflow result 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01
  coda workflow result 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01 --timeout 30s || echo \"status $?\"

Exit status: 1 if the run failed, 124 if it had not ended in time.")]
    Result {
        /// The run's id
        run: RunId,
    },
    /// Show what a run is doing, what it waits for, and its steps
    #[command(after_help = "\
Examples:
  coda workflow describe 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01
  coda workflow describe 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01 -o json | jq .why")]
    Describe {
        /// The run's id
        run: RunId,
    },
}

#[derive(Subcommand, Debug)]
pub enum TaskCommand {
    /// Submit a task and print its id; with --wait, its result
    #[command(
        visible_alias = "start",
        after_help = "\
Examples:
  coda task submit send_email --input '{\"to\": \"a@example.org\"}'
  coda task submit resize --input '[\"cat.jpg\", 640]' --max-retries 5 --wait
  coda task submit report --delay 1h"
    )]
    Submit {
        #[command(flatten)]
        new: NewWork,
        /// The task's id, to submit it only once however often this is repeated [default: a fresh one]
        #[arg(long, value_name = "UUID")]
        id: Option<TaskId>,
    },
    /// Wait for a task to end and print its result, as JSON
    #[command(after_help = "\
Examples:
  coda task result 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01 --timeout 30s

Exit status: 1 if the task failed, 124 if it had not ended in time.")]
    Result {
        /// The task's id
        task: TaskId,
    },
    /// Show what a task is doing and what it waits for
    #[command(after_help = "\
Examples:
  coda task describe 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01")]
    Describe {
        /// The task's id
        task: TaskId,
    },
}

#[derive(Args, Debug)]
pub struct NewWork {
    /// The name under which workers have registered it
    name: String,
    /// Arguments: a JSON object of names or array of positions, @FILE, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-", default_value = "{}")]
    input: String,
    /// The queue to put it into
    #[arg(long, short, default_value = QUEUE_DEFAULT)]
    queue: String,
    /// 0 to 9; in one queue, higher goes first
    #[arg(long, default_value_t = PRIORITY_DEFAULT, value_parser = clap::value_parser!(u8).range(0..=i64::from(PRIORITY_MAX)))]
    priority: u8,
    /// How often it is tried again after a failure
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(RETRIES_MAX)))]
    max_retries: u32,
    /// Not before this long from now, e.g. 30s, 1h
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration, hide_default_value = true)]
    delay: Duration,
    /// Wait until it has ended and print its result
    #[arg(long, short)]
    wait: bool,
}

impl NewWork {
    fn names(&self) -> Result<(Name, Name), CliError> {
        check_name(&self.name).and_then(|()| check_name(&self.queue)).map_err(ClientError::from)?;
        Ok((self.name.as_str().into(), self.queue.as_str().into()))
    }

    fn policy(&self) -> RetryPolicy {
        RetryPolicy { max_retries: self.max_retries, ..RetryPolicy::NEVER }
    }

    fn delay(&self) -> Millis {
        Millis(u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX))
    }
}

pub async fn workflow(command: WorkflowCommand, global: &Global) -> Ended {
    match command {
        WorkflowCommand::Start { new, id } => start_run(&new, id.unwrap_or_else(RunId::random), global).await,
        WorkflowCommand::Result { run } => {
            let awaited = Awaited { what: "run", id: run.to_string(), request: Request::AwaitRun(run) };
            result(awaited, Cluster::connect(global).await?, global).await
        }
        WorkflowCommand::Describe { run } => {
            let Reply::Run(run) = ask(Request::DescribeRun(run), global).await? else {
                return Err(ClientError::UnexpectedReply { expected: "Run" }.into());
            };
            output::print(&show::run::describe(&run, &Screen::new(global)))?;
            Ok(Exit::Ok)
        }
    }
}

pub async fn task(command: TaskCommand, global: &Global) -> Ended {
    match command {
        TaskCommand::Submit { new, id } => submit_task(&new, id.unwrap_or_else(TaskId::random), global).await,
        TaskCommand::Result { task } => {
            let awaited = Awaited { what: "task", id: task.to_string(), request: Request::AwaitTask(task) };
            result(awaited, Cluster::connect(global).await?, global).await
        }
        TaskCommand::Describe { task } => {
            let Reply::Task(task) = ask(Request::DescribeTask(task), global).await? else {
                return Err(ClientError::UnexpectedReply { expected: "Task" }.into());
            };
            output::print(&show::task::describe(&task, &Screen::new(global)))?;
            Ok(Exit::Ok)
        }
    }
}

async fn start_run(new: &NewWork, run: RunId, global: &Global) -> Ended {
    let (workflow, queue) = new.names()?;
    let request = Request::StartRun(StartRun {
        run,
        workflow,
        queue,
        input: input::read(&new.input)?,
        priority: new.priority,
        policy: new.policy(),
        delay: new.delay(),
    });
    let awaited = Awaited { what: "run", id: run.to_string(), request: Request::AwaitRun(run) };
    begin(request, awaited, new.wait, global).await
}

async fn submit_task(new: &NewWork, task: TaskId, global: &Global) -> Ended {
    let (name, queue) = new.names()?;
    let request = Request::SubmitTask(SubmitTask {
        task,
        name,
        queue,
        args: input::read(&new.input)?,
        priority: new.priority,
        policy: new.policy(),
        delay: new.delay(),
    });
    let awaited = Awaited { what: "task", id: task.to_string(), request: Request::AwaitTask(task) };
    begin(request, awaited, new.wait, global).await
}

/// Work whose end can be waited for.
struct Awaited {
    /// `run` or `task`: the word for people, and the name of the id for programs.
    what: &'static str,
    id: String,
    request: Request,
}

async fn ask(request: Request, global: &Global) -> Result<Reply, CliError> {
    let cluster = Cluster::connect(global).await?;
    let reply = cluster.ask(request).await?;
    cluster.close().await;
    Ok(reply)
}

async fn begin(request: Request, awaited: Awaited, wait: bool, global: &Global) -> Ended {
    let cluster = Cluster::connect(global).await?;
    let Reply::Started { existed } = cluster.ask(request).await? else {
        return Err(ClientError::UnexpectedReply { expected: "Started" }.into());
    };
    let Awaited { what, id, .. } = &awaited;
    if existed {
        output::tip(&format!("{what} {id} had been accepted before and is left as it is"));
    }
    if wait {
        output::tip(&format!("{what} {id} is accepted"));
        return result(awaited, cluster, global).await;
    }
    cluster.close().await;
    match global.output {
        Format::Json => output::print(&output::document(&json!({ *what: id, "existed": existed })))?,
        Format::Table => output::print(&format!("{id}\n"))?,
    }
    Ok(Exit::Ok)
}

async fn result(awaited: Awaited, cluster: Cluster, global: &Global) -> Ended {
    let Awaited { what, id, request } = awaited;
    let outcome = cluster.wait(request, what, &id).await?;
    cluster.close().await;
    output::print(&outcome_text(what, &id, &outcome, global.output))?;
    match outcome {
        Ok(_) => Ok(Exit::Ok),
        Err(failure) => Err(CliError::work_failed(what, &id, &failure)),
    }
}

/// For people the value itself, as the function's codec wrote it; for programs also the failure.
fn outcome_text(what: &str, id: &str, outcome: &WorkOutcome, format: Format) -> String {
    match (format, outcome) {
        (Format::Table, Ok(payload)) if payload.codec == "json" => {
            format!("{}\n", String::from_utf8_lossy(&payload.data))
        }
        (Format::Table, Ok(payload)) => output::document(&output::payload_json(payload)),
        (Format::Table, Err(_)) => String::new(),
        (Format::Json, outcome) => {
            let state = if outcome.is_ok() { "succeeded" } else { "failed" };
            let (name, value) = show::outcome_json(outcome);
            output::document(&json!({ what: id, "state": state, name: value }))
        }
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::payload::{Failure, Payload};

    use super::*;

    #[test]
    fn a_result_for_people_is_the_value_to_the_last_digit() {
        let outcome = Ok(Payload::json("{\"n\": 12345678901234567890123}"));
        assert_eq!(outcome_text("run", "0192", &outcome, Format::Table), "{\"n\": 12345678901234567890123}\n");
    }

    #[test]
    fn programs_get_the_failure_too() {
        let failure = Failure { kind: "E".into(), message: "m".into(), traceback: String::new(), retryable: false };
        let text = outcome_text("task", "0192", &Err(failure.clone()), Format::Json);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["state"], "failed");
        assert_eq!((&value["task"], &value["failure"]["type"]), (&json!("0192"), &json!("E")));
        assert_eq!(outcome_text("task", "0192", &Err(failure), Format::Table), "");
    }
}
