//! Everything has a bound: what happens at it, and that those who keep within theirs notice nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use coda_broker::config::{LEASE_WINDOW_BYTES_MAX, OUTBOX_BYTES_MAX};
use coda_client::{BoxError, SubmitOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, bytes_of};
use coda_node_tests::work::{Calls, run};
use coda_node_tests::{logs, soon, until};
use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::frame::Frame;
use coda_protocol::ids::{GroupId, LeaseId, Millis, RunId, TaskId, WorkKind};
use coda_protocol::limits::{CREDIT_MAX, LEASES_PER_SESSION_MAX, LIST_ROWS_MAX, PROPOSER_QUEUE_MAX};
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::push::Push;
use coda_protocol::reject::{Refusal, Reject, Unavailable};
use coda_protocol::reply::{QueueCursor, QueuePlace, Reply, Wait};
use coda_protocol::request::{CompleteTask, Credit, Request, Resume, Spawn, SpawnStep, StepKey, StepKind, SubmitTask};
use quinn::ConnectionError;

fn submit(task: TaskId, name: &str, queue: &str) -> Request {
    Request::SubmitTask(SubmitTask {
        task,
        name: name.into(),
        queue: queue.into(),
        args: Payload::json("1"),
        priority: 4,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    })
}

fn tasks(pushes: &[Push]) -> usize {
    pushes.iter().filter(|push| matches!(push, Push::Task(_))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_closed_at_the_bound_and_the_others_are_served() {
    let mut node = TestNode::start().await;
    let big = run(node.worker().task("big", |(): ()| async move { Ok::<_, BoxError>("7".repeat(4_000_000)) }));
    let client = node.client().await;
    let task = client.submit(SubmitOptions::new("big")).await.unwrap();
    soon("a result", task.result()).await.unwrap();
    let mut raw = node.raw().await.greet().await;
    // Twice what may wait, and then silence: nothing that it says later is what makes the node look.
    let answers = 2 * OUTBOX_BYTES_MAX / 4_000_000;
    for _ in 0..answers {
        raw.post(Request::AwaitTask(task.id())).await;
    }
    let others = async {
        for _ in 0..50 {
            client.describe_node().await.unwrap();
        }
    };
    let (end, ()) = tokio::join!(soon("the node closes it", raw.connection.closed()), others);
    match end {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), 1008);
            assert!(close.reason.windows(12).any(|part| part == b"unread bytes"), "{close:?}");
        }
        // The one datagram that says why may be lost behind a burst that nobody read. The end is told all the same.
        ConnectionError::Reset => {}
        other => panic!("{other}"),
    }
    let lines = logs::warnings_about(raw.local());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("CODA1008") && lines[0].contains("unread bytes"), "{lines:?}");
    big.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_proposer_takes_is_overloaded_and_all_succeeds_when_it_is_asked_again() {
    let mut node = TestNode::start().await;
    let mut raw = node.raw().await.greet().await;
    let mut waiting: BTreeMap<u64, TaskId> =
        (1..=2 * PROPOSER_QUEUE_MAX as u64).map(|id| (id, TaskId::random())).collect();
    let mut overloads = 0;
    while !waiting.is_empty() {
        // A part at a time, so that each side keeps reading while the other writes.
        let mut bytes = Vec::new();
        for (id, task) in &waiting {
            Frame::Request { id: *id, request: submit(*task, "nobody", "q") }.encode(&mut bytes);
        }
        let (mut sent, mut answered) = (0, 0);
        let expected = waiting.len();
        while answered < expected {
            if sent < bytes.len() {
                let end = bytes.len().min(sent + (1 << 20));
                raw.say(&bytes[sent..end]).await;
                sent = end;
            }
            // Nothing may be read before all is sent, or the queue would never be full.
            if sent < bytes.len() {
                continue;
            }
            let Frame::Answer { id, answer } = raw.frame().await else { panic!("not an answer") };
            answered += 1;
            match answer.result {
                Ok(Reply::Started { .. }) => drop(waiting.remove(&id)),
                Err(Refusal::Unavailable(Unavailable::Overloaded { retry_after_ms })) => {
                    assert!(retry_after_ms > 0);
                    overloads += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(overloads > 0, "the queue was never full");
    let client = node.client().await;
    assert_eq!(client.describe_queue("q").await.unwrap().summary.ready, 2 * PROPOSER_QUEUE_MAX as u64);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_leased_beyond_the_credit_that_was_offered() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let mut worker = node.raw().await.greet().await;
    worker.serve("default", &["work"], 3).await;
    // For a queue that is not served, and for the other kind: both mean nothing.
    worker.credit("elsewhere", 100).await;
    let runs = Credit { queue: "default".into(), kind: WorkKind::Run, slots: 100 };
    worker.say_frame(&Frame::Request { id: 0, request: Request::Credit(runs) }).await;
    for _ in 0..20 {
        client.submit(SubmitOptions::new("work")).await.unwrap();
    }
    let leases = [worker.task().await, worker.task().await, worker.task().await];
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    let done = |lease: &coda_protocol::push::TaskLease| {
        Request::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome: Ok(Payload::json("1")) })
    };
    for lease in &leases {
        assert_eq!(worker.ask(done(lease)).await, Ok(Reply::Done));
    }
    client.submit(SubmitOptions::new("work")).await.unwrap();
    assert_eq!(tasks(&worker.pushes_so_far().await), 0, "an ended task gives no slot back by itself");
    worker.credit("default", 2).await;
    worker.task().await;
    worker.task().await;
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    // A new subscription starts without credit, and credit that asks for an answer gets one.
    worker.credit("default", 0).await;
    worker.subscribe("default", &["work"]).await;
    let credit = Credit { queue: "default".into(), kind: WorkKind::Task, slots: 1 };
    assert_eq!(worker.ask(Request::Credit(credit)).await, Ok(Reply::Done));
    worker.task().await;
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    // However often it is offered, the sum is bounded.
    worker.subscribe("default", &["no such work"]).await;
    for _ in 0..3 {
        worker.credit("default", u32::MAX).await;
    }
    let unserved = client.submit(SubmitOptions::new("no such work").delay(Duration::from_secs(100))).await.unwrap();
    let lanes = client.describe_queue("default").await.unwrap().lanes;
    let lane = lanes.iter().find(|lane| lane.name == "no such work").unwrap();
    assert_eq!(lane.free_slots, CREDIT_MAX, "{unserved:?}", unserved = unserved.id());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_leased_from_a_paused_queue() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    let mut worker = node.raw().await.greet().await;
    client.pause_queue("default").await.unwrap();
    worker.serve("default", &["work"], 3).await;
    client.submit(SubmitOptions::new("work")).await.unwrap();
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    worker.credit("default", 1).await;
    client.submit(SubmitOptions::new("work")).await.unwrap();
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    client.unpause_queue("default").await.unwrap();
    worker.task().await;
    worker.task().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_larger_together_than_an_entry_are_all_answered() {
    const SPAWNS: u64 = 100;
    // While one entry is synced, all that follows arrives.
    let mut node = TestNode::start_slow(Duration::from_secs(1)).await;
    let mut raw = node.raw().await.greet().await;
    let first = raw.post(submit(TaskId::random(), "work", "default")).await;
    // Nearly all of their bytes in names and cache keys: what is not counted cannot be bounded.
    let step = |n: i64| SpawnStep {
        key: StepKey {
            kind: StepKind::Task,
            name: "n".repeat(255).into(),
            cache_key: CacheKey::explicit(&[KeyPart::Str("k".repeat(1_000)), KeyPart::Int(n)]).unwrap(),
        },
        queue: "q".repeat(255).into(),
        args: Payload::json("1"),
        priority: 4,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    };
    let spawn = Spawn { run: RunId([1; 16]), lease: LeaseId(1), steps: (0..256).map(step).collect() };
    for id in 1_000..1_000 + SPAWNS {
        raw.say_frame(&Frame::Request { id, request: Request::Spawn(spawn.clone()) }).await;
    }
    assert_eq!(raw.answer(first).await, Ok(Reply::Started { existed: false }));
    for id in 1_000..1_000 + SPAWNS {
        assert!(matches!(raw.answer(id).await, Err(Refusal::Reject(Reject::NoSuchRun { .. }))));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_in_queues_that_nobody_serves_waits_until_somebody_does() {
    const QUEUES: usize = 300;
    let mut node = TestNode::start().await;
    let mut raw = node.raw().await.greet().await;
    for n in 0..QUEUES {
        let started = raw.ask(submit(TaskId::random(), "work", &format!("queue-{n}"))).await;
        assert_eq!(started, Ok(Reply::Started { existed: false }));
    }
    let calls = Calls::default();
    // Across a leader's end too: what waits is found in state, whoever leads.
    node.restart().await;
    let mut workers = Vec::new();
    for part in 0..QUEUES.div_ceil(60) {
        let counted = calls.clone();
        let mut worker = node.worker().task_slots(1).task("work", move |n: u64| {
            counted.call(n);
            async move { Ok::<_, BoxError>(n) }
        });
        for n in part * 60..QUEUES.min((part + 1) * 60) {
            worker = worker.queue(&format!("queue-{n}"));
        }
        workers.push(run(worker));
    }
    until("all is done", || async { (calls.count() == QUEUES).then_some(()) }).await;
    for worker in workers {
        worker.stop().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_queue_with_more_workers_than_an_entry_takes_does_not_starve_another() {
    let mut node = TestNode::start().await;
    let mut crowd = Vec::new();
    for _ in 0..80 {
        let mut worker = node.raw().await.greet().await;
        worker.serve("a-busy-queue", &["work"], 1_000).await;
        crowd.push(worker);
    }
    let mut other = node.raw().await.greet().await;
    other.serve("quiet", &["work"], 1).await;
    let client = node.client().await;
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    client.submit(SubmitOptions::new("work").queue("a-busy-queue")).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..10 {
        client.submit(SubmitOptions::new("work").queue("quiet")).await.unwrap();
        other.task().await;
        other.credit("quiet", 1).await;
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    // More workers than one entry takes on an otherwise silent node: each gets its turn.
    for _ in 0..800 {
        client.submit(SubmitOptions::new("work").queue("a-busy-queue")).await.unwrap();
    }
    let mut idle = 0;
    for worker in &mut crowd {
        idle += usize::from(tasks(&worker.pushes_so_far().await) == 0);
    }
    assert_eq!(idle, 0, "workers that never got anything");
    node.stop().await;
}

/// Submits tasks, many at a time.
async fn submit_many(raw: &mut Raw, first: u64, count: u64, name: &str, queue: &str) {
    const AT_ONCE: u64 = 1_000;
    for from in (first..first + count).step_by(AT_ONCE as usize) {
        let ids = from..(first + count).min(from + AT_ONCE);
        let mut bytes = Vec::new();
        for id in ids.clone() {
            Frame::Request { id, request: submit(TaskId::random(), name, queue) }.encode(&mut bytes);
        }
        raw.say(&bytes).await;
        for _ in ids {
            let Frame::Answer { answer, .. } = raw.frame().await else { panic!("not an answer") };
            assert_eq!(answer.result, Ok(Reply::Started { existed: false }));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_ever_holds_more_leases_than_it_may_and_its_other_slots_wait() {
    const MAX: usize = LEASES_PER_SESSION_MAX;
    let mut node = TestNode::start().await;
    let mut client = node.raw().await.greet().await;
    // More slots than it may hold leases, over several queues: each queue alone is within its bound.
    let queues: Vec<String> = (0..MAX / CREDIT_MAX as usize + 1).map(|n| format!("queue-{n}")).collect();
    let mut worker = node.raw().await.greet().await;
    worker.ask(Request::Resume(Resume { group: GroupId(1), held: Vec::new() })).await.unwrap();
    for (n, queue) in queues.iter().enumerate() {
        worker.subscribe(queue, &["work"]).await;
        worker.credit(queue, CREDIT_MAX).await;
        submit_many(&mut client, 1 + n as u64 * 10_000, u64::from(CREDIT_MAX), "work", queue).await;
    }
    let mut leases = Vec::new();
    while leases.len() < MAX {
        leases.push(worker.task().await);
    }
    assert_eq!(tasks(&worker.pushes_so_far().await), 0, "a lease too many");
    // Who asks for an answer gets one, and the queue says why the rest waits.
    let last = queues.last().unwrap();
    let credit = Credit { queue: last.as_str().into(), kind: WorkKind::Task, slots: 1 };
    let refused = worker.ask(Request::Credit(credit)).await;
    assert_eq!(refused, Err(Refusal::Reject(Reject::TooManyLeases { max: MAX as u64 })));
    let Ok(Reply::Lanes(lanes)) = client.ask(Request::DescribeLanes(last.as_str().into())).await else { panic!() };
    assert_eq!(lanes.lanes[0].waits, Wait::WorkersBusy);
    assert_eq!(lanes.lanes[0].ready, queues.len() as u64 * u64::from(CREDIT_MAX) - MAX as u64);
    // Each that ends makes room for one of those that wait, without another word of the worker.
    for lease in leases.drain(..3) {
        let done = CompleteTask { task: lease.task, lease: lease.lease, outcome: Ok(Payload::json("1")) };
        assert_eq!(worker.ask(Request::CompleteTask(done)).await, Ok(Reply::Done));
        assert_eq!(worker.task().await.queue, *last);
    }
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    // Across a leader's end, too: what it holds is counted in state.
    let (session, held) = (worker.session, leases.iter().map(|lease| lease.lease).collect());
    node.restart().await;
    let (mut worker, _) = node.raw().await.greet_as(session).await;
    let Ok(Reply::Resumed { lost }) = worker.ask(Request::Resume(Resume { group: GroupId(1), held })).await else {
        panic!()
    };
    assert_eq!(lost, []);
    worker.subscribe(last, &["work"]).await;
    worker.credit(last, CREDIT_MAX).await;
    for _ in 0..3 {
        worker.task().await;
    }
    assert_eq!(tasks(&worker.pushes_so_far().await), 0);
    assert_eq!(node.node().usage().await.holders, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_clients_that_overloads_a_node_never_hears_of_it() {
    const CLIENTS: usize = 4;
    const TASKS: usize = 3_000;
    let mut node = TestNode::start_slow(Duration::from_millis(500)).await;
    let mut crowd = Vec::new();
    for _ in 0..CLIENTS {
        let client = node.client().await;
        for _ in 0..TASKS {
            let client = client.clone();
            crowd.push(tokio::spawn(async move { client.submit(SubmitOptions::new("nobody")).await.map(drop) }));
        }
    }
    // One who looks closer, meanwhile.
    let mut raw = node.raw().await.greet().await;
    let mut overloads = 0;
    while crowd.iter().any(|one| !one.is_finished()) {
        let refused = raw.ask(submit(TaskId::random(), "nobody", "default")).await;
        overloads += usize::from(matches!(refused, Err(Refusal::Unavailable(Unavailable::Overloaded { .. }))));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for one in crowd {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    assert!(overloads > 0, "the node was never overloaded");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_queues_come_in_pages_and_descriptions_say_what_they_leave_out() {
    const NAMES: usize = LIST_ROWS_MAX + 200;
    let mut node = TestNode::start().await;
    let mut raw = node.raw().await.greet().await;
    let mut bytes = Vec::new();
    for n in 0..NAMES as u64 {
        for (id, name, queue) in
            [(n, format!("name-{n}"), "wide".to_owned()), (NAMES as u64 + n, "t".into(), format!("queue-{n}"))]
        {
            Frame::Request { id: 100 + id, request: submit(TaskId::random(), &name, &queue) }.encode(&mut bytes);
        }
    }
    for chunk in bytes.chunks(64 << 10) {
        raw.say(chunk).await;
    }
    for _ in 0..2 * NAMES {
        let Frame::Answer { answer, .. } = raw.frame().await else { panic!("not an answer") };
        assert!(answer.result.is_ok());
    }
    // Queues that have nothing but workers are listed behind the others.
    let mut workers = Vec::new();
    for n in 0..3 {
        let mut worker = node.raw().await.greet().await;
        worker.resume(1).await;
        worker.subscribe(&format!("served-{n}"), &["t"]).await;
        worker.subscribe("queue-7", &["t"]).await;
        workers.push(worker);
    }
    let client = node.client().await;
    client.pause_queue("paused").await.unwrap();
    let queues = client.list_queues().await.unwrap();
    assert_eq!(queues.len(), NAMES + 1 + 3 + 1);
    assert!(queues.is_sorted_by(|a, b| a.queue < b.queue), "each once, by name");
    let of = |name: &str| queues.iter().find(|queue| queue.queue == name).unwrap();
    assert_eq!((of("wide").ready, of("queue-7").ready, of("queue-7").workers), (NAMES as u64, 1, 3));
    assert_eq!((of("served-1").workers, of("paused").paused), (1, true));
    let Ok(Reply::Queues(first)) = raw.ask(Request::ListQueues).await else { panic!() };
    assert_eq!(first.len(), LIST_ROWS_MAX);
    let wide = client.describe_queue("wide").await.unwrap();
    assert_eq!((wide.lanes.len(), wide.lanes_total, wide.counted_all), (LIST_ROWS_MAX, NAMES as u64, true));
    assert_eq!(wide.summary.ready, NAMES as u64);
    // A cursor may be anything.
    for place in [
        QueuePlace::Paused("x".repeat(300).into()),
        QueuePlace::Lane { queue: "".into(), kind: WorkKind::Run, name: "n".into() },
    ] {
        let cursor = QueueCursor { group: GroupId(1), place };
        let refused = raw.ask(Request::ListQueuesFrom(Some(cursor))).await;
        assert!(matches!(refused, Err(Refusal::Reject(Reject::BadName { .. }))), "{refused:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_holds_only_delayed_work_says_until_when() {
    let mut node = TestNode::start().await;
    let client = node.client().await;
    client.submit(SubmitOptions::new("later").delay(Duration::from_secs(7_200))).await.unwrap();
    let soon = client.submit(SubmitOptions::new("later").delay(Duration::from_secs(3_600))).await.unwrap();
    let Wait::DelayedUntil(at) = client.describe_task(soon.id()).await.unwrap().waits else { panic!() };
    let lanes = client.describe_queue("default").await.unwrap().lanes;
    assert_eq!((lanes[0].delayed, lanes[0].waits), (2, Wait::DelayedUntil(at)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_slots_for_more_than_it_can_read_is_leased_as_much_as_it_reads() {
    const BYTES: usize = 4_000_000;
    const TASKS: usize = 2 * OUTBOX_BYTES_MAX / BYTES;
    let mut node = TestNode::start().await;
    let mut client = node.raw().await.greet().await;
    for id in 1..=TASKS as u64 {
        let Request::SubmitTask(task) = submit(TaskId::random(), "large", "default") else { unreachable!() };
        let request = Request::SubmitTask(SubmitTask { args: Payload::json(vec![b'7'; BYTES]), ..task });
        client.payload(&bytes_of(&Frame::Request { id, request })).await;
        assert_eq!(client.answer(id).await, Ok(Reply::Started { existed: false }));
    }
    let mut slow = node.raw().await.greet().await;
    slow.serve("default", &["large"], TASKS as u32).await;
    // It does not read. Some of the work goes to it, and the rest to whoever comes.
    until("it is behind", || async {
        (node.node().usage().await.outbox_bytes_slowest > LEASE_WINDOW_BYTES_MAX).then_some(())
    })
    .await;
    let mut other = node.raw().await.greet().await;
    other.serve("default", &["large"], 3).await;
    let mut leases = vec![other.task().await, other.task().await, other.task().await];
    // Now it reads, and gets all that is left.
    while leases.len() < TASKS {
        let waiting = node.node().usage().await.outbox_bytes_slowest;
        assert!(waiting < OUTBOX_BYTES_MAX / 2, "{waiting}");
        leases.push(slow.task().await);
    }
    let ids: std::collections::BTreeSet<TaskId> = leases.iter().map(|lease| lease.task).collect();
    assert_eq!(ids.len(), TASKS, "each once");
    assert!(leases.iter().all(|lease| lease.attempt == 1));
    assert!(logs::warnings_about(slow.local()).is_empty());
    node.stop().await;
}
