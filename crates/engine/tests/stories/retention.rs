//! Ended work can be read for its retention time; then nothing of it is left.

use coda_protocol::limits::{PAYLOAD_BYTES_MAX, RETENTION_MS, TICK_DELETE_BYTES_MAX, TICK_DELETE_MAX};
use coda_protocol::reply::Reply;
use coda_protocol::request::RecordStep;

use crate::support::{GROUP, W2, World, make, ok};
use coda_engine::command::Command;
use coda_engine::tables::{MEMO, META};

/// Rows that are not the group's own.
fn rows(w: &World) -> usize {
    let meta = META.key(GROUP, &());
    w.kv.map.keys().filter(|key| **key != meta).count()
}

#[test]
fn results_can_be_read_until_their_retention_is_over() {
    let mut w = World::new();
    let task = w.at(0).submit("t");
    let lease = w.lease("t").unwrap();
    w.at(5).complete(&lease, "done").unwrap();
    w.at(5 + RETENTION_MS - 1).tick();
    assert_eq!(w.task_outcome(task), Ok(Some(ok("done"))));
    w.at(5 + RETENTION_MS).tick();
    assert!(w.task_outcome(task).is_err());
    assert_eq!(rows(&w), 0);
}

#[test]
fn a_run_takes_everything_of_its_own_along() {
    let mut w = World::new();
    let run = w.at(0).resident("order");
    w.do_step(&run, &make::step("a", &["k"]), "A");
    w.record(&run, make::inline("r", &["k"]), "4").unwrap();
    w.spawn(&run, &[make::child("invoice", &["k"])]);
    let child = w.lease_run_as(W2, "invoice").unwrap();
    w.finish(&child, "invoiced").unwrap();
    w.finish(&run, "shipped").unwrap();
    w.at(RETENTION_MS).tick();
    assert!(w.run_outcome(run.run).is_err());
    assert_eq!(rows(&w), 0);
}

#[test]
fn no_tick_reads_more_of_what_it_deletes_than_its_bound() {
    let mut w = World::new();
    let run = w.at(0).resident("order");
    let largest = "x".repeat(PAYLOAD_BYTES_MAX);
    for i in 0..10 {
        w.record(&run, make::inline("r", &[&i.to_string()]), &largest).unwrap();
    }
    w.finish(&run, "done").unwrap();
    w.now = RETENTION_MS;
    let a_tick = TICK_DELETE_BYTES_MAX / PAYLOAD_BYTES_MAX;
    for left in [10 - a_tick, 10 - 2 * a_tick, 0] {
        assert_eq!(w.command(Command::Tick), Ok(Reply::Done));
        assert_eq!(MEMO.all(&w.kv, GROUP).len(), left);
    }
    assert_eq!(rows(&w), 0);
}

#[test]
fn a_large_memo_is_deleted_in_bounded_ticks() {
    const STEPS: usize = 10_000;
    let mut w = World::new();
    let run = w.at(0).resident("order");
    let record = |i: usize| {
        let key = make::inline("r", &[&i.to_string()]);
        Command::RecordStep(RecordStep { run: run.run, lease: run.lease, key, result: make::json("1") })
    };
    for from in (0..STEPS).step_by(5_000) {
        w.entry((from..from + 5_000).map(record).collect(), &[]);
    }
    w.finish(&run, "done").unwrap();
    w.now = RETENTION_MS;
    let mut ticks = 0;
    while w.run_outcome(run.run).is_ok() {
        let before = MEMO.all(&w.kv, GROUP).len();
        assert_eq!(w.command(Command::Tick), Ok(Reply::Done));
        assert!(before - MEMO.all(&w.kv, GROUP).len() <= TICK_DELETE_MAX);
        ticks += 1;
    }
    assert_eq!(ticks, STEPS.div_ceil(TICK_DELETE_MAX));
    assert_eq!(rows(&w), 0);
}

#[test]
fn a_step_that_ends_while_its_run_is_being_forgotten_leaves_nothing() {
    let mut w = World::new();
    let run = w.at(0).resident("order");
    for i in 0..TICK_DELETE_MAX + 100 {
        let key = make::inline("r", &[&i.to_string()]);
        let command = Command::RecordStep(RecordStep { run: run.run, lease: run.lease, key, result: make::json("1") });
        assert!(
            coda_engine::apply::apply(
                &mut w.kv,
                GROUP,
                w.index + 1,
                &coda_engine::entry::Entry { commands: vec![command], ..Default::default() }
            )
            .outcomes[0]
                .is_ok()
        );
        w.index += 1;
    }
    w.spawn(&run, &[make::step("a", &["k"]), make::child("b", &["k"])]);
    w.finish(&run, "done").unwrap();
    let a = w.lease("a").unwrap();
    w.at(RETENTION_MS);
    w.command(Command::Tick).unwrap();
    assert!(w.run_outcome(run.run).is_ok(), "half deleted");
    assert_eq!(w.complete(&a, "A"), Ok(Reply::Done));
    w.tick();
    let b = w.lease_run("b").unwrap();
    assert_eq!(w.finish(&b, "B"), Ok(Reply::Done));
    w.at(RETENTION_MS * 2).tick();
    assert_eq!(rows(&w), 0);
}
