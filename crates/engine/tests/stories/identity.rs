//! Twice is once: each mutating request carries an id chosen by its sender.

use coda_protocol::ids::{Millis, RunId, SessionId, TaskId};
use coda_protocol::limits::{
    CACHE_KEY_BYTES_MAX, DELAY_MS_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, RETENTION_MS, RETRIES_MAX, SPAWN_STEPS_MAX,
};
use coda_protocol::payload::Payload;
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::{SpawnStep, SubmitTask};

use crate::support::{GROUP, W2, World, failure, make, ok};
use coda_engine::command::Command;

#[test]
fn starting_and_submitting_twice_is_once() {
    let mut w = World::new();
    let (run, task) = (w.start("order"), w.submit("t"));
    let existed = Ok(Reply::Started { existed: true });
    assert_eq!(w.command(Command::StartRun(make::start(run, "order"))), existed);
    assert_eq!(w.command(Command::SubmitTask(make::submit(task, "t"))), existed);
    assert_eq!(w.lease_as(W2, &["t"], 10).len(), 1);
    assert!(w.lease_run("order").is_some());
    assert_eq!(w.lease_run("order"), None);
}

#[test]
fn an_id_that_names_other_work_is_a_conflict() {
    let mut w = World::new();
    let (run, task) = (w.start("order"), w.submit("t"));
    let refused = w.command(Command::StartRun(make::start(run, "invoice")));
    assert_eq!(refused, Err(Reject::IdConflict { id: run.to_string() }));
    let refused = w.command(Command::SubmitTask(make::submit(task, "u")));
    assert_eq!(refused, Err(Reject::IdConflict { id: task.to_string() }));
}

#[test]
fn a_task_submitted_again_after_it_ended_has_ended() {
    let mut w = World::new();
    let task = w.submit("t");
    let lease = w.lease("t").unwrap();
    w.complete(&lease, "done").unwrap();
    let again = w.command(Command::SubmitTask(make::submit(task, "t")));
    assert_eq!(again, Ok(Reply::Started { existed: true }));
    assert_eq!((w.lease("t"), w.task_outcome(task)), (None, Ok(Some(ok("done")))));
}

#[test]
fn completing_twice_is_once_and_the_first_outcome_stands() {
    let mut w = World::new();
    let task = w.submit("t");
    let lease = w.lease("t").unwrap();
    assert_eq!(w.complete(&lease, "done"), Ok(Reply::Done));
    assert_eq!(w.complete(&lease, "done"), Ok(Reply::Done));
    assert_eq!(w.fail(&lease, "no"), Ok(Reply::Done), "the same attempt is not asked twice");
    assert_eq!(w.task_outcome(task), Ok(Some(ok("done"))));
    let run = w.resident("order");
    assert_eq!(w.finish(&run, "shipped"), Ok(Reply::Done));
    assert_eq!(w.fail_run(&run, "no"), Ok(Reply::Done));
    assert_eq!(w.run_outcome(run.run), Ok(Some(ok("shipped"))));
}

#[test]
fn completing_a_step_twice_says_that_it_has_ended() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("t", &["k"])]);
    let task = w.lease("t").unwrap();
    assert_eq!(w.complete(&task, "one"), Ok(Reply::Done));
    assert_eq!(w.complete(&task, "two"), Err(Reject::AlreadyEnded));
    assert_eq!(w.spawn(&run, &[make::step("t", &["k"])]), [StepState::Ended(ok("one"))]);
}

#[test]
fn reporting_a_retried_failure_twice_costs_one_retry() {
    let mut w = World::new();
    w.submit_with("t", |submit| submit.policy = make::retries(2));
    let lease = w.lease("t").unwrap();
    assert_eq!(w.fail(&lease, "no"), Ok(Reply::Done));
    assert_eq!(w.fail(&lease, "no"), Err(Reject::StaleLease));
    w.at(1_000).tick();
    assert_eq!(w.lease("t").unwrap().retries_left, 1);
}

#[test]
fn unknown_work_is_refused_by_name() {
    let mut w = World::new();
    let (run, task) = (RunId([9; 16]), TaskId([9; 16]));
    assert_eq!(w.run_outcome(run), Err(Reject::NoSuchRun { run: run.to_string() }));
    assert_eq!(w.task_outcome(task), Err(Reject::NoSuchTask { task: task.to_string() }));
    assert_eq!(w.resume(SessionId([9; 16]), &[]), []);
}

/// An id of the form that the log makes could meet a step that is still to come.
#[test]
fn ids_of_the_logs_own_form_are_refused() {
    let mut w = World::new();
    let run = w.resident("order");
    use coda_protocol::ids::Slotted;
    let next = TaskId::derived(run.run.slot(), GROUP, w.index + 2, 0);
    let refused = w.command(Command::SubmitTask(make::submit(next, "t")));
    assert_eq!(refused, Err(Reject::BadId { id: next.to_string() }));
    assert_eq!(w.spawn(&run, &[make::step("t", &["k"])]), [StepState::Pending]);
    assert_eq!(w.lease("t").unwrap().task, TaskId::derived(run.run.slot(), GROUP, w.index - 1, 0));
}

/// A step may outlive its run by a year; by then the run's id may name another run.
#[test]
fn the_step_of_a_forgotten_run_does_not_reach_another_run_of_that_id() {
    let mut w = World::new();
    let first = w.at(0).resident("order");
    let late = SpawnStep { delay: Millis(RETENTION_MS * 3), ..make::step("t", &["k"]) };
    w.spawn(&first, &[late]);
    w.finish(&first, "shipped").unwrap();
    w.at(RETENTION_MS).tick();
    assert!(w.run_outcome(first.run).is_err());

    let again = make::start(first.run, "order");
    assert_eq!(w.command(Command::StartRun(again)), Ok(Reply::Started { existed: false }));
    let second = w.lease_run("order").unwrap();
    w.spawn(&second, &[make::step("t", &["k"])]);
    let young = w.lease("t").unwrap();
    w.at(RETENTION_MS * 3).tick();
    let old = w.lease("t").unwrap();
    assert_ne!(young.task, old.task);
    assert_eq!(w.complete(&old, "of the first"), Ok(Reply::Done));
    assert_eq!(w.steps_ended(), []);
    assert_eq!(w.complete(&young, "of the second"), Ok(Reply::Done));
    assert_eq!(w.spawn(&second, &[make::step("t", &["k"])]), [StepState::Ended(ok("of the second"))]);
}

#[test]
fn requests_out_of_bounds_are_refused_and_change_nothing() {
    let mut w = World::new();
    let run = w.resident("order");
    let before = w.kv.clone();
    let submit = |change: &dyn Fn(&mut SubmitTask)| {
        let mut submit = make::submit(TaskId([9; 16]), "t");
        change(&mut submit);
        Command::SubmitTask(submit)
    };
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let codes: Vec<_> = [
        submit(&|s| s.name = "".into()),
        submit(&|s| s.queue = long.as_str().into()),
        submit(&|s| s.queue = "a\nb".into()),
        submit(&|s| s.priority = 10),
        submit(&|s| s.delay = Millis(DELAY_MS_MAX + 1)),
        submit(&|s| s.policy.max_retries = RETRIES_MAX + 1),
        submit(&|s| s.policy.jitter_percent = 101),
        submit(&|s| s.policy.factor_percent = 99),
        submit(&|s| s.args = Payload::json(vec![0; PAYLOAD_BYTES_MAX + 1])),
        submit(&|s| s.args.codec = "".into()),
        Command::PauseQueue { queue: long.as_str().into() },
    ]
    .into_iter()
    .map(|command| w.command(command).unwrap_err().code())
    .collect();
    let expected = [2001, 2001, 2001, 2008, 2009, 2007, 2007, 2007, 2003, 2001, 2001].map(|n| format!("CODA{n}"));
    assert_eq!(codes, expected);

    let long_key = coda_protocol::cache_key::CacheKey::stored(vec![1; CACHE_KEY_BYTES_MAX + 1].into());
    let bad_key = coda_protocol::cache_key::CacheKey::stored(vec![9].into());
    let with_key = |cache_key| {
        let mut step = make::step("t", &[]);
        step.key.cache_key = cache_key;
        vec![step]
    };
    let big = SpawnStep { args: Payload::json(vec![0; PAYLOAD_BYTES_MAX / 2 + 1]), ..make::step("t", &[]) };
    let codes: Vec<_> = [
        with_key(long_key),
        with_key(bad_key),
        vec![make::step("t", &[]); SPAWN_STEPS_MAX + 1],
        vec![big.clone(), big],
    ]
    .into_iter()
    .map(|steps| w.try_spawn(&run, steps).unwrap_err().code())
    .collect();
    assert_eq!(codes, ["CODA2005", "CODA2006", "CODA2010", "CODA2003"]);
    let huge = coda_protocol::payload::Failure { traceback: "x".repeat(1 << 20), ..failure("") };
    assert_eq!(w.end_run(&run, Err(huge)).unwrap_err().code(), "CODA2004");
    assert!(w.kv == before);
}
