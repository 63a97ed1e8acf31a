//! Memos have no bound of their own: whatever their size, they reach a worker of any speed, and hold nobody up.

use std::cell::Cell;
use std::collections::BTreeSet;

use coda_broker::config::{MEMO_WINDOW_BYTES_MAX, OUTBOX_BYTES_MAX};
use coda_client::{BoxError, Client, StartOptions, WorkflowContext};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, bytes_of};
use coda_node_tests::work::{Calls, run};
use coda_node_tests::{logs, soon, until};
use coda_protocol::cache_key::CacheKey;
use coda_protocol::frame::Frame;
use coda_protocol::ids::{GroupId, RunId, Work, WorkKind};
use coda_protocol::payload::Payload;
use coda_protocol::push::{MEMO_PAGES_OPEN, MemoPage, Push, RunLease};
use coda_protocol::reply::Reply;
use coda_protocol::request::{Credit, RecordStep, Release, Request, Resume, StepKey, StepKind, Subscribe};

const LARGE_BYTES: usize = 4_000_000;
/// More than may wait for a session, by half.
const LARGE_STEPS: u32 = (3 * OUTBOX_BYTES_MAX / 2 / LARGE_BYTES) as u32 + 1;

/// A raw worker of one workflow.
async fn serve(node: &TestNode, workflow: &str) -> Raw {
    let mut worker = node.raw().await.greet().await;
    worker.ask(Request::Resume(Resume { group: GroupId(1), held: Vec::new() })).await.expect("resumed");
    let subscribe = Subscribe { queue: "default".into(), tasks: Vec::new(), workflows: vec![workflow.into()] };
    worker.ask(Request::Subscribe(subscribe)).await.expect("subscribed");
    credit(&mut worker).await;
    worker
}

async fn credit(worker: &mut Raw) {
    let credit = Credit { queue: "default".into(), kind: WorkKind::Run, slots: 1 };
    worker.say_frame(&Frame::Request { id: 0, request: Request::Credit(credit) }).await;
}

async fn lease(worker: &mut Raw) -> RunLease {
    match worker.push().await {
        Push::Run(lease) => lease,
        other => panic!("not a run: {other:?}"),
    }
}

/// Records steps with results of this size, each made of its own byte.
async fn record(worker: &mut Raw, lease: &RunLease, steps: std::ops::Range<u32>, bytes: usize) {
    for n in steps {
        let key = StepKey { kind: StepKind::Inline, name: "part".into(), cache_key: CacheKey::auto(n) };
        let result = Payload::json(vec![n as u8; bytes]);
        let step = RecordStep { run: lease.run, lease: lease.lease, key, result: result.clone() };
        let id = 1_000 + u64::from(n);
        worker.payload(&bytes_of(&Frame::Request { id, request: Request::RecordStep(step) })).await;
        assert_eq!(worker.answer(id).await, Ok(Reply::Recorded(result)));
    }
}

async fn hand_back(worker: &mut Raw, lease: &RunLease) {
    let release = Release { work: Work::Run(lease.run), lease: lease.lease };
    assert_eq!(worker.ask(Request::Release(release)).await, Ok(Reply::Done));
}

/// A run with a memo of more than may wait for a session, held by nobody.
async fn huge(node: &TestNode, client: &Client) -> RunId {
    let mut worker = serve(node, "huge").await;
    let run = client.start(StartOptions::new("huge")).await.expect("started").id();
    let first = lease(&mut worker).await;
    record(&mut worker, &first, 0..LARGE_STEPS, LARGE_BYTES).await;
    record(&mut worker, &first, 1_000..1_100, 10).await;
    hand_back(&mut worker, &first).await;
    worker.close(1).await;
    run
}

/// What waits for the slowest session, once it does not grow any more.
async fn stalled(node: &TestNode) -> usize {
    let (before, same) = (Cell::new(0), Cell::new(0));
    until("nothing moves any more", || async {
        let now = node.node().usage().await.outbox_bytes_slowest;
        same.set(if now == before.replace(now) && now > 0 { same.get() + 1 } else { 0 });
        (same.get() == 20).then_some(now)
    })
    .await
}

fn check(page: &MemoPage, seen: &mut BTreeSet<CacheKey>) {
    for (key, outcome) in &page.items {
        assert!(seen.insert(key.cache_key.clone()), "{key:?} came twice");
        let result = outcome.as_ref().expect("a result");
        let all_same = result.data.iter().all(|byte| *byte == result.data[0]);
        assert!(all_same && [10, LARGE_BYTES].contains(&result.data.len()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memo_larger_than_what_may_wait_reaches_a_slow_worker_and_delays_nobody() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let run = huge(&node, &client).await;
    // The slow one asks for it and does not read.
    let mut slow = serve(&node, "huge").await;
    let most = stalled(&node).await;
    assert!(most > MEMO_WINDOW_BYTES_MAX / 4 && most <= MEMO_WINDOW_BYTES_MAX + (1 << 20), "{most}");
    // Another run of the same workflow, with a memo of its own, gets to another session meanwhile.
    let mut quick = serve(&node, "huge").await;
    client.start(StartOptions::new("huge")).await.unwrap();
    let first = lease(&mut quick).await;
    record(&mut quick, &first, 0..5, 100_000).await;
    hand_back(&mut quick, &first).await;
    credit(&mut quick).await;
    assert_eq!(lease(&mut quick).await.run, first.run);
    let mut items = 0;
    loop {
        match quick.push().await {
            Push::Memo(page) => items += page.items.len(),
            Push::MemoEnd { run, .. } if run == first.run => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(items, 5);
    // Now it reads, a frame at a time.
    let given = lease(&mut slow).await;
    assert_eq!((given.run, given.memo_pages), (run, MEMO_PAGES_OPEN));
    let mut seen = BTreeSet::new();
    loop {
        let waiting = node.node().usage().await.outbox_bytes_slowest;
        assert!(waiting <= MEMO_WINDOW_BYTES_MAX + (1 << 20), "{waiting}");
        match slow.push().await {
            Push::Memo(page) => check(&page, &mut seen),
            Push::MemoEnd { run: of, lease, .. } if (of, lease) == (run, given.lease) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen.len(), LARGE_STEPS as usize + 100);
    assert!(logs::warnings_about(slow.local()).is_empty());
    assert_eq!(node.node().usage().await.outbox_bytes, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memo_on_its_way_is_given_up_with_its_lease_or_its_connection() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    huge(&node, &client).await;
    // The lease is handed back in the middle: what was read is all that comes.
    let mut slow = serve(&node, "huge").await;
    stalled(&node).await;
    let given = lease(&mut slow).await;
    let release = Release { work: Work::Run(given.run), lease: given.lease };
    let id = slow.post(Request::Release(release)).await;
    assert_eq!(slow.answer(id).await, Ok(Reply::Done));
    until("what was read is sent", || async { (node.node().usage().await.outbox_bytes == 0).then_some(()) }).await;
    let pushes = slow.pushes_so_far().await;
    let ends = pushes.iter().filter(|push| matches!(push, Push::MemoEnd { .. })).count();
    let pages = pushes.iter().filter(|push| matches!(push, Push::Memo(_))).count();
    assert!(ends == 0 && pages < LARGE_STEPS as usize / 2, "{ends} ends, {pages} pages");
    slow.close(1).await;
    // The connection goes in the middle.
    let slow = serve(&node, "huge").await;
    stalled(&node).await;
    slow.close(1).await;
    until("nothing waits for it", || async { (node.node().usage().await.outbox_bytes == 0).then_some(()) }).await;
    // And whoever comes next gets all of it.
    let mut next = serve(&node, "huge").await;
    lease(&mut next).await;
    let mut seen = BTreeSet::new();
    loop {
        match next.push().await {
            Push::Memo(page) => check(&page, &mut seen),
            Push::MemoEnd { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen.len(), LARGE_STEPS as usize + 100);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_remembers_more_than_may_wait_goes_on_where_it_was_at_another_worker() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let calls = Calls::default();
    let worker = || {
        let calls = calls.clone();
        node.worker().workflow("huge", move |cx: WorkflowContext, steps: u64| {
            let calls = calls.clone();
            async move {
                let mut sum = 0;
                for n in 0..steps {
                    let counted = calls.clone();
                    let part: String = cx
                        .run("part", (n as i64,), move || {
                            counted.call(n);
                            async move { Ok::<_, BoxError>(format!("{n} {}", "7".repeat(LARGE_BYTES))) }
                        })
                        .await?;
                    sum += part.split(' ').next().unwrap_or_default().parse::<u64>()?;
                }
                let last: u64 = cx.spawn_task("gate", sum).await?;
                Ok::<_, BoxError>(last)
            }
        })
    };
    let first = run(worker());
    let started = client.start_json("huge", &LARGE_STEPS).await.unwrap();
    until("it waits for its last step", || async {
        let described = client.describe_queue("default").await.unwrap();
        described.lanes.iter().any(|lane| lane.kind == WorkKind::Task && lane.ready == 1).then_some(())
    })
    .await;
    first.stop().await;
    let second = run(worker());
    let gate = run(node.worker().task("gate", |n: u64| async move { Ok::<_, BoxError>(n) }));
    let sum: u64 = (0..u64::from(LARGE_STEPS)).sum();
    assert_eq!(soon("a result", started.result_json::<u64>()).await.unwrap(), sum);
    assert_eq!(calls.count(), LARGE_STEPS as usize, "nothing is executed twice");
    second.stop().await;
    gate.stop().await;
    node.stop().await;
}
