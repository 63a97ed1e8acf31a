//! The functions a worker executes, from typed closures to payloads, and what becomes of their errors and panics.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use coda_protocol::ids::Name;
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use futures::future::{BoxFuture, FutureExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::payloads::{BoxError, failure_of, failure_of_client, failure_of_panic, from_json, to_json};
use crate::workflow::WorkflowContext;

pub(crate) type TaskFunction = Box<dyn Fn(Payload) -> BoxFuture<'static, WorkOutcome> + Send + Sync>;
pub(crate) type WorkflowFunction =
    Box<dyn Fn(WorkflowContext, Payload) -> BoxFuture<'static, WorkOutcome> + Send + Sync>;

#[derive(Default)]
pub(crate) struct Functions {
    pub tasks: HashMap<Name, TaskFunction>,
    pub workflows: HashMap<Name, WorkflowFunction>,
}

pub(crate) fn task<T, R, E, F, Fut>(function: F) -> TaskFunction
where
    T: DeserializeOwned,
    R: Serialize + 'static,
    E: Into<BoxError> + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
{
    Box::new(move |args| match from_json(&args) {
        Ok(args) => function(args).map(outcome).boxed(),
        Err(error) => std::future::ready(Err(failure_of_client("coda.BadArguments", &error))).boxed(),
    })
}

pub(crate) fn workflow<T, R, E, F, Fut>(function: F) -> WorkflowFunction
where
    T: DeserializeOwned,
    R: Serialize + 'static,
    E: Into<BoxError> + 'static,
    F: Fn(WorkflowContext, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
{
    Box::new(move |cx, input| match from_json(&input) {
        Ok(input) => function(cx, input).map(outcome).boxed(),
        Err(error) => std::future::ready(Err(failure_of_client("coda.BadArguments", &error))).boxed(),
    })
}

/// What a function returned, as it is recorded.
pub(crate) fn outcome<R: Serialize, E: Into<BoxError>>(result: Result<R, E>) -> WorkOutcome {
    let value = result.map_err(failure_of)?;
    to_json(&value).map_err(|error| failure_of_client("coda.BadResult", &error))
}

pub(crate) type Panic = Box<dyn Any + Send>;

/// A panic ends the function that panics and nothing else.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `caught` returns")]
pub(crate) fn failure_of_caught(panic: Panic) -> Failure {
    failure_of_panic(&*panic)
}
