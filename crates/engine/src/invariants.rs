//! What is true of every state, after every entry. Each invariant has one name, the same in engine, simulation, jepsen
//! and docs.
//!
//! Deliberately absent: repair, and any use on the road of an entry. A check reads the whole group.

mod cluster;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coda_protocol::ids::{GroupId, Name, RunId, TaskId, Timestamp};
use coda_protocol::limits::LOST_LEASES_MAX;

use crate::entry::Lane;
use crate::kv::Read;
use crate::rows::{LaneRow, Life, QueueRow, RunRow, TaskRow};
use crate::tables::{DelayedKey, Due, MemoKey, ReadyKey};
use state::{Memo, State, WorkRow};

/// Something that must never be, under the name of the invariant that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub name: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)
    }
}

/// One invariant: what breaks it in this state.
type Invariant = fn(&State) -> Vec<String>;

/// All invariants of a state, by name.
const INVARIANTS: &[(&str, Invariant)] = &[
    ("ready_index_matches_ready_work", ready_index_matches_ready_work),
    ("ready_from_is_not_above_the_first_ready", ready_from_is_not_above_the_first_ready),
    ("lane_counts_match_work", lane_counts_match_work),
    ("no_empty_lane_rows", no_empty_lane_rows),
    ("only_paused_queues_have_rows", only_paused_queues_have_rows),
    ("lease_index_matches_leased_work", lease_index_matches_leased_work),
    ("one_lease_covers_one_work", one_lease_covers_one_work),
    ("due_index_matches_waiting_work", due_index_matches_waiting_work),
    ("nothing_due_before_due_from", nothing_due_before_due_from),
    ("delayed_index_matches_waiting_work", delayed_index_matches_waiting_work),
    ("pending_memo_matches_live_child", pending_memo_matches_live_child),
    ("steps_pending_counts_pending_memo", steps_pending_counts_pending_memo),
    ("parked_runs_wait_for_steps", parked_runs_wait_for_steps),
    ("memo_belongs_to_a_run", memo_belongs_to_a_run),
    ("has_memo_once_a_step_has_an_outcome", has_memo_once_a_step_has_an_outcome),
    ("only_live_tasks_have_args", only_live_tasks_have_args),
    ("runs_have_input", runs_have_input),
    ("only_ended_work_has_an_outcome", only_ended_work_has_an_outcome),
    ("ended_steps_leave_no_task", ended_steps_leave_no_task),
    ("failures_within_policy", failures_within_policy),
    ("lost_leases_within_bound", lost_leases_within_bound),
];

const FROM_THE_PAST: &str = "leases_and_places_are_from_the_past";

/// The names of all invariants.
pub fn names() -> impl Iterator<Item = &'static str> {
    INVARIANTS.iter().map(|(name, _)| *name).chain([FROM_THE_PAST]).chain(cluster::names())
}

/// Checks all invariants that need nothing but the state.
#[must_use]
pub fn check(kv: &dyn Read, group: GroupId) -> Vec<Violation> {
    check_state(&State::read(kv, group)).into_iter().chain(cluster::check(kv, group)).collect()
}

/// As [`check`], and that nothing stems from a log position after the last one applied.
#[must_use]
pub fn check_at(kv: &dyn Read, group: GroupId, last_index: u64) -> Vec<Violation> {
    let state = State::read(kv, group);
    let future = leases_and_places_are_from_the_past(&state, last_index);
    let violation = |detail| Violation { name: FROM_THE_PAST, detail };
    let broken = check_state(&state).into_iter().chain(future.into_iter().map(violation));
    broken.chain(cluster::check(kv, group)).collect()
}

fn check_state(state: &State) -> Vec<Violation> {
    let broken = |(name, invariant): &(&'static str, Invariant)| {
        let name = *name;
        invariant(state).into_iter().map(move |detail| Violation { name, detail })
    };
    INVARIANTS.iter().flat_map(broken).collect()
}

/// What one side holds and the other does not.
fn differences<T: Ord + fmt::Debug>(what: &str, index: &[T], rows: &[T]) -> Vec<String> {
    let (in_index, in_rows): (BTreeSet<&T>, BTreeSet<&T>) = (index.iter().collect(), rows.iter().collect());
    let extra = in_index.difference(&in_rows).map(|item| format!("{what} {item:?} stands for nothing"));
    let missing = in_rows.difference(&in_index).map(|item| format!("{what} {item:?} is missing"));
    extra.chain(missing).collect()
}

/// Ready work stands in its lane, in its place, exactly once.
fn ready_index_matches_ready_work(state: &State) -> Vec<String> {
    let rows: Vec<ReadyKey> = state
        .works()
        .filter(|row| row.life == Life::Ready)
        .map(|row| ReadyKey { lane: row.lane, place: row.place, work: row.work })
        .collect();
    differences("ready place", &state.ready, &rows)
}

/// A lane is read from `ready_from`: ready work before that would never be found.
fn ready_from_is_not_above_the_first_ready(state: &State) -> Vec<String> {
    let hidden = |key: &&ReadyKey| {
        let from = state.lanes.get(&key.lane).and_then(|row| row.ready_from);
        from.is_none_or(|from| from > key.place)
    };
    state.ready.iter().filter(hidden).map(|key| format!("{key:?} comes before its lane's ready_from")).collect()
}

/// A lane counts the work that it holds.
fn lane_counts_match_work(state: &State) -> Vec<String> {
    let mut counts: BTreeMap<Lane, [u64; 3]> = BTreeMap::new();
    for row in state.works() {
        let which = match row.life {
            Life::Ready => 0,
            Life::Leased { .. } => 1,
            Life::Delayed { .. } | Life::Retrying { .. } => 2,
            Life::Parked | Life::Ended { .. } => continue,
        };
        counts.entry(row.lane).or_default()[which] += 1;
    }
    let counted: Vec<_> = counts.into_iter().collect();
    let rows: Vec<_> =
        state.lanes.iter().map(|(lane, row)| (lane.clone(), [row.ready, row.leased, row.delayed])).collect();
    let full = |(_, counts): &&(Lane, [u64; 3])| counts.iter().any(|count| *count > 0);
    let rows: Vec<_> = rows.iter().filter(full).cloned().collect();
    differences("lane count [ready, leased, delayed]", &rows, &counted)
}

/// Names that were used once leave nothing behind.
fn no_empty_lane_rows(state: &State) -> Vec<String> {
    let empty = |(_, row): &(&Lane, &LaneRow)| row.ready + row.leased + row.delayed == 0;
    state.lanes.iter().filter(empty).map(|(lane, _)| format!("{lane:?} is empty")).collect()
}

fn only_paused_queues_have_rows(state: &State) -> Vec<String> {
    let idle = |(_, row): &(&Name, &QueueRow)| !row.paused;
    state.queues.iter().filter(idle).map(|(queue, _)| format!("queue {queue} has a row and is not paused")).collect()
}

/// A session's leases can be found by session, and only those.
fn lease_index_matches_leased_work(state: &State) -> Vec<String> {
    let rows: Vec<_> =
        state.works().filter_map(|row| row.life.lease().map(|(session, lease)| (session, lease, row.work))).collect();
    differences("lease", &state.leases, &rows)
}

/// A lease id is a fencing token: no two pieces of work share one.
fn one_lease_covers_one_work(state: &State) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let again = state.leases.iter().filter(|(_, lease, _)| !seen.insert(*lease));
    again.map(|(_, lease, work)| format!("{lease:?} also covers {work:?}")).collect()
}

/// What waits for time can be found by time, and only that.
fn due_index_matches_waiting_work(state: &State) -> Vec<String> {
    let mut rows = Vec::new();
    for row in state.works() {
        match row.life {
            Life::Delayed { until: at } | Life::Retrying { at } => rows.push((at, "ready", row.work)),
            // When it ended is not kept: that there is exactly one is checked, under the time of the index.
            Life::Ended { .. } => {
                let forget = |(_, what): &&(Timestamp, Due)| *what == Due::Forget(row.work);
                let at = state.due.iter().find(forget).map_or(Timestamp(0), |(at, _)| *at);
                rows.push((at, "forget", row.work));
            }
            Life::Ready | Life::Leased { .. } | Life::Parked => {}
        }
    }
    let index: Vec<_> = state
        .due
        .iter()
        .filter_map(|(at, what)| match what {
            Due::Ready(work) => Some((*at, "ready", *work)),
            Due::Forget(work) => Some((*at, "forget", *work)),
            Due::ForgetToken(_) => None,
        })
        .collect();
    differences("due item", &index, &rows)
}

/// Ticks read from `due_from`: an item before that would never be found.
fn nothing_due_before_due_from(state: &State) -> Vec<String> {
    let from = state.meta.due_from;
    let early = state.due.iter().filter(|(at, _)| *at < from);
    let early = early.map(|(at, what)| format!("{what:?} is due at {at:?}, before due_from {from:?}")).collect();
    if from > state.meta.time { vec![format!("due_from {from:?} is after {:?}", state.meta.time)] } else { early }
}

/// What waits for time can be found by its lane too, and only that.
fn delayed_index_matches_waiting_work(state: &State) -> Vec<String> {
    let delayed = |row: WorkRow<'_>| match row.life {
        Life::Delayed { until: at } | Life::Retrying { at } => Some(DelayedKey { lane: row.lane, at, work: row.work }),
        Life::Ready | Life::Leased { .. } | Life::Parked | Life::Ended { .. } => None,
    };
    let rows: Vec<DelayedKey> = state.works().filter_map(delayed).collect();
    differences("delayed work", &state.delayed, &rows)
}

/// A pending step has exactly one task or child run that will end it, and that one knows whose step it is.
fn pending_memo_matches_live_child(state: &State) -> Vec<String> {
    let mut broken = Vec::new();
    for (key, memo) in &state.memo {
        let Memo::Pending(work) = memo else { continue };
        let child = state.works().find(|row| row.work == *work);
        let is_step = child.is_some_and(|row| {
            !row.life.is_ended() && row.parent.is_some_and(|parent| parent.run == key.run && parent.key == key.step)
        });
        if !is_step {
            broken.push(format!("{key:?} waits for {work:?}, which is no live step of it"));
        }
    }
    for row in state.works().filter(|row| !row.life.is_ended()) {
        let Some(parent) = row.parent else { continue };
        // Steps outlive a run that ended without them; once the run is forgotten their outcome is nobody's.
        let Some(run) = state.runs.get(&parent.run) else { continue };
        // The run's id was used by another run before, which is forgotten; the step is that one's.
        let is_of_another = row.place.seq < run.seq;
        if is_of_another || state.is_being_forgotten(parent.run) {
            continue;
        }
        let waits = |(key, memo): &(MemoKey, Memo)| {
            key.run == parent.run && key.step == parent.key && *memo == Memo::Pending(row.work)
        };
        if !state.memo.iter().any(waits) {
            broken.push(format!("{:?} is a live step of {parent:?}, whose memo does not wait for it", row.work));
        }
    }
    broken
}

fn steps_pending_counts_pending_memo(state: &State) -> Vec<String> {
    let counted = state.runs.iter().filter(|(run, _)| !state.is_being_forgotten(**run));
    let wrong = counted.filter(|(run, row)| row.steps_pending as usize != state.pending(**run));
    wrong.map(|(run, row)| format!("{run:?} counts {}, its memo {}", row.steps_pending, state.pending(*run))).collect()
}

/// Only the end of a step wakes a parked run.
fn parked_runs_wait_for_steps(state: &State) -> Vec<String> {
    let stuck = |(_, row): &(&RunId, &RunRow)| row.life == Life::Parked && row.steps_pending == 0;
    state.runs.iter().filter(stuck).map(|(run, _)| format!("{run:?} is parked and waits for nothing")).collect()
}

fn memo_belongs_to_a_run(state: &State) -> Vec<String> {
    let orphans = state.memo.iter().filter(|(key, _)| !state.runs.contains_key(&key.run));
    orphans.map(|(key, _)| format!("{key:?} is a memo of no run")).collect()
}

/// A run that is said to have no memo is leased without one.
fn has_memo_once_a_step_has_an_outcome(state: &State) -> Vec<String> {
    let known = state.memo.iter().filter(|(_, memo)| *memo == Memo::Outcome);
    let denied = known.filter(|(key, _)| state.runs.get(&key.run).is_some_and(|run| !run.has_memo));
    denied.map(|(key, _)| format!("{:?} has an outcome and its run has no memo", key.step)).collect()
}

fn only_live_tasks_have_args(state: &State) -> Vec<String> {
    let live: Vec<TaskId> = state.tasks.iter().filter(|(_, row)| !row.life.is_ended()).map(|(id, _)| *id).collect();
    differences("arguments of", &state.args.iter().copied().collect::<Vec<_>>(), &live)
}

fn runs_have_input(state: &State) -> Vec<String> {
    let runs: Vec<RunId> = state.runs.keys().copied().collect();
    differences("input of", &state.inputs.iter().copied().collect::<Vec<_>>(), &runs)
}

fn only_ended_work_has_an_outcome(state: &State) -> Vec<String> {
    let ended = |life: Life| life.is_ended();
    let runs: Vec<RunId> = state.runs.iter().filter(|(_, row)| ended(row.life)).map(|(id, _)| *id).collect();
    let tasks: Vec<TaskId> = state.tasks.iter().filter(|(_, row)| ended(row.life)).map(|(id, _)| *id).collect();
    let mut broken = differences("outcome of", &state.run_outcomes.iter().copied().collect::<Vec<_>>(), &runs);
    broken.extend(differences("outcome of", &state.task_outcomes.iter().copied().collect::<Vec<_>>(), &tasks));
    broken
}

/// A step's outcome lives in its run's memo, and its task is gone.
fn ended_steps_leave_no_task(state: &State) -> Vec<String> {
    let left = |(_, row): &(&TaskId, &TaskRow)| row.parent.is_some() && row.life.is_ended();
    state.tasks.iter().filter(left).map(|(task, _)| format!("{task:?} is a step and has ended")).collect()
}

/// Nothing is tried more often than its policy says.
fn failures_within_policy(state: &State) -> Vec<String> {
    let over = |failures: u32, max_retries: u32, life: Life| failures > max_retries + u32::from(life.is_ended());
    let tasks = state.tasks.iter().filter(|(_, row)| over(row.failures, row.policy.max_retries, row.life));
    let runs = state.runs.iter().filter(|(_, row)| row.attempt > row.policy.max_retries + 1);
    let tasks = tasks.map(|(task, row)| format!("{task:?} failed {} times", row.failures));
    tasks.chain(runs.map(|(run, row)| format!("{run:?} is in attempt {}", row.attempt))).collect()
}

/// Work under which workers vanish is given up in the end.
fn lost_leases_within_bound(state: &State) -> Vec<String> {
    let over = state.works().filter(|row| row.lost >= LOST_LEASES_MAX && !row.life.is_ended());
    over.map(|row| format!("{:?} lost {} leases and lives", row.work, row.lost)).collect()
}

/// Fencing tokens and places come from log positions, so none can be ahead of the log.
fn leases_and_places_are_from_the_past(state: &State, last_index: u64) -> Vec<String> {
    let leases = state.leases.iter().filter(|(_, lease, _)| lease.index() > last_index);
    let leases = leases.map(|(_, lease, work)| format!("{lease:?} of {work:?} is ahead of index {last_index}"));
    let places = state.works().filter(|row| row.place.seq.index > last_index);
    leases.chain(places.map(|row| format!("{:?} of {:?} is ahead", row.place.seq, row.work))).collect()
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::WorkKind;

    use super::*;
    use crate::kv::{Kv, MemKv};
    use crate::tables::LANE;

    const GROUP: GroupId = GroupId(1);

    #[test]
    fn the_empty_state_breaks_nothing() {
        assert_eq!(check_at(&MemKv::default(), GROUP, 0), []);
    }

    #[test]
    fn names_are_unique_and_snake_case() {
        let names: Vec<_> = names().collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')), "{names:?}");
    }

    #[test]
    fn a_broken_state_is_named() {
        let mut kv = MemKv::default();
        let lane = Lane { queue: "q".into(), kind: WorkKind::Task, name: "n".into() };
        LANE.put(&mut kv, GROUP, &lane, &LaneRow { ready: 1, ..LaneRow::default() });
        let broken = check(&kv, GROUP);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert_eq!(broken[0].name, "lane_counts_match_work");
        kv.delete(LANE.key(GROUP, &lane));
        assert_eq!(check(&kv, GROUP), []);
    }
}
