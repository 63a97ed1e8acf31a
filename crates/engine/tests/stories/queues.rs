//! Order within a queue, delays, pauses, and why work waits.

use std::collections::BTreeMap;

use coda_protocol::ids::{Millis, TaskId, Timestamp, WorkKind};
use coda_protocol::limits::{LIST_ROWS_MAX, LIST_SCAN_ROWS_MAX, TICK_DUE_MAX};
use coda_protocol::push::TaskLease;
use coda_protocol::reply::{QueueCursor, QueueList, QueueSummary, Reply, Wait, WorkState};

use crate::support::{GROUP, Offer, W1, W2, World, make, task_leases};
use coda_engine::effect::Effect;
use coda_engine::entry::Lane;
use coda_engine::query;
use coda_engine::recover::recover;
use coda_engine::rows::{LaneRow, QueueRow};
use coda_engine::tables::{LANE, QUEUE};

fn ids(leases: &[TaskLease]) -> Vec<TaskId> {
    leases.iter().map(|lease| lease.task).collect()
}

#[test]
fn higher_priority_first_and_fifo_inside_a_priority() {
    let mut w = World::new();
    let tasks = [4, 9, 0, 4, 9].map(|priority| w.submit_with("t", |submit| submit.priority = priority));
    let order = [1, 4, 0, 3, 2].map(|i: usize| tasks[i]);
    assert_eq!(ids(&w.lease_as(W1, &["t"], 10)), order);
}

#[test]
fn names_in_one_queue_form_one_line() {
    let mut w = World::new();
    let names = ["b", "a", "c", "a", "b"];
    let mut order: Vec<_> = names.iter().map(|name| w.submit(name)).collect();
    order.insert(0, w.submit_with("c", |submit| submit.priority = 5));
    assert_eq!(ids(&w.lease_as(W1, &["a", "b", "c"], 10)), order);
}

#[test]
fn a_worker_gets_only_what_it_can_execute() {
    let mut w = World::new();
    let (_, b) = (w.submit("a"), w.submit("b"));
    assert_eq!(ids(&w.lease_as(W1, &["b", "unused"], 10)), [b]);
    let elsewhere = Offer { queue: "other".into(), ..Offer::tasks(W1, &["a"], 1) };
    assert_eq!(w.entry(vec![], &[elsewhere]).unused, [1]);
    let runs = Offer { kind: WorkKind::Run, ..Offer::tasks(W1, &["a"], 1) };
    assert_eq!(w.entry(vec![], &[runs]).unused, [1]);
}

#[test]
fn a_retried_task_comes_before_younger_ones_once_it_is_due() {
    let mut w = World::new();
    let old = w.at(0).submit_with("t", |submit| submit.policy = make::retries(1));
    let lease = w.lease("t").unwrap();
    w.fail(&lease, "no").unwrap();
    let young = w.submit("t");
    w.at(1_000).tick();
    assert_eq!(ids(&w.lease_as(W1, &["t"], 2)), [old, young]);
}

#[test]
fn a_lane_that_holds_only_delayed_work_says_when_the_first_is_due() {
    let mut w = World::new();
    let waits = |w: &World| w.lane("t").map(|lane| lane.waits);
    // Others that are due before say nothing about this lane.
    w.at(50).submit_with("other", |submit| submit.delay = Millis(1));
    w.submit_with("t", |submit| submit.delay = Millis(2_000));
    w.submit_with("t", |submit| submit.delay = Millis(5_000));
    assert_eq!(waits(&w), Some(Wait::DelayedUntil(Timestamp(2_050))));
    w.submit_with("t", |submit| submit.policy = make::retries(1));
    assert_eq!(waits(&w), Some(Wait::Soon), "what is ready does not wait for the time");
    let lease = w.lease("t").unwrap();
    assert_eq!(waits(&w), Some(Wait::DelayedUntil(Timestamp(2_050))));
    w.fail(&lease, "no").unwrap();
    assert_eq!(waits(&w), Some(Wait::RetryingAt(Timestamp(1_050))), "its retry comes before the others");
    w.at(1_050).tick();
    assert_eq!(waits(&w), Some(Wait::Soon));
    let lease = w.lease("t").unwrap();
    w.complete(&lease, "1").unwrap();
    w.at(2_050).tick();
    let lease = w.lease("t").unwrap();
    w.complete(&lease, "1").unwrap();
    assert_eq!(waits(&w), Some(Wait::DelayedUntil(Timestamp(5_050))));
    w.at(5_050).tick();
    let lease = w.lease("t").unwrap();
    w.complete(&lease, "1").unwrap();
    assert_eq!(waits(&w), None);
}

#[test]
fn a_delayed_task_is_never_early() {
    let mut w = World::new();
    let task = w.at(50).submit_with("t", |submit| submit.delay = Millis(100));
    assert!(w.effects.contains(&Effect::WakeAt(Timestamp(150))));
    let described = query::task(&w.kv, GROUP, task).unwrap();
    assert_eq!((described.state, described.waits), (WorkState::Delayed, Wait::DelayedUntil(Timestamp(150))));
    w.at(149).tick();
    assert_eq!(w.lease("t"), None);
    assert!(w.at(149).entry(vec![], &[]).effects.is_empty());
    w.at(150).tick();
    assert_eq!(w.lease("t").unwrap().task, task);
}

#[test]
fn a_delayed_run_is_never_early_and_survives_a_new_leader() {
    let mut w = World::new();
    w.at(0).start_with("order", |start| start.delay = Millis(100));
    assert_eq!(recover(&w.kv, GROUP), [Effect::WakeAt(Timestamp(100))]);
    assert_eq!(w.lease_run("order"), None);
    w.at(100).tick();
    assert!(w.lease_run("order").is_some());
}

#[test]
fn time_never_goes_back() {
    let mut w = World::new();
    w.at(1_000).submit("t");
    let late = w.at(5).submit_with("t", |submit| submit.delay = Millis(10));
    assert_eq!(query::task(&w.kv, GROUP, late).unwrap().waits, Wait::DelayedUntil(Timestamp(1_010)));
}

#[test]
fn what_is_due_is_handled_in_bounded_ticks() {
    let mut w = World::new();
    for i in 0..TICK_DUE_MAX as u64 * 2 + 1 {
        w.at(0).submit_with("t", |submit| submit.delay = Millis(7 + i % 3));
    }
    assert_eq!(w.at(20).tick(), 3);
    assert_eq!(w.lane("t").unwrap().ready, TICK_DUE_MAX as u64 * 2 + 1);
}

#[test]
fn a_paused_queue_hands_out_nothing_and_says_so() {
    let mut w = World::new();
    let task = w.submit("t");
    w.pause("q");
    assert_eq!(w.lease("t"), None);
    assert_eq!(w.lanes_ready(), [], "no hint to hand out what may not be handed out");
    assert_eq!(w.lane("t").unwrap().waits, Wait::QueuePaused);
    assert_eq!(query::task(&w.kv, GROUP, task).unwrap().waits, Wait::QueuePaused);
    assert_eq!(recover(&w.kv, GROUP), []);
    let summary = &query::queues(&w.kv, GROUP, None).queues[0];
    assert_eq!((summary.queue.as_str(), summary.paused, summary.ready), ("q", true, 1));
    w.unpause("q");
    assert_eq!(w.effects, [Effect::QueueUnpaused("q".into())], "however many lanes it has");
    assert_eq!(w.lease("t").unwrap().task, task);
}

#[test]
fn a_paused_queue_lets_running_work_end() {
    let mut w = World::new();
    w.submit("t");
    let lease = w.lease("t").unwrap();
    w.pause("q");
    assert_eq!(w.complete(&lease, "done"), Ok(Reply::Done));
}

#[test]
fn a_queue_that_was_paused_once_leaves_nothing_behind() {
    let mut w = World::new();
    w.at(0).pause("q");
    assert_eq!(query::queues(&w.kv, GROUP, None).queues.len(), 1, "paused queues are listed without work");
    w.unpause("q");
    w.unpause("never paused");
    assert_eq!(query::queues(&w.kv, GROUP, None).queues, []);
    assert!(w.kv.map.is_empty());
}

#[test]
fn work_whose_name_nobody_knows_waits_and_can_be_seen() {
    let mut w = World::new();
    let task = w.at(30).submit("unknown");
    assert_eq!(w.lanes_ready()[0].name, "unknown");
    assert_eq!(w.lease("known"), None);
    let lane = w.lane("unknown").unwrap();
    assert_eq!((lane.ready, lane.oldest, lane.waits), (1, Some(Timestamp(30)), Wait::Soon));
    assert!(recover(&w.kv, GROUP).iter().any(|effect| matches!(effect, Effect::LaneReady(l) if l.name == "unknown")));
    w.at(1_000_000_000).tick();
    assert_eq!(w.lease("unknown").unwrap().task, task, "nothing is ever dropped");
}

#[test]
fn an_idle_lane_is_gone_from_the_description() {
    let mut w = World::new();
    w.submit("t");
    let lease = w.lease("t").unwrap();
    assert_eq!((w.lane("t").unwrap().leased, w.lane("t").unwrap().waits), (1, Wait::No));
    w.complete(&lease, "done").unwrap();
    assert_eq!(w.lane("t"), None);
}

/// All pages of the list of queues, as a client puts them together.
fn all_queues(w: &World) -> (BTreeMap<String, QueueSummary>, usize) {
    let (mut all, mut pages, mut from) = (QueueList::default(), 0, None::<QueueCursor>);
    loop {
        let page = query::queues(&w.kv, GROUP, from.as_ref().map(|cursor| &cursor.place));
        assert!(page.queues.len() <= LIST_ROWS_MAX);
        pages += 1;
        from = all.add(page);
        let Some(next) = &from else { break };
        assert_eq!(next.check(), Ok(()));
    }
    (all.into_queues().into_iter().map(|queue| (queue.queue.to_string(), queue)).collect(), pages)
}

#[test]
fn queues_are_listed_in_pages_that_add_up() {
    let mut w = World::new();
    let lane = |queue: &str, kind, name: &str| Lane { queue: queue.into(), kind, name: name.into() };
    let row = LaneRow { leased: 1, delayed: 2, ..LaneRow::default() };
    // Names of different lengths: their keys do not sort as they do.
    for i in 0..LIST_ROWS_MAX * 2 {
        LANE.put(&mut w.kv, GROUP, &lane(&i.to_string(), WorkKind::Task, "t"), &row);
    }
    // One queue holds more names than a page reads, another is only paused, a third both.
    for i in 0..LIST_SCAN_ROWS_MAX + 500 {
        LANE.put(&mut w.kv, GROUP, &lane("wide", WorkKind::Run, &i.to_string()), &row);
    }
    for i in 0..LIST_ROWS_MAX + 1 {
        QUEUE.put(&mut w.kv, GROUP, &format!("paused-{i}").into(), &QueueRow { paused: true });
    }
    QUEUE.put(&mut w.kv, GROUP, &"wide".into(), &QueueRow { paused: true });
    let (all, pages) = all_queues(&w);
    assert_eq!((all.len(), pages), (LIST_ROWS_MAX * 3 + 2, 5));
    let wide = &all["wide"];
    let lanes = LIST_SCAN_ROWS_MAX as u64 + 500;
    assert_eq!((wide.paused, wide.leased, wide.delayed), (true, lanes, 2 * lanes));
    assert!(all.values().filter(|queue| queue.queue.starts_with("paused-")).all(|queue| queue.paused));
    assert_eq!(all.values().map(|queue| queue.leased).sum::<u64>(), lanes + 2 * LIST_ROWS_MAX as u64);
}

#[test]
fn a_description_lists_some_lanes_and_counts_them_all_up_to_a_bound() {
    let mut w = World::new();
    let row = LaneRow { leased: 1, ..LaneRow::default() };
    let fill = |w: &mut World, lanes: std::ops::Range<usize>| {
        for i in lanes {
            let lane = Lane { queue: "q".into(), kind: WorkKind::Task, name: i.to_string().into() };
            LANE.put(&mut w.kv, GROUP, &lane, &row);
        }
    };
    fill(&mut w, 0..LIST_ROWS_MAX + 7);
    let list = query::lanes(&w.kv, GROUP, &"q".into());
    let total = LIST_ROWS_MAX as u64 + 7;
    assert_eq!((list.lanes.len(), list.lanes_total, list.counted_all), (LIST_ROWS_MAX, total, true));
    assert_eq!(list.summary.leased, total);
    fill(&mut w, LIST_ROWS_MAX + 7..LIST_SCAN_ROWS_MAX + 1);
    let list = query::lanes(&w.kv, GROUP, &"q".into());
    assert_eq!((list.lanes_total, list.counted_all), (LIST_SCAN_ROWS_MAX as u64, false));
}

/// One queue's payloads fill every entry; the other queue is served all the same.
#[test]
fn a_queue_of_large_payloads_does_not_starve_another() {
    let mut w = World::new();
    let big = make::json(&"x".repeat(3 << 20));
    for _ in 0..12 {
        w.submit_with("t", |submit| submit.args = big.clone());
    }
    w.submit_with("t", |submit| submit.queue = "z".into());
    let z = Offer { queue: "z".into(), ..Offer::tasks(W2, &["t"], 1) };
    let served = (0..2).any(|_| {
        let applied = w.entry(vec![], &[Offer::tasks(W1, &["t"], 4), z.clone()]);
        task_leases(&applied.effects).iter().any(|lease| lease.queue == "z")
    });
    assert!(served);
}
