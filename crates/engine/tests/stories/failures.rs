//! Rule 5: retries by policy, and failures that are remembered only for one attempt of the run.

use coda_protocol::ids::Millis;
use coda_protocol::limits::LOST_LEASES_DELAY;
use coda_protocol::payload::Failure;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reply::{Reply, StepState, Wait, WorkState};
use coda_protocol::request::SpawnStep;

use crate::support::{GROUP, W1, World, failure, make, ok};
use coda_engine::query;

#[test]
fn a_failed_task_is_retried_after_its_delay_and_never_before() {
    let mut w = World::new();
    let task = w.at(0).submit_with("t", |submit| submit.policy = make::retries(1));
    let first = w.lease("t").unwrap();
    assert_eq!((first.attempt, first.retries_left), (1, 1));
    assert_eq!(w.at(100).fail(&first, "no"), Ok(Reply::Done));
    let described = query::task(&w.kv, GROUP, task).unwrap();
    assert_eq!((described.state, described.last_failure), (WorkState::Retrying, Some(failure("no"))));
    assert!(matches!(described.waits, Wait::RetryingAt(at) if at.0 == 1_100));
    w.at(1_099).tick();
    assert_eq!(w.lease("t"), None);
    w.at(1_100).tick();
    let second = w.lease("t").unwrap();
    assert_eq!((second.attempt, second.retries_left), (2, 0));
}

#[test]
fn when_attempts_are_exhausted_the_failure_is_the_outcome() {
    let mut w = World::new();
    let task = w.submit_with("t", |submit| submit.policy = make::retries(2));
    for (attempt, now) in [(1, 0), (2, 10_000), (3, 20_000)] {
        w.at(now).tick();
        let lease = w.lease("t").unwrap();
        assert_eq!(lease.attempt, attempt);
        assert_eq!(w.task_outcome(task), Ok(None));
        w.fail(&lease, &format!("failure {attempt}")).unwrap();
    }
    assert_eq!(w.task_outcome(task), Ok(Some(Err(failure("failure 3")))));
    w.at(1_000_000).tick();
    assert_eq!(w.lease("t"), None);
}

#[test]
fn backoff_grows_to_its_limit() {
    let mut w = World::new();
    let policy = RetryPolicy {
        max_retries: 4,
        initial: Millis(100),
        factor_percent: 300,
        max: Millis(1_000),
        jitter_percent: 0,
    };
    w.submit_with("t", |submit| submit.policy = policy);
    let mut now = 0;
    for delay in [100, 300, 900, 1_000] {
        let lease = w.at(now).lease("t").unwrap();
        w.fail(&lease, "no").unwrap();
        w.at(now + delay - 1).tick();
        assert_eq!(w.lease("t"), None, "after {delay} ms");
        now += delay;
        w.at(now).tick();
    }
    assert!(w.lease("t").is_some());
}

#[test]
fn jitter_is_chance_and_still_the_same_on_every_node() {
    let retry_at = || {
        let mut w = World::new();
        let tasks: Vec<_> = (0..20)
            .map(|_| w.submit_with("t", |submit| submit.policy = RetryPolicy { max_retries: 1, ..RetryPolicy::NEVER }))
            .collect();
        for lease in w.lease_as(W1, &["t"], 20) {
            w.fail(&lease, "no").unwrap();
        }
        tasks.into_iter().map(|task| query::task(&w.kv, GROUP, task).unwrap().waits).collect::<Vec<_>>()
    };
    let waits = retry_at();
    assert_eq!(waits, retry_at());
    assert!(waits.iter().all(|wait| matches!(wait, Wait::RetryingAt(at) if (800..=1_000).contains(&at.0))));
    assert!(waits.iter().any(|wait| *wait != waits[0]));
}

#[test]
fn a_failure_that_is_not_retryable_ends_the_task_at_once() {
    let mut w = World::new();
    let task = w.submit_with("t", |submit| submit.policy = make::retries(5));
    let lease = w.lease("t").unwrap();
    let fatal = Failure { retryable: false, ..failure("bad input") };
    w.end_task(&lease, Err(fatal.clone())).unwrap();
    assert_eq!(w.task_outcome(task), Ok(Some(Err(fatal))));
}

#[test]
fn a_worker_that_vanishes_costs_no_retry() {
    let mut w = World::new();
    w.submit("t");
    for attempt in 1..=3 {
        let lease = w.lease("t").unwrap();
        assert_eq!((lease.attempt, lease.retries_left), (attempt, 0));
        w.end_session(W1);
        let then = w.now + LOST_LEASES_DELAY.max.0;
        w.at(then).tick();
    }
    let last = w.lease("t").unwrap();
    assert_eq!(w.complete(&last, "done"), Ok(Reply::Done));
}

#[test]
fn the_failure_of_a_step_reaches_its_run_when_attempts_are_exhausted() {
    let mut w = World::new();
    let run = w.resident("order");
    let step = SpawnStep { policy: make::retries(1), ..make::step("charge", &["7"]) };
    w.at(0).spawn(&run, &[step]);
    let first = w.lease("charge").unwrap();
    w.fail(&first, "card declined").unwrap();
    assert_eq!(w.steps_ended(), []);
    w.at(1_000).tick();
    let second = w.lease("charge").unwrap();
    w.fail(&second, "card declined again").unwrap();
    assert_eq!(w.steps_ended()[0].outcome, Err(failure("card declined again")));
}

#[test]
fn a_failure_is_remembered_for_the_rest_of_this_attempt_even_by_another_worker() {
    let mut w = World::new();
    let first = w.resident("order");
    let step = make::step("charge", &["7"]);
    w.spawn(&first, std::slice::from_ref(&step));
    let task = w.lease("charge").unwrap();
    w.fail(&task, "declined").unwrap();
    w.end_session(W1);
    let second = w.lease_run("order").unwrap();
    assert_eq!(second.attempt, 1);
    assert_eq!(w.memo(second.run)[&step.key], Err(failure("declined")));
    assert_eq!(w.spawn(&second, &[step]), [StepState::Ended(Err(failure("declined")))]);
}

#[test]
fn a_retried_workflow_runs_failed_steps_again_and_successful_ones_not() {
    let mut w = World::new();
    w.start_with("order", |start| start.policy = make::retries(1));
    let first = w.lease_run("order").unwrap();
    let (good, bad) = (make::step("reserve", &["7"]), make::step("charge", &["7"]));
    w.do_step(&first, &good, "reserved");
    w.spawn(&first, std::slice::from_ref(&bad));
    let task = w.lease("charge").unwrap();
    w.fail(&task, "declined").unwrap();
    assert_eq!(w.fail_run(&first, "could not charge"), Ok(Reply::Done));
    assert_eq!(w.run_outcome(first.run), Ok(None));
    w.at(1_000).tick();
    let second = w.lease_run("order").unwrap();
    assert_eq!(second.attempt, 2);
    assert_eq!(w.memo(second.run).len(), 1, "only the success is remembered");
    assert_eq!(w.spawn(&second, &[good, bad]), [StepState::Ended(ok("reserved")), StepState::Pending]);
    let again = w.lease("charge").unwrap();
    w.complete(&again, "paid").unwrap();
    assert_eq!(w.finish(&second, "shipped"), Ok(Reply::Done));
    assert_eq!(w.run_outcome(second.run), Ok(Some(ok("shipped"))));
}

#[test]
fn a_workflow_fails_for_good_after_its_last_retry() {
    let mut w = World::new();
    let run = w.start_with("order", |start| start.policy = make::retries(1));
    for (attempt, now) in [(1, 0), (2, 1_000)] {
        w.at(now).tick();
        let lease = w.lease_run("order").unwrap();
        assert_eq!(lease.attempt, attempt);
        w.fail_run(&lease, &format!("failure {attempt}")).unwrap();
    }
    assert_eq!(w.run_outcome(run), Ok(Some(Err(failure("failure 2")))));
}

/// Two steps fail one after the other; the first failure already failed the workflow.
#[test]
fn a_step_that_fails_after_its_run_failed_runs_again_in_the_next_attempt() {
    let mut w = World::new();
    w.at(0).start_with("order", |start| start.policy = make::retries(1));
    let first = w.lease_run("order").unwrap();
    let steps = [make::step("a", &["k"]), make::step("b", &["k"])];
    w.spawn(&first, &steps);
    let (a, b) = (w.lease("a").unwrap(), w.lease("b").unwrap());
    w.fail(&a, "down").unwrap();
    w.fail_run(&first, "down").unwrap();
    w.at(500).fail(&b, "down too").unwrap();
    w.at(1_000).tick();
    let second = w.lease_run("order").unwrap();
    assert!(w.memo(second.run).is_empty());
    assert_eq!(w.spawn(&second, &steps), [StepState::Pending, StepState::Pending]);
    assert_eq!(w.lease_as(W1, &["a", "b"], 10).len(), 2);
}

#[test]
fn a_step_in_flight_that_the_next_attempt_waits_for_fails_for_that_attempt() {
    let mut w = World::new();
    w.at(0).start_with("order", |start| start.policy = make::retries(2));
    let first = w.lease_run("order").unwrap();
    let step = make::step("slow", &["k"]);
    w.spawn(&first, std::slice::from_ref(&step));
    let slow = w.lease("slow").unwrap();
    w.fail_run(&first, "impatient").unwrap();
    w.at(1_000).tick();
    let second = w.lease_run("order").unwrap();
    assert_eq!(w.spawn(&second, std::slice::from_ref(&step)), [StepState::Pending], "it joins the one in flight");
    w.fail(&slow, "too slow").unwrap();
    assert_eq!(w.steps_ended()[0].outcome, Err(failure("too slow")));
    assert_eq!(w.memo(second.run)[&step.key], Err(failure("too slow")));
}

#[test]
fn the_failure_of_a_step_that_this_attempt_has_not_asked_for_is_no_news() {
    let mut w = World::new();
    w.at(0).start_with("order", |start| start.policy = make::retries(2));
    let first = w.lease_run("order").unwrap();
    let step = make::step("slow", &["k"]);
    w.spawn(&first, std::slice::from_ref(&step));
    let slow = w.lease("slow").unwrap();
    w.fail_run(&first, "impatient").unwrap();
    w.at(1_000).tick();
    let second = w.lease_run("order").unwrap();
    w.fail(&slow, "too slow").unwrap();
    assert_eq!(w.steps_ended(), []);
    assert_eq!(w.spawn(&second, std::slice::from_ref(&step)), [StepState::Pending]);
    assert_eq!(w.park(&second, second.steps_ended), Ok(Reply::Done), "nothing it was not told keeps it awake");
}
