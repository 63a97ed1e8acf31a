//! A step may be a whole run of another workflow.

use coda_protocol::ids::Slotted;
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};

use crate::support::{W1, W2, World, failure, make, ok};

#[test]
fn a_child_run_is_a_step_of_its_parent_and_a_run_of_its_own() {
    let mut w = World::new();
    let parent = w.resident("order");
    let step = make::child("invoice", &["7"]);
    assert_eq!(w.spawn(&parent, std::slice::from_ref(&step)), [StepState::Pending]);
    let child = w.lease_run_as(W2, "invoice").unwrap();
    assert_eq!(child.run.slot(), parent.run.slot(), "every step is one transaction in one group");
    w.do_step(&child, &make::step("render", &["7"]), "pdf");
    assert_eq!(w.finish(&child, "invoiced"), Ok(Reply::Done));
    assert_eq!(w.steps_ended()[0].outcome, ok("invoiced"));
    assert_eq!(w.run_outcome(child.run), Ok(Some(ok("invoiced"))));
    assert_eq!(w.spawn(&parent, &[step]), [StepState::Ended(ok("invoiced"))]);
}

#[test]
fn a_child_retries_by_its_own_policy_before_its_parent_hears_of_it() {
    let mut w = World::new();
    let parent = w.resident("order");
    let mut step = make::child("invoice", &["7"]);
    step.policy = make::retries(1);
    w.spawn(&parent, &[step]);
    let first = w.lease_run_as(W2, "invoice").unwrap();
    w.fail_run(&first, "no paper").unwrap();
    assert_eq!(w.steps_ended(), []);
    w.at(1_000).tick();
    let second = w.lease_run_as(W2, "invoice").unwrap();
    w.fail_run(&second, "still no paper").unwrap();
    assert_eq!(w.steps_ended()[0].outcome, Err(failure("still no paper")));
}

#[test]
fn a_parked_parent_is_woken_by_its_child() {
    let mut w = World::new();
    let parent = w.resident("order");
    w.spawn(&parent, &[make::child("invoice", &["7"])]);
    w.park(&parent, 0).unwrap();
    let child = w.lease_run("invoice").unwrap();
    w.finish(&child, "invoiced").unwrap();
    let again = w.lease_run("order").unwrap();
    assert_eq!((again.run, again.steps_ended), (parent.run, 1));
}

#[test]
fn a_step_outlives_a_run_that_ends_without_it() {
    let mut w = World::new();
    let parent = w.resident("order");
    w.spawn(&parent, &[make::step("log", &["7"]), make::child("audit", &["7"])]);
    assert_eq!(w.finish(&parent, "shipped"), Ok(Reply::Done));
    let log = w.lease("log").unwrap();
    assert_eq!(w.complete(&log, "logged"), Ok(Reply::Done));
    let audit = w.lease_run("audit").unwrap();
    assert_eq!(w.finish(&audit, "audited"), Ok(Reply::Done));
    assert_eq!(w.run_outcome(parent.run), Ok(Some(ok("shipped"))));
}

#[test]
fn a_child_is_not_started_by_hand() {
    let mut w = World::new();
    let parent = w.resident("order");
    w.spawn(&parent, &[make::child("invoice", &["7"])]);
    let child = w.lease_run_as(W1, "invoice").unwrap();
    let start = coda_engine::command::Command::StartRun(make::start(child.run, "invoice"));
    assert_eq!(w.command(start), Err(Reject::BadId { id: child.run.to_string() }));
}
