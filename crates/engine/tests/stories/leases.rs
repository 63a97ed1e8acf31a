//! Rule 6 and fencing: after a lease is lost its holder cannot change anything.

use coda_protocol::ids::{LeaseId, Work};
use coda_protocol::limits::{LEASES_PER_END_MAX, LOST_LEASES_DELAY, LOST_LEASES_MAX};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};

use crate::support::{W1, W2, W3, World, make, ok};
use coda_engine::effect::Effect;
use coda_engine::recover::recover;

#[test]
fn the_end_of_a_session_returns_its_work_at_once_and_its_late_result_is_refused() {
    let mut w = World::new();
    let task = w.submit("t");
    let first = w.lease("t").unwrap();
    w.end_session(W1);
    assert!(w.effects.contains(&Effect::LeaseLost { session: W1, work: Work::Task(task), lease: first.lease }));
    assert_eq!(w.complete(&first, "late"), Err(Reject::StaleLease));
    let second = w.lease_as(W2, &["t"], 1).remove(0);
    assert!(second.lease > first.lease);
    assert_eq!(w.complete(&first, "late"), Err(Reject::StaleLease));
    assert_eq!(w.complete(&second, "done"), Ok(Reply::Done));
    assert_eq!(w.complete(&first, "late"), Err(Reject::AlreadyEnded));
    assert_eq!(w.task_outcome(task), Ok(Some(ok("done"))));
}

#[test]
fn a_run_whose_worker_vanished_is_fenced_from_it() {
    let mut w = World::new();
    let first = w.resident("order");
    w.end_session(W1);
    let second = w.lease_run_as(W2, "order").unwrap();
    assert_eq!(w.finish(&first, "late"), Err(Reject::StaleLease));
    assert_eq!(w.park(&first, 0), Err(Reject::StaleLease));
    assert_eq!(w.release(Work::Run(first.run), first.lease), Err(Reject::StaleLease));
    assert_eq!(w.finish(&second, "shipped"), Ok(Reply::Done));
    assert_eq!(w.finish(&first, "late"), Err(Reject::AlreadyEnded));
    assert_eq!(w.release(Work::Run(first.run), first.lease), Err(Reject::AlreadyEnded));
}

#[test]
fn returned_work_stands_in_its_old_place() {
    let mut w = World::new();
    let tasks: Vec<_> = (0..3).map(|_| w.submit("t")).collect();
    let first = w.lease("t").unwrap();
    assert_eq!(first.task, tasks[0]);
    w.end_session(W1);
    let order: Vec<_> = w.lease_as(W2, &["t"], 3).iter().map(|lease| lease.task).collect();
    assert_eq!(order, tasks);
}

#[test]
fn released_work_is_ready_at_once_and_unharmed() {
    let mut w = World::new();
    let task = w.submit("t");
    for _ in 0..LOST_LEASES_MAX + 2 {
        let lease = w.lease("t").unwrap();
        assert_eq!(w.release(Work::Task(task), lease.lease), Ok(Reply::Done));
        assert_eq!(w.release(Work::Task(task), lease.lease), Err(Reject::StaleLease));
    }
    assert_eq!(w.task_outcome(task), Ok(None), "handing back is not vanishing");
}

#[test]
fn a_session_that_is_back_keeps_what_it_holds_and_hands_back_what_it_never_got() {
    let mut w = World::new();
    let run = w.resident("order");
    let tasks: Vec<_> = (0..3).map(|_| w.submit("t")).collect();
    let leases = w.lease_as(W1, &["t"], 3);
    let gone = LeaseId(1);
    let lost = w.resume(W1, &[leases[0].lease, leases[2].lease, run.lease, gone]);
    assert_eq!(lost, [gone]);
    assert_eq!(w.complete(&leases[0], "kept"), Ok(Reply::Done));
    assert_eq!(w.complete(&leases[1], "never got it"), Err(Reject::StaleLease));
    assert_eq!(w.lease_as(W2, &["t"], 3)[0].task, tasks[1]);
    assert_eq!(w.spawn(&run, &[make::step("s", &["k"])]), [StepState::Pending]);
}

#[test]
fn resuming_twice_is_once() {
    let mut w = World::new();
    w.submit("t");
    let lease = w.lease("t").unwrap();
    assert_eq!(w.resume(W1, &[lease.lease]), []);
    assert_eq!(w.resume(W1, &[lease.lease]), []);
    w.complete(&lease, "done").unwrap();
    assert_eq!(w.resume(W1, &[lease.lease]), [lease.lease]);
}

#[test]
fn nobody_can_claim_the_lease_of_another_session() {
    let mut w = World::new();
    w.submit("t");
    let lease = w.lease("t").unwrap();
    assert_eq!(w.resume(W2, &[lease.lease]), [lease.lease]);
    assert_eq!(w.complete(&lease, "done"), Ok(Reply::Done));
}

#[test]
fn leases_only_grow() {
    let mut w = World::new();
    let mut last = LeaseId(0);
    for i in 0..20 {
        w.submit("t");
        w.submit("t");
        for lease in w.lease_as(if i % 2 == 0 { W1 } else { W3 }, &["t"], 2) {
            assert!(lease.lease > last);
            last = lease.lease;
            w.complete(&lease, "done").unwrap();
        }
    }
}

/// Past the longest wait of work that lost its workers.
fn later(w: &mut World) {
    let then = w.now + LOST_LEASES_DELAY.max.0;
    w.at(then).tick();
}

#[test]
fn a_task_that_lost_two_workers_lets_others_go_first() {
    let mut w = World::new();
    let poison = w.submit("t");
    let other = w.submit("t");
    for _ in 0..2 {
        assert_eq!(w.lease("t").unwrap().task, poison, "after the first loss it is ready at once");
        w.end_session(W1);
    }
    assert_eq!(w.lease("t").unwrap().task, other);
    assert!(w.lease("t").is_none());
    later(&mut w);
    assert_eq!(w.lease("t").unwrap().task, poison);
}

#[test]
fn a_task_that_kills_its_workers_is_given_up() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("poison", &["k"])]);
    for lost in 1..=LOST_LEASES_MAX {
        assert!(!w.lease_as(W2, &["poison"], 1).is_empty(), "lost {}", lost - 1);
        w.end_session(W2);
        if lost < LOST_LEASES_MAX {
            later(&mut w);
        }
    }
    let told = w.steps_ended();
    let failure = told[0].outcome.clone().unwrap_err();
    assert_eq!((failure.kind.as_str(), failure.retryable), ("coda.WorkerLost", false));
    assert!(w.lease_as(W2, &["poison"], 1).is_empty());
}

#[test]
fn a_run_that_kills_its_workers_is_given_up_but_not_while_it_makes_progress() {
    let mut w = World::new();
    let run = w.start("order");
    for i in 0..LOST_LEASES_MAX * 2 {
        let lease = w.lease_run("order").unwrap();
        w.record(&lease, make::inline("progress", &[&i.to_string()]), "1").unwrap();
        w.end_session(W1);
        later(&mut w);
    }
    for _ in 1..LOST_LEASES_MAX {
        assert!(w.lease_run("order").is_some());
        w.end_session(W1);
        later(&mut w);
    }
    let outcome = w.run_outcome(run).unwrap();
    assert_eq!(outcome.unwrap().unwrap_err().kind, "coda.WorkerLost");
    assert_eq!(w.lease_run("order"), None);
}

#[test]
fn a_session_with_many_leases_is_taken_down_in_bounded_steps() {
    let mut w = World::new();
    let many = LEASES_PER_END_MAX + 10;
    for _ in 0..many {
        w.submit("t");
    }
    let held = w.lease_as(W1, &["t"], 4_000).len() + w.lease_as(W1, &["t"], 4_000).len();
    assert_eq!(held, many);
    w.end_session(W1);
    assert!(w.effects.contains(&Effect::EndSessionAgain(W1)));
    assert_eq!(w.lane("t").unwrap().leased, 10);
    assert!(recover(&w.kv, crate::support::GROUP).contains(&Effect::SessionHolds(W1)));
    w.end_session(W1);
    assert!(!w.effects.contains(&Effect::EndSessionAgain(W1)));
    assert_eq!(w.lane("t").unwrap().leased, 0);
}
