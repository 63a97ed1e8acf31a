//! The facts: what a log entry says happened. A request that only reads never becomes a command.

use coda_protocol::ids::{GroupId, LeaseId, Millis, Name, SessionId, check_name};
use coda_protocol::limits::{DELAY_MS_MAX, LEASES_PER_SESSION_MAX, PRIORITY_MAX, SPAWN_BYTES_MAX, SPAWN_STEPS_MAX};
use coda_protocol::payload::check_outcome;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::{
    CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, SpawnStep, StartRun, StepKey, StepKind, SubmitTask,
};
use serde::{Deserialize, Serialize};

use crate::cluster::command::ClusterCommand;

/// The newest version of commands that this binary understands. What a version brings is proposed only once every node
/// of the cluster understands it (`ClusterMap::commands_version`): an older binary stops at what it cannot read in a log.
///
/// | version | since | what it brought |
/// |---|---|---|
/// | 1 | 0.1.0 | all of [`Command`] up to `Cluster`, and of [`ClusterCommand`] up to `SetSetting` |
pub const COMMANDS_VERSION: u32 = 1;

/// What a command came to; the same on every node.
pub type Outcome = Result<Reply, Reject>;

/// Variants are only ever appended: their order is in every log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    StartRun(StartRun),
    SubmitTask(SubmitTask),
    Spawn(Spawn),
    RecordStep(RecordStep),
    CompleteTask(CompleteTask),
    CompleteRun(CompleteRun),
    Release(Release),
    ParkRun(ParkRun),
    /// A session is back: it keeps the leases it still works under, the others are handed back.
    ResumeSession {
        session: SessionId,
        held: Vec<LeaseId>,
    },
    /// A session is gone: its leases are handed back.
    EndSession {
        session: SessionId,
    },
    PauseQueue {
        queue: Name,
    },
    UnpauseQueue {
        queue: Name,
    },
    /// Time has passed: handle what is due.
    Tick,
    /// Of the meta group, and of it alone: a page of its own, so that this one stays the page of what work goes through.
    Cluster(ClusterCommand),
}

impl Command {
    /// Checks all bounds that depend on the command alone.
    ///
    /// # Errors
    /// The [`Reject`] that [`crate::apply::apply`] would answer too.
    pub fn check(&self) -> Result<(), Reject> {
        match self {
            Self::StartRun(start) => {
                start.run.check_chosen()?;
                check_name(&start.workflow)?;
                check_name(&start.queue)?;
                check_priority(start.priority)?;
                check_delay(start.delay)?;
                start.policy.check()?;
                start.input.check()
            }
            Self::SubmitTask(submit) => {
                submit.task.check_chosen()?;
                check_name(&submit.name)?;
                check_name(&submit.queue)?;
                check_priority(submit.priority)?;
                check_delay(submit.delay)?;
                submit.policy.check()?;
                submit.args.check()
            }
            Self::Spawn(spawn) => check_spawn(spawn),
            Self::RecordStep(record) => {
                check_step(&record.key)?;
                if record.key.kind != StepKind::Inline {
                    return Err(Reject::WrongStepKind);
                }
                record.result.check()
            }
            Self::CompleteTask(complete) => check_outcome(&complete.outcome),
            Self::CompleteRun(complete) => check_outcome(&complete.outcome),
            Self::ResumeSession { held, .. } => check_count("leases", held.len(), LEASES_PER_SESSION_MAX),
            Self::PauseQueue { queue } | Self::UnpauseQueue { queue } => check_name(queue),
            Self::Release(_) | Self::ParkRun(_) | Self::EndSession { .. } | Self::Tick => Ok(()),
            Self::Cluster(command) => command.check(),
        }
    }

    /// Whether a group's log may hold it: the meta group's the cluster's own state, all others work.
    #[must_use]
    pub fn belongs_to(&self, group: GroupId) -> bool {
        match self {
            Self::Tick => true,
            Self::Cluster(_) => group == GroupId::META,
            Self::StartRun(_)
            | Self::SubmitTask(_)
            | Self::Spawn(_)
            | Self::RecordStep(_)
            | Self::CompleteTask(_)
            | Self::CompleteRun(_)
            | Self::Release(_)
            | Self::ParkRun(_)
            | Self::ResumeSession { .. }
            | Self::EndSession { .. }
            | Self::PauseQueue { .. }
            | Self::UnpauseQueue { .. } => group != GroupId::META,
        }
    }
}

fn check_spawn(spawn: &Spawn) -> Result<(), Reject> {
    check_count("steps", spawn.steps.len(), SPAWN_STEPS_MAX)?;
    let bytes: usize = spawn.steps.iter().map(|step| step.args.data.len()).sum();
    if bytes > SPAWN_BYTES_MAX {
        return Err(Reject::PayloadTooLarge { bytes: bytes as u64, bytes_max: SPAWN_BYTES_MAX as u64 });
    }
    spawn.steps.iter().try_for_each(check_spawn_step)
}

fn check_spawn_step(step: &SpawnStep) -> Result<(), Reject> {
    check_step(&step.key)?;
    check_name(&step.queue)?;
    check_priority(step.priority)?;
    check_delay(step.delay)?;
    step.policy.check()?;
    if step.key.kind == StepKind::Inline {
        return Err(Reject::WrongStepKind);
    }
    step.args.check()
}

fn check_step(key: &StepKey) -> Result<(), Reject> {
    check_name(&key.name)?;
    key.cache_key.check()
}

fn check_priority(priority: u8) -> Result<(), Reject> {
    if priority > PRIORITY_MAX { Err(Reject::BadPriority { priority }) } else { Ok(()) }
}

fn check_delay(delay: Millis) -> Result<(), Reject> {
    if delay.0 > DELAY_MS_MAX { Err(Reject::DelayTooLong { ms: delay.0 }) } else { Ok(()) }
}

fn check_count(what: &'static str, count: usize, max: usize) -> Result<(), Reject> {
    if count > max { Err(Reject::TooMany { what: what.into(), count: count as u64, max: max as u64 }) } else { Ok(()) }
}
