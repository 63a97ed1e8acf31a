//! What the tables hold. Small rows that change, apart from large payloads that do not.

use coda_protocol::ids::{LeaseId, Name, RunId, SessionId, Timestamp, Work};
use coda_protocol::payload::{Failure, Payload, WorkOutcome};
use coda_protocol::planted::{self, Bug};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reject::Reject;
use coda_protocol::request::StepKey;
use serde::{Deserialize, Serialize};

use crate::entry::Lane;
use coda_protocol::ids::WorkKind;

/// The order of acceptance: FIFO within a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq {
    pub index: u64,
    pub ordinal: u32,
}

/// The group's own row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Engine time: the largest `now` applied.
    pub time: Timestamp,
    /// Nothing is due before this: lets a scan skip what earlier ticks deleted.
    pub due_from: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    pub paused: bool,
}

/// Counts of a lane's work, and where its ready work starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    pub ready: u64,
    pub leased: u64,
    /// Delayed or waiting for a retry.
    pub delayed: u64,
    /// No ready work has a smaller place: lets a scan skip what was leased before.
    pub ready_from: Option<ReadyPlace>,
}

/// A place in a lane: smaller is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReadyPlace {
    /// `PRIORITY_MAX - priority`, so that higher priorities come first.
    pub rank: u8,
    pub seq: Seq,
}

/// Where work is in its life, for tasks and runs alike.
/// ```text
///   accept ──▶ DELAYED ──due──▶ READY ──lease──▶ LEASED ──succeed/fail──▶ ENDED
///                                 ▲               │ │ ▲
///                                 ├──give back────┘ │ └──(only runs)
///                                 ├──due── RETRYING ◀──retry
///                                 └──step ended── PARKED ◀──park (only runs)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    Delayed {
        until: Timestamp,
    },
    Ready,
    Leased {
        session: SessionId,
        lease: LeaseId,
    },
    Parked,
    Retrying {
        at: Timestamp,
    },
    /// Ended under this lease, or without one when it was given up on.
    Ended {
        by: Option<LeaseId>,
    },
}

/// What can happen to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Due,
    Leased {
        session: SessionId,
        lease: LeaseId,
    },
    Returned(LeaseId),
    Parked(LeaseId),
    Woken,
    RetryAt(LeaseId, Timestamp),
    Ended(LeaseId),
    /// Too many leases were lost.
    GivenUp(LeaseId),
}

impl Life {
    /// The next state, or why not.
    ///
    /// # Errors
    /// [`Reject::StaleLease`] when the event's lease is not the one held, [`Reject::AlreadyEnded`] after the end.
    ///
    /// # Panics
    /// When an event without a lease meets a state that its caller must have ruled out: our bug.
    pub fn on(self, event: Event) -> Result<Self, Reject> {
        use Event as E;
        use Life::{Delayed, Ended, Leased, Parked, Ready, Retrying};
        let event = match (self, event) {
            (Leased { lease, .. }, E::Ended(_)) if planted::is(Bug::StaleLeaseEndsWork) => E::Ended(lease),
            (_, event) => event,
        };
        match (self, event) {
            (Delayed { .. } | Retrying { .. }, E::Due) | (Parked, E::Woken) => Ok(Ready),
            (Ready, E::Leased { session, lease }) => Ok(Leased { session, lease }),
            (Leased { lease, .. }, E::Returned(by)) if lease == by => Ok(Ready),
            (Leased { lease, .. }, E::Parked(by)) if lease == by => Ok(Parked),
            (Leased { lease, .. }, E::RetryAt(by, at)) if lease == by => Ok(Retrying { at }),
            (Leased { lease, .. }, E::Ended(by)) if lease == by => Ok(Ended { by: Some(by) }),
            (Leased { lease, .. }, E::GivenUp(by)) if lease == by => Ok(Ended { by: None }),
            (Ended { .. }, E::Ended(_) | E::RetryAt(..) | E::Parked(_) | E::Returned(_) | E::GivenUp(_)) => {
                Err(Reject::AlreadyEnded)
            }
            (
                Delayed { .. } | Ready | Leased { .. } | Parked | Retrying { .. },
                E::Returned(_) | E::Parked(_) | E::RetryAt(..) | E::Ended(_) | E::GivenUp(_),
            ) => Err(Reject::StaleLease),
            (state, event @ (E::Due | E::Leased { .. } | E::Woken)) => {
                panic!("{event:?} cannot happen to work that is {state:?}")
            }
        }
    }

    /// The lease held now, if any.
    #[must_use]
    pub fn lease(&self) -> Option<(SessionId, LeaseId)> {
        match self {
            Self::Leased { session, lease } => Some((*session, *lease)),
            Self::Delayed { .. } | Self::Ready | Self::Parked | Self::Retrying { .. } | Self::Ended { .. } => None,
        }
    }

    /// The session that holds the work under this lease.
    ///
    /// # Errors
    /// [`Reject::StaleLease`] when nobody does, [`Reject::AlreadyEnded`] after the end.
    pub fn holder(&self, by: LeaseId) -> Result<SessionId, Reject> {
        match self {
            Self::Leased { session, lease } if *lease == by => Ok(*session),
            Self::Ended { .. } => Err(Reject::AlreadyEnded),
            Self::Delayed { .. } | Self::Ready | Self::Leased { .. } | Self::Parked | Self::Retrying { .. } => {
                Err(Reject::StaleLease)
            }
        }
    }

    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

/// Whose step a task or child run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub run: RunId,
    pub key: StepKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    pub name: Name,
    pub queue: Name,
    pub priority: u8,
    pub policy: RetryPolicy,
    pub created: Timestamp,
    pub seq: Seq,
    pub life: Life,
    /// Leases so far.
    pub attempts: u32,
    /// Attempts that reported a failure.
    pub failures: u32,
    /// Attempts whose worker vanished.
    pub lost: u32,
    pub last_failure: Option<Failure>,
    pub parent: Option<Parent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    pub workflow: Name,
    pub queue: Name,
    pub priority: u8,
    pub policy: RetryPolicy,
    pub created: Timestamp,
    pub seq: Seq,
    pub life: Life,
    /// From 1; grows when the workflow function fails and is retried.
    pub attempt: u32,
    /// Leases whose worker vanished since the run last made progress.
    pub lost: u32,
    /// Spawned steps that have not ended, and that have.
    pub steps_pending: u32,
    pub steps_ended: u32,
    /// Whether any step has a result: a run without needs no memo sent along.
    pub has_memo: bool,
    pub parent: Option<Parent>,
}

impl TaskRow {
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { queue: self.queue.clone(), kind: WorkKind::Task, name: self.name.clone() }
    }
}

impl RunRow {
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { queue: self.queue.clone(), kind: WorkKind::Run, name: self.workflow.clone() }
    }
}

/// What is known of a step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoRow {
    /// On its way; `run_attempt` is the last attempt of the run that asked for it.
    Pending {
        work: Work,
        run_attempt: u32,
    },
    Ended {
        result: Payload,
        attempts: u32,
    },
    /// Remembered only while the run is in the attempt that asked for it.
    Failed {
        failure: Failure,
        attempts: u32,
        run_attempt: u32,
    },
}

impl MemoRow {
    /// What it remembers, in bytes: what reading it costs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Pending { .. } => 0,
            Self::Ended { result, .. } => result.data.len() + result.codec.len(),
            Self::Failed { failure, .. } => failure.bytes(),
        }
    }

    /// The outcome as an execution in `run_attempt` sees it.
    #[must_use]
    pub fn outcome(&self, run_attempt: u32) -> Option<WorkOutcome> {
        match self {
            Self::Ended { result, .. } => Some(Ok(result.clone())),
            Self::Failed { failure, run_attempt: of, .. } if *of == run_attempt => Some(Err(failure.clone())),
            Self::Failed { .. } | Self::Pending { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);
    const ONE: LeaseId = LeaseId(1);
    const TWO: LeaseId = LeaseId(2);

    fn lives() -> [Life; 6] {
        let at = Timestamp(9);
        [
            Life::Delayed { until: at },
            Life::Ready,
            Life::Leased { session: SESSION, lease: ONE },
            Life::Parked,
            Life::Retrying { at },
            Life::Ended { by: Some(ONE) },
        ]
    }

    /// Rows are states, columns are events under the held lease; `S` stale, `E` already ended, else the next state.
    #[test]
    fn every_leased_event_in_every_state() {
        let name = |result: Result<Life, Reject>| match result {
            Ok(Life::Ready) => 'r',
            Ok(Life::Parked) => 'p',
            Ok(Life::Retrying { .. }) => 't',
            Ok(Life::Ended { by: Some(_) }) => 'e',
            Ok(Life::Ended { by: None }) => 'g',
            Ok(Life::Delayed { .. } | Life::Leased { .. }) => '?',
            Err(Reject::StaleLease) => 'S',
            Err(Reject::AlreadyEnded) => 'E',
            Err(_) => '!',
        };
        let table = |by: LeaseId| {
            lives().map(|life| {
                [
                    Event::Returned(by),
                    Event::Parked(by),
                    Event::RetryAt(by, Timestamp(9)),
                    Event::Ended(by),
                    Event::GivenUp(by),
                ]
                .map(|event| name(life.on(event)))
                .iter()
                .collect::<String>()
            })
        };
        assert_eq!(table(ONE), ["SSSSS", "SSSSS", "rpteg", "SSSSS", "SSSSS", "EEEEE"]);
        assert_eq!(table(TWO), ["SSSSS", "SSSSS", "SSSSS", "SSSSS", "SSSSS", "EEEEE"]);
    }

    #[test]
    fn work_becomes_ready_when_due_or_woken_and_only_ready_work_is_leased() {
        let [delayed, ready, _, parked, retrying, _] = lives();
        assert_eq!(delayed.on(Event::Due), Ok(Life::Ready));
        assert_eq!(retrying.on(Event::Due), Ok(Life::Ready));
        assert_eq!(parked.on(Event::Woken), Ok(Life::Ready));
        let leased = ready.on(Event::Leased { session: SESSION, lease: TWO }).unwrap();
        assert_eq!(leased.lease(), Some((SESSION, TWO)));
    }

    #[test]
    fn a_failure_is_remembered_only_for_its_attempt_of_the_run() {
        let failure = Failure { kind: "E".into(), message: String::new(), traceback: String::new(), retryable: true };
        let memo = MemoRow::Failed { failure: failure.clone(), attempts: 1, run_attempt: 2 };
        assert_eq!(memo.outcome(2), Some(Err(failure)));
        assert_eq!(memo.outcome(3), None);
    }
}
