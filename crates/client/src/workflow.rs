//! What a workflow function written in Rust can do: spawn steps, await them, and record results of its own.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use coda_protocol::cache_key::CacheKey;
use coda_protocol::ids::{Millis, Name, RunId, check_name};
use coda_protocol::limits::PRIORITY_DEFAULT;
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reject::Reject;
use coda_protocol::request::{SpawnStep, StepKey, StepKind};
use futures::future::{BoxFuture, FutureExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::error::ClientError;
use crate::functions::outcome;
use crate::keys::IntoKey;
use crate::payloads::{BoxError, failure_of_client, from_json, to_json};
use crate::resident::{Resident, StepFuture, ended};
use crate::start::millis;

/// A step that failed, its retries included. Raised where the step is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("step `{step}` failed: {}: {}", failure.kind, failure.message)]
pub struct StepFailed {
    pub step: Name,
    pub failure: Failure,
}

/// The run that a workflow function executes. Cheap to clone.
#[derive(Clone)]
pub struct WorkflowContext {
    resident: Arc<Resident>,
}

impl WorkflowContext {
    pub(crate) fn new(resident: Arc<Resident>) -> Self {
        Self { resident }
    }

    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.resident.run
    }

    /// From 1; counts failures of the workflow function.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.resident.attempt
    }

    /// A task of this run. Nothing happens until [`SpawnStepBuilder::start`] or `.await`.
    pub fn spawn_task<R>(&self, name: &str, args: impl Serialize) -> SpawnStepBuilder<R> {
        self.step(StepKind::Task, name, to_json(&args))
    }

    /// A child run. Nothing happens until [`SpawnStepBuilder::start`] or `.await`.
    pub fn spawn_workflow<R>(&self, name: &str, input: impl Serialize) -> SpawnStepBuilder<R> {
        self.step(StepKind::Workflow, name, to_json(&input))
    }

    /// Executes the closure here and records what it returns under the key; later executions of the run get the record
    /// and skip the closure. Concurrent calls with one key execute it once. Its errors are not recorded.
    ///
    /// # Errors
    /// [`StepFailed`] with the closure's error.
    pub async fn run<R, E, Fut>(
        &self,
        name: &str,
        key: impl IntoKey,
        execute: impl FnOnce() -> Fut + Send + 'static,
    ) -> Result<R, StepFailed>
    where
        R: Serialize + DeserializeOwned + 'static,
        E: Into<BoxError> + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let step = match checked(StepKind::Inline, name, CacheKey::explicit(&key.into_key())) {
            Ok(key) => self.resident.inline(key, move || execute().map(outcome).boxed()),
            Err(error) => refused(&error),
        };
        StepHandle { resident: self.resident.clone(), name: name.into(), step, returns: PhantomData }.await
    }

    fn step<R>(&self, kind: StepKind, name: &str, args: Result<Payload, ClientError>) -> SpawnStepBuilder<R> {
        SpawnStepBuilder {
            resident: self.resident.clone(),
            kind,
            name: name.into(),
            args,
            key: Key::Auto,
            queue: self.resident.queue.clone(),
            priority: PRIORITY_DEFAULT,
            policy: RetryPolicy::NEVER,
            delay: Millis(0),
            returns: PhantomData,
        }
    }
}

enum Key {
    /// The n-th such call.
    Auto,
    Fresh,
    Explicit(Result<CacheKey, Reject>),
}

/// A step about to be spawned. `R` is what it returns.
#[must_use = "a step is spawned by `.start()` or `.await`"]
pub struct SpawnStepBuilder<R> {
    resident: Arc<Resident>,
    kind: StepKind,
    name: Name,
    args: Result<Payload, ClientError>,
    key: Key,
    queue: Name,
    priority: u8,
    policy: RetryPolicy,
    delay: Millis,
    returns: PhantomData<fn() -> R>,
}

impl<R> SpawnStepBuilder<R> {
    /// The cache key: the same key in the same run means the same work.
    pub fn key(mut self, key: impl IntoKey) -> Self {
        self.key = Key::Explicit(CacheKey::explicit(&key.into_key()));
        self
    }

    /// Do it anew in each execution of the workflow function.
    pub fn no_cache(mut self) -> Self {
        self.key = Key::Fresh;
        self
    }

    /// Another queue than the run's own.
    pub fn queue(mut self, queue: &str) -> Self {
        self.queue = queue.into();
        self
    }

    /// 0 to 9, higher first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    pub fn policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Not before this much after it is spawned.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = millis(delay);
        self
    }

    /// Spawns it now. What is wrong with it is raised where the handle is awaited.
    pub fn start(self) -> StepHandle<R> {
        let Self { resident, kind, name, args, key, queue, priority, policy, delay, returns } = self;
        let cache_key = match key {
            Key::Auto => Ok(resident.auto_key(kind, &name)),
            Key::Fresh => Ok(resident.fresh_key()),
            Key::Explicit(key) => key,
        };
        let step = checked(kind, &name, cache_key).and_then(|key| Ok((key, args?)));
        let step = match step {
            Ok((key, args)) => resident.spawn(SpawnStep { key, queue, args, priority, policy, delay }),
            Err(error) => refused(&error),
        };
        StepHandle { resident, name, step, returns }
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for SpawnStepBuilder<R> {
    type Output = Result<R, StepFailed>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.start().into_future()
    }
}

/// A spawned step. Await it, or a reference or clone of it, as often as you like.
pub struct StepHandle<R> {
    resident: Arc<Resident>,
    name: Name,
    step: StepFuture,
    returns: PhantomData<fn() -> R>,
}

impl<R> Clone for StepHandle<R> {
    fn clone(&self) -> Self {
        let Self { resident, name, step, returns } = self;
        Self { resident: resident.clone(), name: name.clone(), step: step.clone(), returns: *returns }
    }
}

impl<R> StepHandle<R> {
    /// The result as it was recorded.
    ///
    /// # Errors
    /// [`StepFailed`].
    pub async fn payload(&self) -> Result<Payload, StepFailed> {
        let mut step = self.step.clone();
        let mut awaited = None;
        let outcome = std::future::poll_fn(|cx| {
            let polled = step.poll_unpin(cx);
            if polled.is_pending() && awaited.is_none() {
                awaited = Some(self.resident.awaited());
            }
            match polled {
                Poll::Ready(outcome) => Poll::Ready(outcome),
                Poll::Pending => Poll::Pending,
            }
        });
        outcome.await.map_err(|failure| StepFailed { step: self.name.clone(), failure })
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for StepHandle<R> {
    type Output = Result<R, StepFailed>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let payload = self.payload().await?;
            let unreadable =
                |error| StepFailed { step: self.name.clone(), failure: failure_of_client("coda.BadResult", &error) };
            from_json(&payload).map_err(unreadable)
        }
        .boxed()
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for &StepHandle<R> {
    type Output = Result<R, StepFailed>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.clone().into_future()
    }
}

/// One bad step must not fail the others of its batch on the node.
fn checked(kind: StepKind, name: &str, cache_key: Result<CacheKey, Reject>) -> Result<StepKey, ClientError> {
    check_name(name)?;
    Ok(StepKey { kind, name: name.into(), cache_key: cache_key? })
}

fn refused(error: &ClientError) -> StepFuture {
    ended(Err(failure_of_client("coda.StepRefused", error)))
}
