//! One execution of a workflow function on this worker: its memo, its steps, and the loop that drives it.
//!
//! Whatever the function spawns while it is polled once leaves in one request. Results come from the worker's event
//! loop; nothing is polled on the node.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coda_protocol::cache_key::CacheKey;
use coda_protocol::ids::{LeaseId, Name, RunId, Work};
use coda_protocol::limits::{SPAWN_BYTES_MAX, SPAWN_STEPS_MAX};
use coda_protocol::payload::{Failure, WorkOutcome};
use coda_protocol::planted::{self, Bug};
use coda_protocol::push::RunLease;
use coda_protocol::reject::Reject;
use coda_protocol::reply::StepState;
use coda_protocol::request::{SpawnStep, StepKey, StepKind};
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::error::ClientError;
use crate::functions::{caught, failure_of_caught};
use crate::payloads::failure_of_client;
use crate::worker_link::WorkerLink;

/// How a step ends, for everyone who awaits it.
pub(crate) type StepFuture = Shared<BoxFuture<'static, WorkOutcome>>;

type Spawning = FuturesUnordered<BoxFuture<'static, (Vec<StepKey>, Result<Vec<StepState>, ClientError>)>>;

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Outcome(WorkOutcome),
    Parked,
    /// Told to stop while it only waited: hand it back.
    Released,
    /// The lease is gone.
    Lost,
}

pub(crate) struct Resident {
    pub link: WorkerLink,
    pub run: RunId,
    pub lease: LeaseId,
    pub queue: Name,
    pub attempt: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memo: HashMap<StepKey, WorkOutcome>,
    steps: HashMap<StepKey, StepFuture>,
    /// Spawned steps that have not ended.
    waiting: HashMap<StepKey, oneshot::Sender<WorkOutcome>>,
    /// Spawns without a key, per name.
    calls: HashMap<(StepKind, Name), u32>,
    fresh: u32,
    outbox: Vec<SpawnStep>,
    /// The largest count of ended steps that was handled here.
    seen: u32,
    /// Handles of pending steps that are being awaited.
    awaited: u32,
    /// Inline steps that are being executed.
    inline: u32,
    /// Spawned steps without caching that have not ended. Another execution would run them again, so this one waits for
    /// them.
    fresh_pending: u32,
    /// Grows with everything that happens.
    activity: u64,
    lost: bool,
    draining: bool,
    /// The function has ended; something it left behind may still call.
    over: bool,
    /// The driver polls right now and will look by itself.
    polling: bool,
    waker: Option<Waker>,
}

impl State {
    fn happened(&mut self) {
        self.activity += 1;
        if !self.polling
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

impl Resident {
    pub(crate) fn new(link: WorkerLink, lease: &RunLease, memo: Vec<(StepKey, WorkOutcome)>) -> Arc<Self> {
        let state = State { memo: memo.into_iter().collect(), seen: lease.steps_ended, ..State::default() };
        Arc::new(Self {
            link,
            run: lease.run,
            lease: lease.lease,
            queue: lease.queue.clone(),
            attempt: lease.attempt,
            state: Mutex::new(state),
        })
    }

    pub(crate) fn work(&self) -> Work {
        Work::Run(self.run)
    }

    /// The key of the next spawn of this name that has none.
    pub(crate) fn auto_key(&self, kind: StepKind, name: &Name) -> CacheKey {
        let mut state = self.state.lock();
        let calls = state.calls.entry((kind, name.clone())).or_default();
        *calls += 1;
        CacheKey::auto(*calls - 1)
    }

    /// A key that no other execution uses.
    pub(crate) fn fresh_key(&self) -> CacheKey {
        let mut state = self.state.lock();
        state.fresh += 1;
        CacheKey::fresh(self.lease, state.fresh - 1)
    }

    /// Spawns a step, or joins the one of its key.
    pub(crate) fn spawn(&self, step: SpawnStep) -> StepFuture {
        let mut state = self.state.lock();
        if let Some(known) = state.known(&step.key) {
            return known;
        }
        let (ended, wait) = oneshot::channel();
        // The sender is dropped only with the run.
        let wait = async move { wait.await.unwrap_or_else(|_| Err(run_ended())) };
        let wait = wait.boxed().shared();
        state.steps.insert(step.key.clone(), wait.clone());
        state.waiting.insert(step.key.clone(), ended);
        state.fresh_pending += u32::from(step.key.cache_key.is_fresh());
        state.outbox.push(step);
        state.happened();
        wait
    }

    /// Executes an inline step and records it, or joins the one of its key.
    pub(crate) fn inline(
        self: &Arc<Self>,
        key: StepKey,
        execute: impl FnOnce() -> BoxFuture<'static, WorkOutcome> + Send + 'static,
    ) -> StepFuture {
        let mut state = self.state.lock();
        let joins = !planted::is(Bug::RecordOverwrites) || !state.steps.contains_key(&key);
        if joins && let Some(known) = state.known(&key) {
            return known;
        }
        let step = self.clone().execute(key.clone(), execute).boxed().shared();
        state.steps.insert(key, step.clone());
        step
    }

    async fn execute(
        self: Arc<Self>,
        key: StepKey,
        execute: impl FnOnce() -> BoxFuture<'static, WorkOutcome> + Send + 'static,
    ) -> WorkOutcome {
        let inline = Counted::new(self.clone(), |state| &mut state.inline);
        let result = caught(execute()).await.unwrap_or_else(|panic| Err(failure_of_caught(panic)))?;
        match self.link.record_step(self.run, self.lease, key, result).await {
            Ok(recorded) => Ok(recorded),
            Err(ClientError::Refused(reject)) if !matches!(reject, Reject::StaleLease | Reject::AlreadyEnded) => {
                Err(failure_of_client("coda.StepRefused", &reject.into()))
            }
            Err(_) => {
                drop(inline);
                self.lose();
                std::future::pending().await
            }
        }
    }

    /// Says that a pending step is awaited, as long as the guard lives.
    pub(crate) fn awaited(self: &Arc<Self>) -> Counted {
        Counted::new(self.clone(), |state| &mut state.awaited)
    }

    /// A spawned step has ended.
    pub(crate) fn step_ended(&self, key: &StepKey, outcome: WorkOutcome, steps_ended: u32) {
        let mut state = self.state.lock();
        state.seen = state.seen.max(steps_ended);
        if let Some(waiting) = state.waiting.remove(key) {
            state.fresh_pending -= u32::from(key.cache_key.is_fresh());
            let _ = waiting.send(outcome);
            state.happened();
        }
    }

    /// Steps have ended that this execution has not asked for.
    pub(crate) fn steps_seen(&self, steps_ended: u32) {
        let mut state = self.state.lock();
        state.seen = state.seen.max(steps_ended);
    }

    /// Stop at once: the lease is gone, or the worker's patience.
    pub(crate) fn lose(&self) {
        let mut state = self.state.lock();
        state.lost = true;
        state.happened();
    }

    /// Stop as soon as the run only waits.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        state.draining = true;
        state.happened();
    }

    /// Drives the workflow function to one of its ends.
    pub(crate) async fn drive(
        self: &Arc<Self>,
        workflow: BoxFuture<'static, WorkOutcome>,
        park_after: Option<Duration>,
    ) -> Ended {
        let mut workflow = pin!(caught(workflow));
        let mut spawning = Spawning::new();
        let mut idle = Idle { timer: Box::pin(tokio::time::sleep(Duration::ZERO)), after: park_after, since: None };
        let ended = loop {
            let turn = poll_fn(|cx| self.turn(cx, workflow.as_mut(), &mut spawning, &mut idle)).await;
            let seen = match turn {
                Turn::Ended(ended) => break ended,
                Turn::Park { seen } => seen,
            };
            match self.link.park_run(self.run, self.lease, seen).await {
                Ok(()) => break Ended::Parked,
                Err(ClientError::Refused(Reject::NotIdle)) => idle.since = None,
                Err(_) => break Ended::Lost,
            }
        };
        if matches!(ended, Ended::Outcome(_)) {
            // Steps that the function spawned and did not await are spawned all the same.
            self.flush(&mut spawning);
            while spawning.next().await.is_some() {}
        }
        // Steps hold the run: a circle otherwise. They are dropped outside the lock, which they may take.
        let left = {
            let mut state = self.state.lock();
            state.over = true;
            (std::mem::take(&mut state.steps), std::mem::take(&mut state.waiting))
        };
        drop(left);
        ended
    }

    fn turn(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        mut workflow: Pin<&mut impl Future<Output = Result<WorkOutcome, crate::functions::Panic>>>,
        spawning: &mut Spawning,
        idle: &mut Idle,
    ) -> Poll<Turn> {
        loop {
            {
                let mut state = self.state.lock();
                if state.lost {
                    return Poll::Ready(Turn::Ended(Ended::Lost));
                }
                state.waker = Some(cx.waker().clone());
                state.polling = true;
            }
            let polled = workflow.as_mut().poll(cx);
            self.state.lock().polling = false;
            if let Poll::Ready(result) = polled {
                let outcome = result.unwrap_or_else(|panic| Err(failure_of_caught(panic)));
                return Poll::Ready(Turn::Ended(Ended::Outcome(outcome)));
            }
            self.flush(spawning);
            if let Poll::Ready(Some((keys, result))) = spawning.poll_next_unpin(cx) {
                self.spawned(&keys, result);
                continue;
            }
            let state = self.state.lock();
            let only_waits = spawning.is_empty()
                && state.outbox.is_empty()
                && state.inline == 0
                && state.fresh_pending == 0
                && state.awaited > 0;
            if !only_waits {
                idle.since = None;
                return Poll::Pending;
            }
            if state.draining {
                return Poll::Ready(Turn::Ended(Ended::Released));
            }
            let (seen, activity) = (state.seen, state.activity);
            drop(state);
            return idle.poll(cx, activity).map(|()| Turn::Park { seen });
        }
    }

    /// Turns what was spawned into as few requests as the bounds allow.
    fn flush(self: &Arc<Self>, spawning: &mut Spawning) {
        let mut steps = std::mem::take(&mut self.state.lock().outbox).into_iter().peekable();
        while steps.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(step) = steps.next_if(|step| {
                batch.len() < SPAWN_STEPS_MAX && (batch.is_empty() || bytes + step.args.data.len() <= SPAWN_BYTES_MAX)
            }) {
                bytes += step.args.data.len();
                batch.push(step);
            }
            let keys = batch.iter().map(|step| step.key.clone()).collect();
            let (link, run, lease) = (self.link.clone(), self.run, self.lease);
            spawning.push(async move { (keys, link.spawn(run, lease, batch).await) }.boxed());
        }
    }

    fn spawned(&self, keys: &[StepKey], result: Result<Vec<StepState>, ClientError>) {
        match result {
            Ok(states) => {
                for (key, state) in keys.iter().zip(states) {
                    match state {
                        StepState::Pending => {}
                        StepState::Ended(outcome) => self.step_ended(key, outcome, 0),
                    }
                }
            }
            Err(error) if error.is_superseded() || !matches!(error, ClientError::Refused(_)) => self.lose(),
            Err(error) => {
                let failure = failure_of_client("coda.SpawnRefused", &error);
                keys.iter().for_each(|key| self.step_ended(key, Err(failure.clone()), 0));
            }
        }
    }
}

impl State {
    /// The step of a key that was asked for before, in this execution or an earlier one.
    fn known(&mut self, key: &StepKey) -> Option<StepFuture> {
        if self.over {
            return Some(ended(Err(run_ended())));
        }
        if let Some(step) = self.steps.get(key) {
            return Some(step.clone());
        }
        let outcome = self.memo.remove(key)?;
        let step = ended(outcome);
        self.steps.insert(key.clone(), step.clone());
        Some(step)
    }
}

enum Turn {
    Ended(Ended),
    Park { seen: u32 },
}

/// How long a run has only waited.
struct Idle {
    timer: Pin<Box<Sleep>>,
    after: Option<Duration>,
    since: Option<u64>,
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>, activity: u64) -> Poll<()> {
        let Some(after) = self.after else { return Poll::Pending };
        if self.since != Some(activity) {
            self.since = Some(activity);
            self.timer.as_mut().reset(Instant::now() + after);
        }
        self.timer.as_mut().poll(cx)
    }
}

/// Counts in one of the state's counters while it lives.
pub(crate) struct Counted {
    resident: Arc<Resident>,
    counter: fn(&mut State) -> &mut u32,
}

impl Counted {
    fn new(resident: Arc<Resident>, counter: fn(&mut State) -> &mut u32) -> Self {
        let mut state = resident.state.lock();
        *counter(&mut state) += 1;
        state.happened();
        drop(state);
        Self { resident, counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.resident.state.lock();
        *(self.counter)(&mut state) -= 1;
        state.happened();
    }
}

/// A step that has ended already.
pub(crate) fn ended(outcome: WorkOutcome) -> StepFuture {
    std::future::ready(outcome).boxed().shared()
}

fn run_ended() -> Failure {
    failure_of_client("coda.RunEnded", &ClientError::Closed)
}
