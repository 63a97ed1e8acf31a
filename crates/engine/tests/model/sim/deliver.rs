//! What an applied entry says, on its way to workers and to the leader's memory.

use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::Applied;
use coda_engine::kv::MemKv;
use coda_engine::query;
use coda_engine::recover::recover;
use coda_protocol::ids::{LeaseId, RunId, SessionId};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use rand::Rng;

use super::{GROUP, Origin, Sim};
use crate::worker::{Execution, Worker};

impl Sim {
    pub(super) fn deliver(&mut self, batch: &[(Command, Origin)], applied: &Applied) {
        for ((command, origin), outcome) in batch.iter().zip(&applied.outcomes) {
            let is_repeatable = !matches!(command, Command::ResumeSession { .. } | Command::EndSession { .. });
            if is_repeatable && self.rng.random_bool(0.3) {
                self.sent.push(command.clone());
            }
            self.answer(command, *origin, outcome);
        }
        for effect in &applied.effects {
            self.push(effect);
            self.hint(effect);
        }
    }

    fn worker(&mut self, session: SessionId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.session == session && worker.connected)
    }

    fn answer(&mut self, command: &Command, origin: Origin, outcome: &Result<Reply, Reject>) {
        let (Origin::Worker(session) | Origin::Execution(session, _)) = origin else { return };
        let Some(i) = self.workers.iter().position(|worker| worker.session == session && worker.connected) else {
            return;
        };
        let worker = &mut self.workers[i];
        if let Ok(Reply::Resumed { lost }) = outcome {
            lost.iter().for_each(|lease| worker.lose(*lease));
            worker.resuming = false;
        }
        let Origin::Execution(_, lease) = origin else { return };
        let Some(execution) = worker.runs.get_mut(&lease) else { return };
        let goes_on = match outcome {
            Ok(reply) => execution.answered(command, reply, &mut self.oracle),
            Err(Reject::NotIdle) => {
                execution.busy = false;
                true
            }
            Err(_) => false,
        };
        if !goes_on {
            worker.lose(lease);
        }
    }

    fn push(&mut self, effect: &Effect) {
        match effect {
            Effect::TaskLeased { session, lease } => {
                let lease = lease.clone();
                self.worker(*session).map(|worker| worker.tasks.insert(lease.lease, lease));
            }
            Effect::RunLeased { session, lease, has_memo } => {
                let mut execution = Execution::new(lease.clone());
                let memo = query::memo(&self.kv, GROUP, lease.run);
                assert!(*has_memo || memo.items.is_empty(), "a memo that would not be sent");
                execution.memo(memo, &mut self.oracle);
                self.worker(*session).map(|worker| worker.runs.insert(execution.lease.lease, execution));
            }
            Effect::MemoWanted { session, run, lease, .. } => {
                // Read later than applied: the run may be another's by then.
                let memo = query::memo(&self.kv, GROUP, *run);
                let held = query_lease(&self.kv, *run) == Some(*lease);
                let worker = self.workers.iter_mut().find(|worker| worker.session == *session && worker.connected);
                if let Some(execution) = worker.and_then(|worker| worker.runs.get_mut(lease)).filter(|_| held) {
                    execution.memo(memo, &mut self.oracle);
                }
            }
            Effect::StepEnded { session, step, .. } => {
                let worker = self.workers.iter_mut().find(|worker| worker.session == *session && worker.connected);
                if let Some(execution) = worker.and_then(|worker| worker.runs.get_mut(&step.lease)) {
                    execution.step_ended(step, &mut self.oracle);
                }
            }
            Effect::LeaseLost { session, lease, .. } => {
                let lease = *lease;
                self.worker(*session).into_iter().for_each(|worker| worker.lose(lease));
            }
            Effect::EndSessionAgain(session) => drop(self.gone.insert(*session)),
            Effect::RunEnded { .. }
            | Effect::TaskEnded { .. }
            | Effect::LaneReady(_)
            | Effect::QueueUnpaused(_)
            | Effect::LeasesEnded { .. }
            | Effect::WakeAt(_)
            | Effect::SessionHolds(_)
            | Effect::MapChanged(_) => {}
        }
    }

    pub(super) fn hint(&mut self, effect: &Effect) {
        match effect {
            Effect::LaneReady(lane) => drop(self.lanes.insert(lane.clone())),
            Effect::QueueUnpaused(queue) => {
                let of_queue = |effect| match effect {
                    Effect::LaneReady(lane) if lane.queue == *queue => Some(lane),
                    _ => None,
                };
                self.lanes.extend(recover(&self.kv, GROUP).into_iter().filter_map(of_queue));
            }
            Effect::WakeAt(at) => self.wake = Some(self.wake.map_or(*at, |wake| wake.min(*at))),
            // A lease for a session that is not connected: it must not stay with it.
            Effect::TaskLeased { session, .. } | Effect::RunLeased { session, .. } => {
                let session = *session;
                if self.worker(session).is_none() {
                    self.gone.insert(session);
                }
            }
            _ => {}
        }
    }
}

fn query_lease(kv: &MemKv, run: RunId) -> Option<LeaseId> {
    coda_engine::tables::RUN.get(kv, GROUP, &run)?.life.lease().map(|(_, lease)| lease)
}
