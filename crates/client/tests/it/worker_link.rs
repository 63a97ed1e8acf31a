//! A worker's link: credit, resume, memo pages, drain.

use coda_client::protocol::cache_key::CacheKey;
use coda_client::protocol::frame::{CLOSE_SHUTDOWN, Frame};
use coda_client::protocol::ids::{GroupId, LeaseId, RunId, TaskId, Work, WorkKind};
use coda_client::protocol::payload::Payload;
use coda_client::protocol::push::{MemoPage, Push, RunLease, StepEnded, TaskLease};
use coda_client::protocol::reject::Reject;
use coda_client::protocol::reply::{Reply, StepState};
use coda_client::protocol::request::{
    CompleteRun, CompleteTask, Credit, Release, Request, Resume, Spawn, SpawnStep, StepKey, StepKind, Subscribe,
};
use coda_client::{Events, Served, WorkerEvent, WorkerLink};

use crate::node::{Node, Peer, within};

pub const QUEUE: &str = "emails";
const LARGE_BYTES: usize = 200 << 10;

pub fn subscribe() -> Subscribe {
    Subscribe { queue: QUEUE.into(), tasks: vec!["send".into()], workflows: vec!["flow".into()] }
}

pub fn credit(kind: WorkKind, slots: u32) -> Request {
    Request::Credit(Credit { queue: QUEUE.into(), kind, slots })
}

pub fn task_lease(n: u8, args: Payload) -> TaskLease {
    let (task, lease) = (TaskId([n; 16]), LeaseId(u64::from(n)));
    TaskLease { task, lease, queue: QUEUE.into(), name: "send".into(), args, attempt: 1, retries_left: 0, run: None }
}

pub fn run_lease(n: u8, memo_pages: u32) -> RunLease {
    RunLease {
        run: RunId([n; 16]),
        lease: LeaseId(u64::from(n)),
        queue: QUEUE.into(),
        workflow: "flow".into(),
        input: Payload::json("null"),
        attempt: 1,
        memo_pages,
        steps_ended: 0,
    }
}

pub fn task_key(n: u32) -> StepKey {
    StepKey { kind: StepKind::Task, name: "send".into(), cache_key: CacheKey::auto(n) }
}

fn task(n: u8) -> Push {
    Push::Task(task_lease(n, Payload::json("1")))
}

fn complete(n: u8) -> Request {
    let outcome = Ok(Payload::json("2"));
    Request::CompleteTask(CompleteTask { task: TaskId([n; 16]), lease: LeaseId(u64::from(n)), outcome })
}

struct Story {
    node: Node,
    link: WorkerLink,
    events: Events<WorkerEvent>,
    peer: Peer,
}

impl Story {
    /// A worker with four slots of each kind, greeted.
    async fn begin() -> Self {
        let node = Node::start();
        let served = Served { subscribe: subscribe(), task_slots: 4, run_slots: 4 };
        let (opened, mut peer) = tokio::join!(WorkerLink::open(node.options(), vec![served]), node.accept());
        let (link, mut events) = opened.unwrap();
        let greeting = peer.worker_greeting().await;
        assert_eq!(
            greeting,
            [
                Request::Resume(Resume { group: GroupId(1), held: vec![] }),
                Request::Subscribe(subscribe()),
                credit(WorkKind::Task, 4),
                credit(WorkKind::Run, 4),
            ]
        );
        assert!(matches!(within(events.recv()).await, Some(WorkerEvent::Connected { first: true, .. })));
        Self { node, link, events, peer }
    }

    async fn event(&mut self) -> WorkerEvent {
        within(self.events.recv()).await.unwrap()
    }

    async fn task_started(&mut self) -> TaskLease {
        match self.event().await {
            WorkerEvent::TaskStart(lease) => lease,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn credit_comes_back_right_before_the_completion_that_frees_it() {
    let mut s = Story::begin().await;
    for n in [1, 1, 2] {
        s.peer.push(task(n)).await;
    }
    for n in [1, 2] {
        assert_eq!(s.task_started().await.task, TaskId([n; 16]));
    }
    s.link.post(7, complete(1)).await.unwrap();
    assert_eq!(s.peer.next().await, (0, credit(WorkKind::Task, 1)));
    let (id, request) = s.peer.asked().await;
    assert_eq!(request, complete(1));
    s.peer.answer(id, Reply::Done).await;
    assert!(matches!(s.event().await, WorkerEvent::Answered { token: 7, result: Ok((Reply::Done, _)) }));
    // Both at once: one credit frame for two slots. The test's runtime has one thread: the link cannot write between.
    s.peer.push(task(3)).await;
    s.task_started().await;
    s.link.post(8, complete(3)).await.unwrap();
    s.link.post(9, complete(2)).await.unwrap();
    assert_eq!(s.peer.next().await, (0, credit(WorkKind::Task, 2)));
    assert_eq!([s.peer.asked().await.1, s.peer.asked().await.1], [complete(3), complete(2)]);
}

#[tokio::test]
async fn a_large_task_may_come_on_a_stream_of_its_own() {
    let mut s = Story::begin().await;
    let lease = task_lease(1, Payload::json(vec![b'1'; LARGE_BYTES]));
    s.peer.write_alone(Frame::Push(Push::Task(lease.clone()))).await;
    assert_eq!(s.task_started().await, lease);
}

#[tokio::test]
async fn after_a_reconnect_leases_are_resumed_before_anything_else_and_lost_ones_are_told() {
    let mut s = Story::begin().await;
    for n in [1, 2, 3] {
        s.peer.push(task(n)).await;
        s.task_started().await;
    }
    // 1 is completed and unanswered, 2 and 3 are worked on; 3 will be lost.
    s.link.post(7, complete(1)).await.unwrap();
    assert_eq!(s.peer.next().await, (0, credit(WorkKind::Task, 1)));
    let (completion, _) = s.peer.asked().await;
    s.peer.close(CLOSE_SHUTDOWN, "bye");
    let mut peer = s.node.accept().await;
    let (resume, request) = peer.asked().await;
    assert_eq!(request, Request::Resume(Resume { group: GroupId(1), held: vec![LeaseId(1), LeaseId(2), LeaseId(3)] }));
    assert_eq!(peer.asked().await.1, Request::Subscribe(subscribe()));
    assert_eq!(peer.next().await, (0, credit(WorkKind::Task, 2)));
    assert_eq!(peer.next().await, (0, credit(WorkKind::Run, 4)));
    assert_eq!(peer.asked().await, (completion, complete(1)));
    // The node had recorded the completion: the lease is gone for that reason.
    peer.answer(resume, Reply::Resumed { lost: vec![LeaseId(1), LeaseId(3)] }).await;
    peer.refuse(completion, Reject::AlreadyEnded).await;
    assert!(matches!(s.event().await, WorkerEvent::Disconnected));
    assert!(matches!(s.event().await, WorkerEvent::Connected { first: false, .. }));
    let lost = Work::Task(TaskId([3; 16]));
    assert!(matches!(s.event().await, WorkerEvent::LeaseLost { work, lease: LeaseId(3) } if work == lost));
    assert!(matches!(s.event().await, WorkerEvent::Answered { token: 7, result: Ok((Reply::Done, _)) }));
    s.link.abandon(lost, LeaseId(3));
    assert_eq!(peer.next().await, (0, credit(WorkKind::Task, 1)));
    assert_eq!(s.link.held(), 1);
}

#[tokio::test]
async fn a_run_comes_with_its_memo_and_a_resumed_run_gets_what_it_missed() {
    let mut s = Story::begin().await;
    let (run, lease) = (RunId([1; 16]), LeaseId(1));
    let page = |keys: &[u32]| {
        let items = keys.iter().map(|n| (task_key(*n), Ok(Payload::json("1")))).collect();
        Push::Memo(MemoPage { run, lease, steps_ended: keys.len() as u32, items })
    };
    for push in [Push::Run(run_lease(1, 2)), page(&[1]), page(&[2])] {
        s.peer.push(push).await;
    }
    let WorkerEvent::RunStart { memo, .. } = s.event().await else { panic!() };
    assert_eq!(memo.len(), 2);
    let step = |n| SpawnStep {
        key: task_key(n),
        queue: QUEUE.into(),
        args: Payload::json("1"),
        priority: 4,
        policy: coda_client::protocol::policy::RetryPolicy::NEVER,
        delay: coda_client::protocol::ids::Millis(0),
    };
    let spawning = s.link.spawn(run, lease, vec![step(3), step(4)]);
    let serve = async {
        let (id, request) = s.peer.asked().await;
        assert!(matches!(&request, Request::Spawn(Spawn { steps, .. }) if steps.len() == 2));
        s.peer.answer(id, Reply::Spawned(vec![StepState::Pending, StepState::Pending])).await;
    };
    assert_eq!(tokio::join!(spawning, serve).0.unwrap().len(), 2);
    s.peer.close(CLOSE_SHUTDOWN, "bye");
    let mut peer = s.node.accept().await;
    peer.push(page(&[1, 2, 3])).await;
    let late = StepEnded { run, lease, key: task_key(4), outcome: Ok(Payload::json("1")), steps_ended: 4 };
    peer.push(Push::Step(late)).await;
    assert!(matches!(s.event().await, WorkerEvent::Disconnected));
    assert!(matches!(s.event().await, WorkerEvent::Connected { .. }));
    assert!(matches!(s.event().await, WorkerEvent::StepEnded { key, .. } if key == task_key(3)));
    assert!(matches!(s.event().await, WorkerEvent::StepEnded { key, steps_ended: 4, .. } if key == task_key(4)));
}

#[tokio::test]
async fn a_run_is_completed_only_after_its_spawns_are_answered() {
    let mut s = Story::begin().await;
    let (run, lease) = (RunId([1; 16]), LeaseId(1));
    s.peer.push(Push::Run(run_lease(1, 0))).await;
    s.event().await;
    s.link.post(1, Request::Spawn(Spawn { run, lease, steps: vec![] })).await.unwrap();
    let end = Request::CompleteRun(CompleteRun { run, lease, outcome: Ok(Payload::json("1")) });
    s.link.post(2, end.clone()).await.unwrap();
    s.link.post(3, Request::DescribeNode).await.unwrap();
    let (spawn, _) = s.peer.asked().await;
    assert_eq!(s.peer.asked().await.1, Request::DescribeNode);
    s.peer.answer(spawn, Reply::Spawned(vec![])).await;
    assert_eq!(s.peer.next().await, (0, credit(WorkKind::Run, 1)));
    assert_eq!(s.peer.asked().await.1, end);
}

#[tokio::test]
async fn a_drain_hands_back_what_was_not_started_and_takes_nothing_new() {
    let mut s = Story::begin().await;
    s.peer.push(task(1)).await;
    s.task_started().await;
    // Delivered and not received by the user: answered requests tell when it is in the queue.
    s.peer.push(task(2)).await;
    let (asked, ()) = tokio::join!(s.link.request(Request::DescribeNode), async {
        let (id, _) = s.peer.asked().await;
        s.peer.answer(id, Reply::Done).await;
    });
    asked.unwrap();
    s.link.drain();
    let (_, unsubscribe) = s.peer.asked().await;
    assert!(
        matches!(unsubscribe, Request::Subscribe(Subscribe { tasks, workflows, .. }) if tasks.is_empty() && workflows.is_empty())
    );
    let released =
        |n: u8| Request::Release(Release { work: Work::Task(TaskId([n; 16])), lease: LeaseId(u64::from(n)) });
    assert_eq!(s.peer.asked().await.1, released(2));
    s.peer.push(task(3)).await;
    assert_eq!(s.peer.asked().await.1, released(3));
    s.link.post(7, complete(1)).await.unwrap();
    // No credit before it.
    assert_eq!(s.peer.next().await.1, complete(1));
}
