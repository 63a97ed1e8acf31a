//! All workers together: phases forward, and the one exit status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::child::Recipe;
use super::restarts::{Limits, Restarts};
use super::say;
use super::sessions::DeadSessions;
use super::worker::{Last, Worker};
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::signals::Signals;

/// What every worker should be doing. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    Draining,
    Killing,
}

pub struct Plan {
    pub workers: usize,
    pub limits: Limits,
    pub drain_timeout: Duration,
    pub recipe: Arc<Recipe>,
}

pub async fn supervise(plan: Plan, signals: &mut Signals, dead: DeadSessions) -> Ended {
    let (phase, follow) = watch::channel(Phase::Running);
    let mut workers = JoinSet::new();
    for index in 0..plan.workers {
        let restarts = Restarts::new(plan.limits);
        let worker =
            Worker { index, recipe: plan.recipe.clone(), restarts, phase: follow.clone(), dead: dead.report() };
        workers.spawn(worker.keep());
    }
    drop(follow);

    let mut state = State { plan, phase, drain_until: None, timed_out: false, killed: 0, verdict: Ok(Exit::Ok) };
    while !workers.is_empty() {
        tokio::select! {
            Some(last) = workers.join_next() => match last {
                Ok(last) => state.on_last(last, workers.len()),
                Err(bug) => std::panic::resume_unwind(bug.into_panic()),
            },
            exit = signals.next() => state.on_signal(exit, workers.len()),
            () = until(state.drain_until) => state.on_drain_timeout(),
        }
    }
    tokio::select! {
        () = dead.tell_the_rest() => {}
        _ = signals.next() => {}
    }
    state.verdict()
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

struct State {
    plan: Plan,
    phase: watch::Sender<Phase>,
    drain_until: Option<Instant>,
    timed_out: bool,
    killed: usize,
    /// The first thing that went wrong, if any.
    verdict: Ended,
}

impl State {
    fn on_signal(&mut self, exit: Exit, alive: usize) {
        let phase = *self.phase.borrow();
        match phase {
            Phase::Running => {
                let limit_s = self.plan.drain_timeout.as_secs_f64();
                say(format_args!("{alive} workers are finishing, for {limit_s} s at most; once more to kill them"));
                self.drain();
            }
            Phase::Draining => {
                // What went wrong before is the better reason.
                if self.verdict.is_ok() {
                    self.verdict = Ok(exit);
                }
                self.kill();
            }
            Phase::Killing => {}
        }
    }

    fn on_last(&mut self, last: Last, alive: usize) {
        match last {
            Last::Stopped { killed } => self.killed += usize::from(killed),
            Last::GaveUp { index } => {
                let Limits { max, window } = self.plan.limits;
                self.fail(CliError::restarts_exhausted(index, max, window.as_secs()), alive);
            }
            Last::CannotStart(error) => {
                self.fail(CliError::no_such_command(&self.plan.recipe.program(), &error), alive);
            }
        }
    }

    fn fail(&mut self, error: CliError, alive: usize) {
        if self.verdict.is_ok() {
            self.verdict = Err(error);
        }
        if alive > 0 && *self.phase.borrow() == Phase::Running {
            say(format_args!("stopping the other {alive}"));
        }
        self.drain();
    }

    fn on_drain_timeout(&mut self) {
        self.timed_out = true;
        self.kill();
    }

    fn drain(&mut self) {
        let moved = self.phase.send_if_modified(|phase| forward(phase, Phase::Draining));
        if moved {
            self.drain_until = Some(Instant::now() + self.plan.drain_timeout);
        }
    }

    fn kill(&mut self) {
        self.phase.send_if_modified(|phase| forward(phase, Phase::Killing));
        self.drain_until = None;
    }

    fn verdict(self) -> Ended {
        match self.verdict {
            Ok(_) if self.timed_out => {
                Err(CliError::drain_timed_out(self.killed, self.plan.drain_timeout.as_secs_f64()))
            }
            verdict => verdict,
        }
    }
}

fn forward(phase: &mut Phase, to: Phase) -> bool {
    let moves = *phase < to;
    *phase = (*phase).max(to);
    moves
}
