//! The functions at work: each task and each run is one Tokio task that ends its own lease.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::{LeaseId, Name, Work};
use coda_protocol::payload::{Payload, WorkOutcome};
use coda_protocol::push::{RunLease, TaskLease};
use coda_protocol::request::StepKey;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

use crate::error::ClientError;
use crate::functions::{Functions, caught, failure_of_caught};
use crate::payloads::failure_of_client;
use crate::resident::{Ended, Resident};
use crate::worker_link::WorkerLink;
use crate::workflow::WorkflowContext;

/// What is being executed, shared with the executions.
pub(super) struct Crew {
    pub link: WorkerLink,
    pub functions: Arc<Functions>,
    pub park_after: Option<Duration>,
    pub working: Mutex<HashMap<(Work, LeaseId), Working>>,
    pub one_left: Notify,
}

#[derive(Clone)]
pub(super) enum Working {
    Task(Arc<Notify>),
    Run(Arc<Resident>),
}

impl Crew {
    pub fn start_task(self: &Arc<Self>, lease: TaskLease) {
        let hold = (Work::Task(lease.task), lease.lease);
        let stop = Arc::new(Notify::new());
        self.working.lock().insert(hold, Working::Task(stop.clone()));
        let crew = self.clone();
        tokio::spawn(async move {
            let TaskLease { task, lease, name, args, .. } = lease;
            let executed = tokio::select! {
                outcome = crew.execute(&name, args) => outcome,
                () = stop.notified() => None,
            };
            match executed {
                Some(outcome) => {
                    let done = crew.link.complete_task(task, lease, outcome).await;
                    if let Err(error @ ClientError::Refused(_)) = done {
                        let outcome = Err(failure_of_client("coda.ResultRefused", &error));
                        log(crew.link.complete_task(task, lease, outcome).await);
                    }
                }
                None => crew.link.abandon(hold.0, hold.1),
            }
            crew.left(hold);
        });
    }

    /// `None`: there is no such function here.
    async fn execute(&self, name: &Name, args: Payload) -> Option<WorkOutcome> {
        let function = self.functions.tasks.get(name)?;
        let executed = caught(async { function(args).await }).await;
        Some(executed.unwrap_or_else(|panic| Err(failure_of_caught(panic))))
    }

    pub fn start_run(self: &Arc<Self>, lease: RunLease, memo: Vec<(StepKey, WorkOutcome)>) {
        let resident = Resident::new(self.link.clone(), &lease, memo);
        let hold = (resident.work(), lease.lease);
        self.working.lock().insert(hold, Working::Run(resident.clone()));
        let crew = self.clone();
        tokio::spawn(async move {
            let ended = crew.drive(&resident, lease).await;
            let (run, lease) = (resident.run, resident.lease);
            match ended {
                Ended::Outcome(outcome) => {
                    let done = crew.link.complete_run(run, lease, outcome).await;
                    if let Err(error @ ClientError::Refused(_)) = done {
                        let outcome = Err(failure_of_client("coda.ResultRefused", &error));
                        log(crew.link.complete_run(run, lease, outcome).await);
                    }
                }
                Ended::Parked => {}
                Ended::Released => log(crew.link.release(resident.work(), lease).await),
                Ended::Lost => crew.link.abandon(resident.work(), lease),
            }
            crew.left(hold);
        });
    }

    async fn drive(&self, resident: &Arc<Resident>, lease: RunLease) -> Ended {
        let Some(function) = self.functions.workflows.get(&lease.workflow) else { return Ended::Released };
        let cx = WorkflowContext::new(resident.clone());
        let input = lease.input;
        // Even the function's first, synchronous part may panic: it is called inside the drive.
        let workflow = function_call(|| function(cx, input));
        resident.drive(workflow, self.park_after).await
    }

    fn left(&self, hold: (Work, LeaseId)) {
        self.working.lock().remove(&hold);
        self.one_left.notify_one();
    }

    pub fn find(&self, hold: (Work, LeaseId)) -> Option<Working> {
        self.working.lock().get(&hold).cloned()
    }

    pub fn all(&self) -> Vec<Working> {
        self.working.lock().values().cloned().collect()
    }

    pub async fn empty(&self) {
        while !self.working.lock().is_empty() {
            self.one_left.notified().await;
        }
    }
}

impl Working {
    pub fn stop(&self) {
        match self {
            Self::Task(stop) => stop.notify_one(),
            Self::Run(resident) => resident.lose(),
        }
    }
}

fn function_call(call: impl FnOnce() -> BoxFuture<'static, WorkOutcome>) -> BoxFuture<'static, WorkOutcome> {
    let called = catch_unwind(AssertUnwindSafe(call));
    called.unwrap_or_else(|panic| Box::pin(std::future::ready(Err(failure_of_caught(panic)))))
}

fn log(result: Result<(), ClientError>) {
    if let Err(error) = result {
        warn!(code = error.code(), %error, "work could not be ended");
    }
}
