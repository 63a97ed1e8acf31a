//! What the user's requests do to the leases, when they are sent and when they are answered.

use coda_protocol::ids::Position;
use coda_protocol::reply::{Reply, StepState};
use tracing::{debug, warn};

use super::{Held, Hold, Intent, Leases, State, Verdict};
use crate::error::ClientError;
use crate::link::Answered;
use crate::worker_link::WorkerEvent;

impl<P> Leases<P> {
    /// Before a request is sent.
    pub(crate) fn begin(&mut self, intent: &Intent) -> Verdict {
        match intent {
            Intent::Ask | Intent::Resume { .. } | Intent::Withdraw { .. } => Verdict::Send,
            Intent::Spawn { hold, keys } => {
                if let Some(held) = self.held.get_mut(hold) {
                    held.pending.extend(keys.iter().cloned());
                    held.unanswered += 1;
                }
                Verdict::Send
            }
            Intent::Record { hold } => {
                if let Some(held) = self.held.get_mut(hold) {
                    held.unanswered += 1;
                }
                Verdict::Send
            }
            Intent::End { hold } => {
                let Some(held) = self.held.get_mut(hold) else { return Verdict::Superseded };
                if held.state == State::Ending || held.deferred.is_some() {
                    return Verdict::Superseded;
                }
                if held.unanswered > 0 {
                    return Verdict::Defer;
                }
                held.state = State::Ending;
                self.lines[held.line].slots[hold.0.kind() as usize].give(held.node);
                Verdict::Send
            }
            Intent::Park { hold } => {
                let Some(held) = self.held.get_mut(hold) else { return Verdict::Send };
                if held.unanswered > 0 && held.deferred.is_none() {
                    return Verdict::Defer;
                }
                if held.state == State::Active {
                    held.state = State::Parking;
                }
                Verdict::Send
            }
        }
    }

    /// Keeps a request that [`Verdict::Defer`] holds back.
    pub(crate) fn defer(&mut self, intent_hold: Hold, packet: P) {
        if let Some(held) = self.held.get_mut(&intent_hold) {
            held.deferred = Some(packet);
        }
    }

    /// After a request is answered. Returns a request that may be sent now.
    pub(crate) fn finish(
        &mut self,
        intent: &Intent,
        result: &mut Answered,
        events: &mut Vec<WorkerEvent>,
    ) -> Option<P> {
        match intent {
            Intent::Ask => None,
            Intent::Resume { holds } => {
                match result {
                    Ok((Reply::Resumed { lost }, _)) => self.on_resumed(holds, std::mem::take(lost), events),
                    Ok((reply, _)) => warn!(?reply, "resume was answered with something else"),
                    Err(error) => warn!(code = error.code(), %error, "resume was refused"),
                }
                None
            }
            Intent::Withdraw { node, line, kind, id } => {
                match result {
                    Ok((Reply::Withdrawn { slots }, _)) => {
                        self.lines[*line].slots[*kind as usize].withdrawn(*node, *id, *slots);
                    }
                    Ok((reply, _)) => warn!(?reply, "withdraw was answered with something else"),
                    // What became of the slots is not known before the connection is another one.
                    Err(error) => warn!(code = error.code(), %error, "withdraw was refused"),
                }
                None
            }
            Intent::Spawn { hold, keys } => {
                let held = self.held.get_mut(hold)?;
                match result {
                    Ok((Reply::Spawned(states), _)) => {
                        for (key, _) in keys.iter().zip(states).filter(|(_, state)| **state != StepState::Pending) {
                            held.pending.remove(key);
                        }
                    }
                    Ok(_) | Err(_) => held.pending.retain(|key| !keys.contains(key)),
                }
                held.answered()
            }
            Intent::Record { hold } => self.held.get_mut(hold)?.answered(),
            Intent::End { hold } => {
                excuse(hold, result);
                match result {
                    Err(ClientError::Refused(_)) => self.reactivate(*hold),
                    Ok(_) | Err(_) => drop(self.held.remove(hold)),
                }
                None
            }
            Intent::Park { hold } => {
                excuse(hold, result);
                match result {
                    Err(ClientError::Refused(_)) => self.reactivate(*hold),
                    Ok(_) | Err(_) => self.forget(*hold),
                }
                None
            }
        }
    }

    /// The user has stopped working on a lost lease. `false`: it is not lost, it must be released instead.
    pub(crate) fn abandon(&mut self, hold: Hold) -> bool {
        let Some(held) = self.held.get(&hold) else { return true };
        match held.state {
            State::Active => false,
            // What was held back will still be sent, and ends it.
            State::Lost if held.deferred.is_some() => true,
            State::Lost => {
                self.forget(hold);
                true
            }
            State::Parking | State::Ending => true,
        }
    }

    /// The rules refused how it ended, for a reason the user can mend: it is still theirs to end.
    fn reactivate(&mut self, hold: Hold) {
        let Some(held) = self.held.get_mut(&hold) else { return };
        if held.state == State::Ending {
            self.lines[held.line].slots[hold.0.kind() as usize].take(held.node);
        }
        held.state = State::Active;
    }
}

impl<P> Held<P> {
    fn answered(&mut self) -> Option<P> {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered == 0 { self.deferred.take() } else { None }
    }
}

/// That another attempt was faster, or that this end was recorded before, is nothing the user can do anything about.
fn excuse(hold: &Hold, result: &mut Answered) {
    if let Err(error) = result
        && error.is_superseded()
    {
        debug!(?hold, %error, "superseded");
        *result = Ok((Reply::Done, Position::NOWHERE));
    }
}
