//! The Rust worker: functions executed, steps spawned and recorded, leases lost, drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coda_client::protocol::cache_key::{CacheKey, KeyPart};
use coda_client::protocol::ids::{LeaseId, RunId, TaskId, Work};
use coda_client::protocol::limits::SPAWN_STEPS_MAX;
use coda_client::protocol::payload::{Failure, Payload, WorkOutcome};
use coda_client::protocol::push::{MemoPage, Push, StepEnded};
use coda_client::protocol::reject::Reject;
use coda_client::protocol::reply::{Reply, StepState};
use coda_client::protocol::request::{ParkRun, Release, Request, Spawn, StepKey, StepKind};
use coda_client::{BoxError, ClientError, Failed, StepFailed, Worker, WorkerBuilder, WorkflowContext};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::node::{Node, Peer, within};
use crate::worker_link::{QUEUE, run_lease, task_key, task_lease};

struct Story {
    peer: Peer,
    shutdown: oneshot::Sender<()>,
    worker: JoinHandle<Result<(), ClientError>>,
}

impl Story {
    async fn begin(register: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Self {
        let node = Node::start();
        let builder = Worker::builder(node.options()).queue(QUEUE).task("unused", async |()| Ok::<_, BoxError>(()));
        // Both kinds always, so that every worker greets with four frames.
        let builder = builder.workflow("unused", async |_: WorkflowContext, ()| Ok::<_, BoxError>(()));
        let worker = register(builder).build().unwrap();
        let (shutdown, told) = oneshot::channel();
        let worker = tokio::spawn(worker.run_until(async { drop(told.await) }));
        let mut peer = node.accept().await;
        peer.worker_greeting().await;
        Self { peer, shutdown, worker }
    }

    /// The next request but credit; those only show that a slot is free.
    async fn asked(&mut self) -> (u64, Request) {
        loop {
            let (id, request) = self.peer.next().await;
            if id != 0 {
                return (id, request);
            }
        }
    }

    async fn execute_task(&mut self, n: u8, args: &'static str) -> WorkOutcome {
        self.peer.push(Push::Task(task_lease(n, Payload::json(args)))).await;
        let (id, Request::CompleteTask(done)) = self.asked().await else { panic!() };
        self.peer.answer(id, Reply::Done).await;
        done.outcome
    }

    async fn start_run(&mut self, memo: Vec<(StepKey, WorkOutcome)>) {
        self.peer.push(Push::Run(run_lease(1, 1))).await;
        let (run, lease) = (RunId([1; 16]), LeaseId(1));
        self.peer.push(Push::Memo(MemoPage { run, lease, steps_ended: memo.len() as u32, items: memo })).await;
    }

    /// Answers the next spawn with `Pending` for each step, which it returns.
    async fn spawned(&mut self) -> Vec<StepKey> {
        let (id, Request::Spawn(Spawn { steps, .. })) = self.asked().await else { panic!() };
        self.peer.answer(id, Reply::Spawned(vec![StepState::Pending; steps.len()])).await;
        steps.into_iter().map(|step| step.key).collect()
    }

    async fn end_step(&mut self, key: StepKey, outcome: WorkOutcome, steps_ended: u32) {
        let (run, lease) = (RunId([1; 16]), LeaseId(1));
        self.peer.push(Push::Step(StepEnded { run, lease, key, outcome, steps_ended })).await;
    }

    async fn run_ended(&mut self) -> WorkOutcome {
        let (id, Request::CompleteRun(done)) = self.asked().await else { panic!() };
        self.peer.answer(id, Reply::Done).await;
        done.outcome
    }
}

fn json(text: &'static str) -> WorkOutcome {
    Ok(Payload::json(text))
}

fn inline_key(part: &str) -> StepKey {
    let cache_key = CacheKey::explicit(&[KeyPart::Str(part.into())]).unwrap();
    StepKey { kind: StepKind::Inline, name: "now".into(), cache_key }
}

#[tokio::test]
async fn a_task_returns_fails_or_panics_and_the_worker_goes_on() {
    let mut s = Story::begin(|worker| {
        worker.task("send", async |n: u32| match n {
            0 => panic!("oh no"),
            1 => Err::<u32, BoxError>("no".into()),
            2 => Err(Failed::for_good("never").into()),
            n => Ok(n * 2),
        })
    })
    .await;
    assert_eq!(s.execute_task(1, "21").await, json("42"));
    let failed = |outcome: WorkOutcome| {
        outcome.map_err(|failure| (failure.kind, failure.message, failure.retryable)).unwrap_err()
    };
    assert_eq!(failed(s.execute_task(2, "0").await), ("coda.Panicked".into(), "oh no".into(), true));
    let (_, message, retryable) = failed(s.execute_task(3, "1").await);
    assert_eq!((&*message, retryable), ("no", true));
    assert_eq!(failed(s.execute_task(4, "2").await), ("coda.FailedForGood".into(), "never".into(), false));
    let (kind, _, retryable) = failed(s.execute_task(5, "\"x\"").await);
    assert_eq!((&*kind, retryable), ("coda.BadArguments", false));
    assert_eq!(s.execute_task(6, "4").await, json("8"));
}

#[tokio::test]
async fn spawns_of_one_turn_leave_in_as_few_requests_as_the_bounds_allow() {
    const STEPS: usize = 300;
    let mut s = Story::begin(|worker| {
        worker.workflow("flow", async |cx: WorkflowContext, ()| {
            let steps: Vec<_> = (0..STEPS).map(|n| cx.spawn_task::<usize>("send", n).start()).collect();
            let mut sum = 0;
            for step in &steps {
                sum += step.await?;
            }
            // Again: a handle may be awaited more than once.
            Ok::<_, StepFailed>(sum + steps[0].clone().await?)
        })
    })
    .await;
    s.start_run(vec![]).await;
    let mut keys = s.spawned().await;
    assert_eq!(keys.len(), SPAWN_STEPS_MAX);
    keys.extend(s.spawned().await);
    assert_eq!(keys, (0..STEPS as u32).map(task_key).collect::<Vec<_>>());
    for (n, key) in keys.into_iter().enumerate().rev() {
        s.end_step(key, json("1"), (STEPS - n) as u32).await;
    }
    assert_eq!(s.run_ended().await, json("301"));
}

#[tokio::test]
async fn one_key_is_one_execution_and_a_remembered_one_is_none() {
    let mut s = Story::begin(|worker| {
        worker.workflow("flow", async |cx: WorkflowContext, ()| {
            let spawn = |key: &str| cx.spawn_task::<u32>("send", ()).key([key]).start();
            let (known, twice, same) = (spawn("known"), spawn("twice"), spawn("twice"));
            let (fresh, other) =
                (cx.spawn_task::<u32>("send", ()).no_cache(), cx.spawn_task::<u32>("send", ()).no_cache());
            let (fresh, other) = (fresh.start(), other.start());
            let failed = known.await? + twice.await? + same.await? + fresh.await?;
            Ok::<_, StepFailed>(failed + other.await?)
        })
    })
    .await;
    let key =
        |part: &str| StepKey { cache_key: CacheKey::explicit(&[KeyPart::Str(part.into())]).unwrap(), ..task_key(0) };
    s.start_run(vec![(key("known"), json("1"))]).await;
    let fresh = |n| StepKey { cache_key: CacheKey::fresh(LeaseId(1), n), ..task_key(0) };
    assert_eq!(s.spawned().await, [key("twice"), fresh(0), fresh(1)]);
    s.end_step(key("twice"), json("10"), 2).await;
    s.end_step(fresh(0), json("100"), 3).await;
    s.end_step(fresh(1), json("1000"), 4).await;
    assert_eq!(s.run_ended().await, json("1121"));
}

#[tokio::test]
async fn a_failed_step_is_raised_where_it_is_awaited() {
    let mut s = Story::begin(|worker| {
        worker.workflow("flow", async |cx: WorkflowContext, ()| {
            let error = cx.spawn_task::<u32>("send", ()).await.unwrap_err();
            assert_eq!((&*error.step, &*error.failure.kind), ("send", "ValueError"));
            let too_long = cx.spawn_task::<u32>("send", ()).key(["x".repeat(2_000)]).await.unwrap_err();
            assert_eq!(too_long.failure.kind, "coda.StepRefused");
            Err::<(), BoxError>(error.into())
        })
    })
    .await;
    s.start_run(vec![]).await;
    let key = s.spawned().await.remove(0);
    let failure =
        Failure { kind: "ValueError".into(), message: "bad".into(), traceback: String::new(), retryable: true };
    s.end_step(key, Err(failure), 1).await;
    let failure = s.run_ended().await.unwrap_err();
    assert_eq!((&*failure.kind, &*failure.message), ("coda.StepFailed", "step `send` failed: ValueError: bad"));
}

#[tokio::test]
async fn an_inline_step_is_executed_once_recorded_and_skipped_when_remembered() {
    let executed = Arc::new(AtomicU32::new(0));
    let count = executed.clone();
    let mut s = Story::begin(move |worker| {
        worker.workflow("flow", move |cx: WorkflowContext, ()| {
            let count = count.clone();
            async move {
                let step = |key: &'static str| {
                    let count = count.clone();
                    cx.run("now", [key], move || async move { Ok::<_, BoxError>(count.fetch_add(1, Ordering::SeqCst)) })
                };
                let (known, a, b) = tokio::join!(step("known"), step("new"), step("new"));
                let failed = cx.run("now", ["bad"], || async { Err::<u32, BoxError>("no".into()) }).await.unwrap_err();
                assert_eq!(failed.failure.message, "no");
                Ok::<_, StepFailed>((known?, a?, b?))
            }
        })
    })
    .await;
    s.start_run(vec![(inline_key("known"), json("7"))]).await;
    let (id, Request::RecordStep(record)) = s.asked().await else { panic!() };
    assert_eq!((record.key, record.result), (inline_key("new"), Payload::json("0")));
    // Another execution was first: its record counts.
    s.peer.answer(id, Reply::Recorded(Payload::json("5"))).await;
    assert_eq!(s.run_ended().await, json("[7,5,5]"));
    assert_eq!(executed.load(Ordering::SeqCst), 1);
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.take().map(|told| told.send(()));
    }
}

fn dropped_once() -> (impl Fn() -> Dropped + Send + Sync + 'static, oneshot::Receiver<()>) {
    let (told, dropped) = oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    (move || Dropped(told.lock().unwrap().take()), dropped)
}

#[tokio::test]
async fn losing_the_lease_drops_the_workflow_and_frees_its_slot() {
    let (guard, dropped) = dropped_once();
    let mut s = Story::begin(move |worker| {
        worker.workflow("flow", move |cx: WorkflowContext, ()| {
            let guard = guard();
            async move {
                let _guard = guard;
                cx.spawn_task::<()>("send", ()).await
            }
        })
    })
    .await;
    s.start_run(vec![]).await;
    s.spawned().await;
    s.peer.push(Push::LeaseLost { work: Work::Run(RunId([1; 16])), lease: LeaseId(1) }).await;
    within(dropped).await.unwrap();
    assert!(matches!(s.peer.next().await, (0, Request::Credit(credit)) if credit.slots == 1));
}

#[tokio::test]
async fn a_run_that_only_waits_gives_up_its_slot_unless_there_is_news() {
    let mut s = Story::begin(|worker| {
        let worker = worker.park_after(Some(Duration::from_millis(1)));
        worker.workflow("flow", async |cx: WorkflowContext, ()| cx.spawn_task::<u32>("send", ()).await)
    })
    .await;
    s.start_run(vec![]).await;
    s.spawned().await;
    let park = |seen| Request::ParkRun(ParkRun { run: RunId([1; 16]), lease: LeaseId(1), seen });
    let (id, request) = s.asked().await;
    assert_eq!(request, park(0));
    // A step that this execution has not asked for.
    s.end_step(task_key(9), json("1"), 1).await;
    s.peer.refuse(id, Reject::NotIdle).await;
    let (id, request) = s.asked().await;
    assert_eq!(request, park(1));
    s.peer.answer(id, Reply::Done).await;
    assert!(matches!(s.peer.next().await, (0, Request::Credit(credit)) if credit.slots == 1));
}

#[tokio::test]
async fn a_run_is_not_parked_while_a_step_without_caching_is_pending() {
    let mut s = Story::begin(|worker| {
        let worker = worker.park_after(Some(Duration::from_millis(1)));
        worker.workflow("flow", async |cx: WorkflowContext, ()| {
            let now = cx.spawn_task::<u32>("now", ()).no_cache().start();
            cx.spawn_task::<u32>("send", ()).await?;
            now.await
        })
    })
    .await;
    s.start_run(vec![]).await;
    let (id, Request::Spawn(spawn)) = s.asked().await else { panic!() };
    s.peer.answer(id, Reply::Spawned(vec![StepState::Pending; spawn.steps.len()])).await;
    let fresh = spawn.steps.iter().map(|step| &step.key).find(|key| key.cache_key.is_fresh()).unwrap().clone();
    // Another execution would not find its result: this one keeps its slot, however long that takes.
    assert!(tokio::time::timeout(Duration::from_millis(100), s.asked()).await.is_err());
    s.end_step(fresh, json("1"), 1).await;
    let (_, request) = s.asked().await;
    assert_eq!(request, Request::ParkRun(ParkRun { run: RunId([1; 16]), lease: LeaseId(1), seen: 1 }));
}

#[tokio::test]
async fn a_shutdown_lets_tasks_end_and_hands_back_runs_that_only_wait() {
    let (started, mut told) = tokio::sync::mpsc::channel(1);
    let (finish, may_finish) = tokio::sync::watch::channel(false);
    let mut s = Story::begin(move |worker| {
        let worker = worker.workflow("flow", async |cx: WorkflowContext, ()| cx.spawn_task::<u32>("send", ()).await);
        worker.task("send", move |(): ()| {
            let (started, mut may_finish) = (started.clone(), may_finish.clone());
            async move {
                started.send(()).await.unwrap();
                may_finish.wait_for(|finish| *finish).await.unwrap();
                Ok::<_, BoxError>(())
            }
        })
    })
    .await;
    s.start_run(vec![]).await;
    s.spawned().await;
    s.peer.push(Push::Task(task_lease(2, Payload::json("null")))).await;
    within(told.recv()).await.unwrap();
    s.shutdown.send(()).unwrap();
    let mut peer = s.peer;
    let mut released = false;
    while !released {
        let (id, request) = peer.next().await;
        match request {
            Request::Subscribe(subscribe) => assert!(subscribe.tasks.is_empty()),
            Request::Release(Release { work, .. }) => {
                assert_eq!(work, Work::Run(RunId([1; 16])));
                released = true;
            }
            Request::Credit(_) => continue,
            other => panic!("{other:?}"),
        }
        peer.answer(id, Reply::Done).await;
    }
    finish.send(true).unwrap();
    let (id, request) = peer.asked().await;
    assert!(matches!(request, Request::CompleteTask(_)));
    peer.answer(id, Reply::Done).await;
    within(s.worker).await.unwrap().unwrap();
    assert_eq!(peer.close_code().await, 1);
}

#[tokio::test]
async fn tasks_that_outlast_the_drain_are_handed_back() {
    let (guard, dropped) = dropped_once();
    let mut s = Story::begin(move |worker| {
        let worker = worker.drain_timeout(Duration::from_millis(10));
        worker.task("send", move |(): ()| {
            let guard = guard();
            async move {
                let _guard = guard;
                std::future::pending::<Result<(), BoxError>>().await
            }
        })
    })
    .await;
    s.peer.push(Push::Task(task_lease(2, Payload::json("null")))).await;
    // The push was handled once a later request of the link is answered; its completion needs the slot back.
    s.peer.push(Push::Task(task_lease(3, Payload::json("\"bad\"")))).await;
    let (id, _) = s.asked().await;
    s.peer.answer(id, Reply::Done).await;
    let Story { mut peer, shutdown, mut worker } = s;
    shutdown.send(()).unwrap();
    within(dropped).await.unwrap();
    // The goodbye waits for the answer to the hand-back.
    let (id, request) = loop {
        match peer.asked().await {
            (id, Request::Subscribe(_)) => peer.answer(id, Reply::Done).await,
            asked => break asked,
        }
    };
    assert_eq!(request, Request::Release(Release { work: Work::Task(TaskId([2; 16])), lease: LeaseId(2) }));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut worker).await.is_err());
    peer.answer(id, Reply::Done).await;
    within(worker).await.unwrap().unwrap();
}
