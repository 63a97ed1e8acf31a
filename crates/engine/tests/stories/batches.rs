//! Grants ride on entries: what a command makes ready is leased in the same step.

use coda_protocol::ids::{TaskId, WorkKind};
use coda_protocol::limits::{LEASE_BYTES_PER_ENTRY_MAX, LEASES_PER_ENTRY_MAX};
use coda_protocol::reply::Reply;
use coda_protocol::request::{CompleteTask, ParkRun, Spawn};

use crate::support::{GROUP, Offer, W1, W2, W3, World, make, ok, run_leases, task_leases};
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Entry, Grant};

fn submit(id: u8, name: &str) -> Command {
    Command::SubmitTask(make::submit(TaskId([id; 16]), name))
}

#[test]
fn submit_and_lease_are_one_entry() {
    let mut w = World::new();
    let applied = w.entry(vec![submit(7, "t")], &[Offer::tasks(W1, &["t"], 1)]);
    assert_eq!(applied.outcomes, [Ok(Reply::Started { existed: false })]);
    assert_eq!(task_leases(&applied.effects)[0].task, TaskId([7; 16]));
    assert_eq!(applied.unused, [0]);
}

#[test]
fn complete_and_the_next_lease_are_one_entry() {
    let mut w = World::new();
    w.submit("t");
    let next = w.submit("t");
    let first = w.lease("t").unwrap();
    let complete = Command::CompleteTask(CompleteTask { task: first.task, lease: first.lease, outcome: ok("1") });
    let applied = w.entry(vec![complete], &[Offer::tasks(W1, &["t"], 1)]);
    assert_eq!(task_leases(&applied.effects)[0].task, next);
}

#[test]
fn a_step_of_a_chain_is_one_entry() {
    let mut w = World::new();
    let run = w.resident("order");
    let spawn = |name| {
        let steps = vec![make::step(name, &["k"])];
        Command::Spawn(Spawn { run: run.run, lease: run.lease, steps })
    };
    let applied = w.entry(vec![spawn("a")], &[Offer::tasks(W2, &["a", "b"], 1)]);
    let a = &task_leases(&applied.effects)[0];
    assert_eq!((a.name.as_str(), a.run), ("a", Some(run.run)));
    let complete = Command::CompleteTask(CompleteTask { task: a.task, lease: a.lease, outcome: ok("A") });
    let applied = w.entry(vec![complete, spawn("b")], &[Offer::tasks(W2, &["a", "b"], 1)]);
    assert_eq!(task_leases(&applied.effects)[0].name, "b");
    assert_eq!(w.steps_ended()[0].outcome, ok("A"));
}

#[test]
fn a_run_may_be_parked_woken_and_leased_in_one_entry() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("a", &["k"])]);
    let a = w.lease("a").unwrap();
    let park = Command::ParkRun(ParkRun { run: run.run, lease: run.lease, seen: 0 });
    let complete = Command::CompleteTask(CompleteTask { task: a.task, lease: a.lease, outcome: ok("A") });
    let applied = w.entry(vec![park, complete], &[Offer::runs(W2, &["order"], 1)]);
    assert_eq!(applied.outcomes, [Ok(Reply::Done), Ok(Reply::Done)]);
    let again = &run_leases(&applied.effects)[0];
    assert_eq!((again.run, again.steps_ended), (run.run, 1));
}

#[test]
fn grants_spread_over_sessions_and_what_is_unused_comes_back() {
    let mut w = World::new();
    let commands = (1..=6).map(|id| submit(id, "t")).collect();
    let offers = [
        Offer::tasks(W1, &["t"], 4),
        Offer::tasks(W2, &["t"], 1),
        Offer::tasks(W3, &["t"], 4),
        Offer::runs(W1, &["t"], 3),
    ];
    let applied = w.entry(commands, &offers);
    assert_eq!(applied.unused, [1, 0, 2, 3]);
    assert_eq!(task_leases(&applied.effects).len(), 6);
}

#[test]
fn an_entry_grants_at_most_so_many_leases_and_hints_at_the_rest() {
    let mut w = World::new();
    let command = |i: u16| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&i.to_be_bytes());
        Command::SubmitTask(make::submit(TaskId(id), "t"))
    };
    let count = LEASES_PER_ENTRY_MAX + 5;
    let commands = (0..count as u16).map(command).collect();
    let applied = w.entry(commands, &[Offer::tasks(W1, &["t"], u32::MAX)]);
    assert_eq!(task_leases(&applied.effects).len(), LEASES_PER_ENTRY_MAX);
    assert_eq!(applied.unused, [u32::MAX - LEASES_PER_ENTRY_MAX as u32]);
    assert!(applied.effects.iter().any(|effect| matches!(effect, Effect::LaneReady(_))));
    assert_eq!(w.lease_as(W1, &["t"], 100).len(), 5);
}

#[test]
fn an_entry_leases_at_most_so_many_bytes() {
    let mut w = World::new();
    const EACH: usize = 1 << 20;
    let big = make::json(&"x".repeat(EACH));
    for _ in 0..12 {
        w.submit_with("t", |submit| submit.args = big.clone());
    }
    let leased = w.lease_as(W1, &["t"], 100).len();
    assert_eq!(leased, LEASE_BYTES_PER_ENTRY_MAX / EACH);
    assert_eq!(w.lease_as(W1, &["t"], 100).len(), 12 - leased);
}

#[test]
fn a_grant_that_names_no_set_leases_nothing() {
    let mut w = World::new();
    w.submit("t");
    let grant = Grant { session: W1, queue: "q".into(), kind: WorkKind::Task, names: 9, slots: 2 };
    let applied = w.apply(&Entry { grants: vec![grant], ..Entry::default() });
    assert_eq!(applied.unused, [2]);
}

#[test]
fn lanes_that_hold_nothing_may_be_named() {
    let mut w = World::new();
    let lane = coda_engine::entry::Lane { queue: "q".into(), kind: WorkKind::Task, name: "none".into() };
    let entry = Entry { lanes: vec![lane], ..Entry::default() };
    assert_eq!(w.apply(&entry).effects, []);
    assert!(w.kv.map.is_empty());
}

#[test]
fn a_bad_command_does_not_disturb_its_neighbours() {
    let mut w = World::new();
    let mut bad = make::submit(TaskId([1; 16]), "t");
    bad.priority = 200;
    let applied = w.entry(vec![submit(2, "t"), Command::SubmitTask(bad), submit(3, "t")], &[]);
    assert_eq!(applied.outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(coda_engine::tables::TASK.all(&w.kv, GROUP).len(), 2);
}
