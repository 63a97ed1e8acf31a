//! What may be said about a run or a task when it is started. Defaults: the queue `default`, the middle priority,
//! no retries, no delay, a fresh id, JSON `null` as input.

use std::time::Duration;

use coda_protocol::ids::{Millis, RunId, TaskId};
use coda_protocol::limits::PRIORITY_DEFAULT;
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::request::{StartRun, SubmitTask};
use serde::Serialize;

use crate::error::ClientError;
use crate::payloads::to_json;

/// The queue of work that names none.
pub const QUEUE_DEFAULT: &str = "default";

/// A run to start.
#[derive(Clone, Debug)]
pub struct StartOptions(pub(crate) StartRun);

/// A task to submit.
#[derive(Clone, Debug)]
pub struct SubmitOptions(pub(crate) SubmitTask);

macro_rules! shared_options {
    () => {
        #[must_use]
        pub fn queue(mut self, queue: &str) -> Self {
            self.0.queue = queue.into();
            self
        }

        /// 0 to 9, higher first.
        #[must_use]
        pub fn priority(mut self, priority: u8) -> Self {
            self.0.priority = priority;
            self
        }

        #[must_use]
        pub fn policy(mut self, policy: RetryPolicy) -> Self {
            self.0.policy = policy;
            self
        }

        /// Not before this much after it is accepted.
        #[must_use]
        pub fn delay(mut self, delay: Duration) -> Self {
            self.0.delay = millis(delay);
            self
        }
    };
}

impl StartOptions {
    #[must_use]
    pub fn new(workflow: &str) -> Self {
        Self(StartRun {
            run: RunId::random(),
            workflow: workflow.into(),
            queue: QUEUE_DEFAULT.into(),
            input: Payload::json("null"),
            priority: PRIORITY_DEFAULT,
            policy: RetryPolicy::NEVER,
            delay: Millis(0),
        })
    }

    /// Starting one id twice is starting it once.
    #[must_use]
    pub fn id(mut self, run: RunId) -> Self {
        self.0.run = run;
        self
    }

    #[must_use]
    pub fn input(mut self, input: Payload) -> Self {
        self.0.input = input;
        self
    }

    /// # Errors
    /// [`ClientError::BadPayload`], or too large.
    pub fn input_json<T: Serialize + ?Sized>(self, input: &T) -> Result<Self, ClientError> {
        Ok(self.input(to_json(input)?))
    }

    shared_options!();
}

impl SubmitOptions {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(SubmitTask {
            task: TaskId::random(),
            name: name.into(),
            queue: QUEUE_DEFAULT.into(),
            args: Payload::json("null"),
            priority: PRIORITY_DEFAULT,
            policy: RetryPolicy::NEVER,
            delay: Millis(0),
        })
    }

    /// Submitting one id twice is submitting it once.
    #[must_use]
    pub fn id(mut self, task: TaskId) -> Self {
        self.0.task = task;
        self
    }

    #[must_use]
    pub fn args(mut self, args: Payload) -> Self {
        self.0.args = args;
        self
    }

    /// # Errors
    /// [`ClientError::BadPayload`], or too large.
    pub fn args_json<T: Serialize + ?Sized>(self, args: &T) -> Result<Self, ClientError> {
        Ok(self.args(to_json(args)?))
    }

    shared_options!();
}

pub(crate) fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
