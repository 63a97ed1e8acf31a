//! Runs that only wait give up their slot, and whatever they wait for makes them ready again.

use coda_protocol::ids::SessionId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState, Wait, WorkState};

use crate::support::{GROUP, W1, W2, World, make, ok};
use coda_engine::query;

#[test]
fn a_parked_run_is_woken_by_the_end_of_any_of_its_steps() {
    let mut w = World::new();
    let first = w.resident("order");
    let steps = [make::step("a", &["k"]), make::step("b", &["k"])];
    w.spawn(&first, &steps);
    assert_eq!(w.park(&first, 0), Ok(Reply::Done));
    let described = query::run(&w.kv, GROUP, first.run).unwrap();
    assert_eq!((described.state, described.waits), (WorkState::Parked, Wait::Steps));
    assert_eq!(w.lease_run("order"), None, "it waits");
    let b = w.lease("b").unwrap();
    w.complete(&b, "B").unwrap();
    assert_eq!(w.lanes_ready().len(), 1, "its lane has ready work again");
    let second = w.lease_run_as(W2, "order").unwrap();
    assert_eq!(second.steps_ended, 1);
    assert_eq!(w.spawn(&second, &steps), [StepState::Pending, StepState::Ended(ok("B"))]);
}

#[test]
fn parking_is_refused_when_a_step_ended_that_the_worker_has_not_seen() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("a", &["k"]), make::step("b", &["k"])]);
    let a = w.lease("a").unwrap();
    w.complete(&a, "A").unwrap();
    assert_eq!(w.park(&run, 0), Err(Reject::NotIdle));
    assert_eq!(w.park(&run, 1), Ok(Reply::Done));
}

#[test]
fn parking_is_refused_when_nothing_would_wake_the_run() {
    let mut w = World::new();
    let run = w.resident("order");
    assert_eq!(w.park(&run, 0), Err(Reject::NotIdle));
    w.do_step(&run, &make::step("a", &["k"]), "A");
    assert_eq!(w.park(&run, 1), Err(Reject::NotIdle));
}

#[test]
fn a_parked_run_is_fenced_from_the_execution_that_parked_it() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("a", &["k"])]);
    w.park(&run, 0).unwrap();
    assert_eq!(w.try_spawn(&run, vec![make::step("b", &["k"])]), Err(Reject::StaleLease));
    assert_eq!(w.finish(&run, "done"), Err(Reject::StaleLease));
    assert_eq!(w.park(&run, 0), Err(Reject::StaleLease));
    w.end_session(W1);
    let described = query::run(&w.kv, GROUP, run.run).unwrap();
    assert_eq!(described.state, WorkState::Parked, "a parked run belongs to no session");
}

#[test]
fn a_parked_run_is_woken_by_a_failure_too() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("a", &["k"])]);
    w.park(&run, 0).unwrap();
    let a = w.lease("a").unwrap();
    w.fail(&a, "no").unwrap();
    assert!(w.lease_run("order").is_some());
}

/// The step belongs to an earlier attempt, so its failure is no news; but nothing else would ever wake the run.
#[test]
fn a_parked_run_is_woken_even_by_what_is_no_news_to_it() {
    let mut w = World::new();
    w.at(0).start_with("order", |start| start.policy = make::retries(1));
    let first = w.lease_run("order").unwrap();
    w.spawn(&first, &[make::step("a", &["k"])]);
    let a = w.lease("a").unwrap();
    w.fail_run(&first, "impatient").unwrap();
    w.at(1_000).tick();
    let second = w.lease_run("order").unwrap();
    w.park(&second, second.steps_ended).unwrap();
    w.fail(&a, "no").unwrap();
    assert!(w.lease_run("order").is_some());
}

#[test]
fn a_woken_run_returns_to_its_old_place() {
    let mut w = World::new();
    let old = w.resident("order");
    w.spawn(&old, &[make::step("a", &["k"])]);
    w.park(&old, 0).unwrap();
    let young = w.start("order");
    let a = w.lease("a").unwrap();
    w.complete(&a, "A").unwrap();
    assert_eq!(w.lease_run("order").unwrap().run, old.run);
    assert_eq!(w.lease_run_as(SessionId([9; 16]), "order").unwrap().run, young);
}
