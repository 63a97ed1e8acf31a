//! Rules 1 to 3: results are recorded under their key, and found there by every later execution.

use coda_protocol::cache_key::CacheKey;
use coda_protocol::ids::{LeaseId, RunId, Work};
use coda_protocol::limits::{
    FRAME_BYTES_MAX, LIST_READ_BYTES_MAX, MEMO_PAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, SPAWN_REPLY_BYTES_MAX,
};
use coda_protocol::payload::{Failure, outcome_bytes};
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::StepKey;

use crate::support::{GROUP, W1, W2, World, make, ok, text};
use coda_engine::effect::Effect;
use coda_engine::query::{self, MemoRead};

#[test]
fn a_recorded_result_is_returned_to_the_next_execution_without_running_the_task() {
    let mut w = World::new();
    let first = w.resident("order");
    w.do_step(&first, &make::step("charge", &["7"]), "paid");
    w.at(10).end_session(W1);
    let second = w.lease_run_as(W2, "order").unwrap();
    assert!(second.lease > first.lease);
    assert_eq!(w.memo(second.run)[&make::step("charge", &["7"]).key], ok("paid"));
    assert_eq!(w.spawn(&second, &[make::step("charge", &["7"])]), [StepState::Ended(ok("paid"))]);
    assert_eq!(w.lease("charge"), None);
}

#[test]
fn the_order_of_spawns_does_not_matter() {
    let mut w = World::new();
    let first = w.resident("order");
    w.do_step(&first, &make::step("a", &["1"]), "A");
    w.do_step(&first, &make::step("b", &["1"]), "B");
    w.end_session(W1);
    let second = w.lease_run("order").unwrap();
    let states = w.spawn(&second, &[make::step("b", &["1"]), make::step("a", &["1"])]);
    assert_eq!(states, [StepState::Ended(ok("B")), StepState::Ended(ok("A"))]);
}

#[test]
fn keys_are_unambiguous() {
    let mut w = World::new();
    let run = w.resident("order");
    let keys: [&[&str]; 5] = [&["ab"], &["a", "b"], &["a"], &[], &["", "ab"]];
    let steps: Vec<_> = keys.iter().map(|key| make::step("t", key)).collect();
    w.spawn(&run, &steps);
    assert_eq!(w.lease_as(W2, &["t"], 10).len(), keys.len(), "each key is work of its own");
}

#[test]
fn the_same_key_of_another_task_or_of_another_run_is_other_work() {
    let mut w = World::new();
    let (one, two) = (w.resident("order"), w.resident("order"));
    w.do_step(&one, &make::step("a", &["k"]), "A of one");
    assert_eq!(
        w.spawn(&one, &[make::step("b", &["k"]), make::child("a", &["k"])]),
        [StepState::Pending, StepState::Pending]
    );
    assert_eq!(w.spawn(&two, &[make::step("a", &["k"])]), [StepState::Pending]);
}

#[test]
fn concurrent_spawns_of_one_key_are_one_execution_and_every_waiter_gets_the_one_result() {
    let mut w = World::new();
    let run = w.resident("order");
    let step = make::step("charge", &["7"]);
    assert_eq!(w.spawn(&run, &[step.clone(), step.clone()]), [StepState::Pending, StepState::Pending]);
    assert_eq!(w.spawn(&run, std::slice::from_ref(&step)), [StepState::Pending]);
    let tasks = w.lease_as(W2, &["charge"], 10);
    assert_eq!(tasks.len(), 1);
    assert_eq!(w.complete(&tasks[0], "paid"), Ok(Reply::Done));
    let told = w.steps_ended();
    assert_eq!((told.len(), &told[0].outcome, told[0].steps_ended), (1, &ok("paid"), 1));
    assert_eq!(w.spawn(&run, &[step]), [StepState::Ended(ok("paid"))]);
}

#[test]
fn automatic_keys_count_the_spawns_of_a_name_and_are_durable() {
    let mut w = World::new();
    let first = w.resident("order");
    w.do_step(&first, &make::auto("t", 0), "zero");
    w.do_step(&first, &make::auto("t", 1), "one");
    w.end_session(W1);
    let second = w.lease_run("order").unwrap();
    let states = w.spawn(&second, &[make::auto("t", 0), make::auto("t", 1), make::auto("t", 2), make::auto("u", 0)]);
    let known = [StepState::Ended(ok("zero")), StepState::Ended(ok("one"))];
    assert_eq!(states, [known.as_slice(), &[StepState::Pending, StepState::Pending]].concat());
}

#[test]
fn a_step_without_caching_runs_again_on_every_replay() {
    let mut w = World::new();
    let first = w.resident("order");
    w.do_step(&first, &make::fresh("now", first.lease, 0), "monday");
    w.end_session(W1);
    let second = w.lease_run("order").unwrap();
    assert!(w.memo(second.run).is_empty(), "no later execution can ask for it");
    w.do_step(&second, &make::fresh("now", second.lease, 0), "tuesday");
    assert_eq!(w.steps_ended()[0].outcome, ok("tuesday"));
}

#[test]
fn a_session_that_is_back_finds_the_uncached_results_of_its_own_execution() {
    let mut w = World::new();
    let run = w.resident("order");
    let step = make::fresh("now", run.lease, 0);
    w.do_step(&run, &step, "monday");
    assert_eq!(w.resume(W1, &[run.lease]), []);
    assert!(matches!(w.effects[..], [Effect::MemoWanted { session: W1, .. }]));
    assert_eq!(w.memo(run.run)[&step.key], ok("monday"));
}

#[test]
fn the_first_recorded_result_of_an_inline_step_is_the_one_that_everybody_sees() {
    let mut w = World::new();
    let first = w.resident("order");
    let key = make::inline("random", &["x"]);
    assert_eq!(w.record(&first, key.clone(), "4"), Ok(Reply::Recorded(make::json("4"))));
    assert_eq!(w.record(&first, key.clone(), "5"), Ok(Reply::Recorded(make::json("4"))));
    w.end_session(W1);
    let second = w.lease_run("order").unwrap();
    assert_eq!(w.memo(second.run)[&key], ok("4"));
    assert_eq!(w.record(&second, key, "6"), Ok(Reply::Recorded(make::json("4"))));
}

#[test]
fn inline_steps_are_not_spawned_and_spawned_steps_are_not_recorded() {
    let mut w = World::new();
    let run = w.resident("order");
    let task = make::step("t", &["k"]);
    assert_eq!(w.record(&run, task.key.clone(), "1"), Err(Reject::WrongStepKind));
    let inline = coda_protocol::request::SpawnStep { key: make::inline("t", &["k"]), ..task };
    assert_eq!(w.try_spawn(&run, vec![inline]), Err(Reject::WrongStepKind));
}

#[test]
fn a_step_may_end_in_the_entry_that_spawns_it_again() {
    let mut w = World::new();
    let run = w.resident("order");
    w.spawn(&run, &[make::step("t", &["k"])]);
    let task = w.lease("t").unwrap();
    let complete = coda_protocol::request::CompleteTask { task: task.task, lease: task.lease, outcome: ok("1") };
    let spawn = coda_protocol::request::Spawn { run: run.run, lease: run.lease, steps: vec![make::step("t", &["k"])] };
    use coda_engine::command::Command;
    let applied = w.entry(vec![Command::CompleteTask(complete), Command::Spawn(spawn)], &[]);
    assert_eq!(applied.outcomes[1], Ok(Reply::Spawned(vec![StepState::Ended(ok("1"))])));
}

#[test]
fn a_large_memo_comes_in_pages_that_fit_a_frame_failures_included() {
    let mut w = World::new();
    let run = w.resident("order");
    let big = "x".repeat(60 << 10);
    for i in 0..40 {
        let step = make::step("t", &[&i.to_string()]);
        w.spawn(&run, &[step]);
        let task = w.lease("t").unwrap();
        let outcome = if i % 2 == 0 { ok(&big) } else { Err(Failure { traceback: big.clone(), ..make::failure("") }) };
        w.end_task(&task, outcome).unwrap();
    }
    let pages = pages(&w, run.run);
    let sizes: Vec<usize> =
        pages.iter().map(|page| page.items.iter().map(|(_, outcome)| outcome_bytes(outcome)).sum()).collect();
    assert!(sizes.iter().all(|bytes| *bytes <= MEMO_PAGE_BYTES_MAX), "{sizes:?}");
    assert_eq!(pages.iter().map(|page| page.items.len()).sum::<usize>(), 40);
    assert!(pages.iter().all(|page| page.steps_ended == 40 && page.lease == Some(run.lease)));
}

/// The memo as it is sent: each page is read when the one before it has gone.
fn pages(w: &World, run: RunId) -> Vec<MemoRead> {
    let mut pages = vec![query::memo_page(&w.kv, GROUP, run, None)];
    while let Some(after) = pages.last().and_then(|page| page.next.clone()) {
        pages.push(query::memo_page(&w.kv, GROUP, run, Some(&after)));
    }
    pages
}

#[test]
fn a_result_of_the_largest_size_is_a_page_of_its_own() {
    let mut w = World::new();
    let run = w.resident("order");
    let largest = "x".repeat(PAYLOAD_BYTES_MAX);
    for i in 0..3 {
        w.record(&run, make::inline("r", &[&i.to_string()]), &largest).unwrap();
        w.record(&run, make::inline("s", &[&i.to_string()]), "1").unwrap();
    }
    let pages = pages(&w, run.run);
    let frame = |page: &MemoRead| coda_protocol::codec::encode(&page.items).len();
    assert!(pages.iter().all(|page| frame(page) < FRAME_BYTES_MAX));
    assert_eq!(pages.iter().map(|page| page.items.len()).collect::<Vec<_>>(), [1, 1, 1, 3]);
}

#[test]
fn what_a_page_leaves_out_costs_reading_too_and_is_bounded() {
    let mut w = World::new();
    let first = w.resident("order");
    let big = "x".repeat(60 << 10);
    for i in 0..40 {
        let key = StepKey { cache_key: CacheKey::fresh(first.lease, i), ..make::inline("r", &["k"]) };
        w.record(&first, key, &big).unwrap();
    }
    w.release(Work::Run(first.run), first.lease).unwrap();
    let second = w.lease_run("order").unwrap();
    w.record(&second, make::inline("t", &["k"]), "1").unwrap();
    let pages = pages(&w, first.run);
    assert!(pages.len() >= 40 * 60 / 256, "{}", pages.len());
    assert_eq!(pages.iter().flat_map(|page| &page.items).count(), 1);
}

#[test]
fn an_answer_to_a_spawn_fits_a_frame_and_what_does_not_fit_is_pushed() {
    let mut w = World::new();
    let run = w.resident("order");
    let steps: Vec<_> = (0..8).map(|i| make::step("t", &[&i.to_string()])).collect();
    let big = "x".repeat(SPAWN_REPLY_BYTES_MAX / 3);
    steps.iter().for_each(|step| w.do_step(&run, step, &big));
    let states = w.spawn(&run, &steps);
    let ended = states.iter().filter(|state| **state == StepState::Ended(ok(&big))).count();
    assert_eq!((ended, w.steps_ended().len()), (3, 5));
    assert!(w.steps_ended().iter().all(|step| step.lease == run.lease && text(step.outcome.as_ref().unwrap()) == big));
    assert_eq!(w.lease("t"), None, "none of them runs again");
}

#[test]
fn the_description_of_a_run_with_many_large_failures_fits_a_frame() {
    let mut w = World::new();
    let run = w.resident("order");
    for i in 0..100 {
        w.spawn(&run, &[make::step("t", &[&i.to_string()])]);
        let task = w.lease("t").unwrap();
        w.end_task(&task, Err(Failure { traceback: "x".repeat(60 << 10), ..make::failure("") })).unwrap();
    }
    let described = query::run(&w.kv, GROUP, run.run).unwrap();
    assert!(described.truncated);
    assert!(coda_protocol::codec::encode(&described).len() < FRAME_BYTES_MAX);
}

#[test]
fn the_description_of_a_run_with_many_large_results_reads_a_bounded_part_of_them() {
    let mut w = World::new();
    let run = w.resident("order");
    let largest = "x".repeat(PAYLOAD_BYTES_MAX);
    for i in 0..8 {
        w.record(&run, make::inline("r", &[&i.to_string()]), &largest).unwrap();
    }
    let described = query::run(&w.kv, GROUP, run.run).unwrap();
    assert_eq!((described.steps.len(), described.truncated), (LIST_READ_BYTES_MAX / PAYLOAD_BYTES_MAX, true));
}

#[test]
fn only_the_execution_that_holds_the_run_may_add_to_its_memo() {
    let mut w = World::new();
    let first = w.resident("order");
    w.end_session(W1);
    let second = w.lease_run("order").unwrap();
    assert_eq!(w.try_spawn(&first, vec![make::step("t", &["k"])]), Err(Reject::StaleLease));
    assert_eq!(w.record(&first, make::inline("r", &["k"]), "1"), Err(Reject::StaleLease));
    let forged = coda_protocol::push::RunLease { lease: LeaseId(u64::MAX), ..second };
    assert_eq!(w.try_spawn(&forged, vec![make::step("t", &["k"])]), Err(Reject::StaleLease));
}
