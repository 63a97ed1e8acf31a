//! A worker of two nodes: its slots go where work waits for them.

use coda_client::protocol::frame::CLOSE_SHUTDOWN;
use coda_client::protocol::ids::{GroupId, NodeId, Slotted, TaskId, WorkKind};
use coda_client::protocol::payload::Payload;
use coda_client::protocol::push::{Push, TaskLease, Wants};
use coda_client::protocol::reply::Reply;
use coda_client::protocol::request::{CompleteTask, Request, Resume, Subscribe, Withdraw};
use coda_client::protocol::slots::SlotMap;
use coda_client::protocol::version::WIRE_VERSIONS;
use coda_client::{Events, Served, WorkerEvent, WorkerLink};

use crate::node::{Node, Peer, map_of, within};
use crate::worker_link::{QUEUE, credit, task_lease};

const SLOTS: u32 = 4;

fn subscribe() -> Subscribe {
    Subscribe { queue: QUEUE.into(), tasks: vec!["send".into()], workflows: vec![] }
}

fn wants(wanted: u32) -> Push {
    Push::Wants(Wants { queue: QUEUE.into(), kind: WorkKind::Task, wanted })
}

fn withdraw(slots: u32) -> Request {
    Request::Withdraw(Withdraw { queue: QUEUE.into(), kind: WorkKind::Task, slots })
}

fn offers(slots: u32) -> (u64, Request) {
    (0, credit(WorkKind::Task, slots))
}

/// A task of the group that this node leads.
fn task_of(node: u32, n: u8) -> TaskId {
    let slots = SlotMap::even(2);
    let mut ids = (0..=u8::MAX).map(|salt| TaskId([n, salt, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    ids.find(|task| slots.group_of(task.slot()) == GroupId(node)).unwrap()
}

fn task(node: u32, n: u8) -> Push {
    Push::Task(TaskLease { task: task_of(node, n), ..task_lease(n, Payload::json("1")) })
}

fn complete(lease: &TaskLease) -> Request {
    let outcome = Ok(Payload::json("2"));
    Request::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome })
}

struct Story {
    nodes: [Node; 2],
    link: WorkerLink,
    events: Events<WorkerEvent>,
    one: Peer,
    two: Peer,
}

/// Reads what is said to a group's leader first.
async fn introduced(peer: &mut Peer, group: u32) {
    let mut said = Vec::new();
    for _ in 0..2 {
        let (id, request) = peer.asked().await;
        let reply = if let Request::Resume(_) = request { Reply::Resumed { lost: vec![] } } else { Reply::Done };
        peer.answer(id, reply).await;
        said.push(request);
    }
    let resume =
        |request: &Request| matches!(request, Request::Resume(Resume { group: GroupId(of), .. }) if *of == group);
    assert!(said.iter().any(resume) && said.contains(&Request::Subscribe(subscribe())), "{said:?}");
}

impl Story {
    /// Connected to both, and all slots are promised to the first, which was there first.
    async fn begin() -> Self {
        let nodes = [Node::start(), Node::start()];
        let mut options = nodes[0].options();
        options.ca_pem.extend_from_slice(nodes[1].ca_pem.as_bytes());
        let served = Served { subscribe: subscribe(), task_slots: SLOTS, run_slots: 0 };
        let accept = async {
            let mut one = accept(&nodes, 0).await;
            introduced(&mut one, 1).await;
            assert_eq!(one.next().await, offers(SLOTS));
            let mut two = accept(&nodes, 1).await;
            introduced(&mut two, 2).await;
            (one, two)
        };
        let (opened, (one, two)) = tokio::join!(WorkerLink::open(options, vec![served]), accept);
        let (link, events) = opened.unwrap();
        Self { nodes, link, events, one, two }
    }

    /// The next task that the user gets.
    async fn started(&mut self) -> TaskLease {
        loop {
            match within(self.events.recv()).await.unwrap() {
                WorkerEvent::TaskStart(lease) => return lease,
                WorkerEvent::Connected { .. } | WorkerEvent::Disconnected => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn accept(nodes: &[Node; 2], i: usize) -> Peer {
    let mut peer = nodes[i].greeted().await;
    let map = map_of(&[nodes[0].address, nodes[1].address]);
    peer.welcome_to(WIRE_VERSIONS.1, NodeId(i as u64 + 1), map).await;
    peer
}

#[tokio::test]
async fn slots_that_nobody_uses_move_to_the_node_that_wants_them_and_stay_as_long() {
    let mut s = Story::begin().await;
    s.two.push(wants(3)).await;
    let (id, request) = s.one.asked().await;
    assert_eq!(request, withdraw(3));
    s.one.answer(id, Reply::Withdrawn { slots: 3 }).await;
    assert_eq!(s.two.next().await, offers(3));
    // They come back to it, as long as it wants them.
    s.two.push(task(2, 1)).await;
    let lease = s.started().await;
    s.link.post(7, complete(&lease)).await.unwrap();
    assert_eq!(s.two.next().await, offers(1));
    assert_eq!(s.two.asked().await.1, complete(&lease));
    // And move on to who wants them then.
    s.two.push(wants(0)).await;
    s.one.push(wants(9)).await;
    let (id, request) = s.two.asked().await;
    assert_eq!(request, withdraw(3));
    s.two.answer(id, Reply::Withdrawn { slots: 2 }).await;
    assert_eq!(s.one.next().await, offers(2));
}

#[tokio::test]
async fn what_the_other_node_has_used_meanwhile_is_not_promised_twice() {
    let mut s = Story::begin().await;
    s.two.push(wants(9)).await;
    let (id, request) = s.one.asked().await;
    assert_eq!(request, withdraw(SLOTS));
    s.one.push(task(1, 1)).await;
    s.one.answer(id, Reply::Withdrawn { slots: SLOTS - 2 }).await;
    assert_eq!(s.two.next().await, offers(SLOTS - 2));
    let lease = s.started().await;
    // The second of the two rode on an entry and came back: it is the first node's still, and asked for once more.
    s.two.push(wants(9)).await;
    let (id, request) = s.one.asked().await;
    assert_eq!(request, withdraw(1));
    s.one.answer(id, Reply::Withdrawn { slots: 1 }).await;
    assert_eq!(s.two.next().await, offers(1));
    // The lease's slot is wanted by the other one, which hears of it at once.
    s.link.post(7, complete(&lease)).await.unwrap();
    assert_eq!(s.two.next().await, offers(1));
    assert_eq!(s.one.asked().await.1, complete(&lease));
}

#[tokio::test]
async fn nothing_is_taken_from_a_node_that_wants_something_itself() {
    let mut s = Story::begin().await;
    s.one.push(wants(1)).await;
    for n in 1..=2 {
        s.one.push(task(1, n)).await;
    }
    let first = s.started().await;
    s.started().await;
    // What the second node has answered behind its wish is known when the wish is.
    let (answered, ()) = tokio::join!(s.link.request(Request::DescribeTask(task_of(2, 9))), async {
        let (id, _) = s.two.asked().await;
        s.two.push(wants(9)).await;
        s.two.answer(id, Reply::Done).await;
    });
    answered.unwrap();
    s.link.post(7, complete(&first)).await.unwrap();
    assert_eq!(s.two.next().await, offers(1), "what becomes free is for who has less");
    assert_eq!(s.one.asked().await.1, complete(&first), "and no withdrawal was before it");
    s.one.push(wants(0)).await;
    assert_eq!(s.one.asked().await.1, withdraw(2));
}

#[tokio::test]
async fn a_lost_connection_forgets_what_was_promised_on_it_and_what_was_asked_back() {
    let mut s = Story::begin().await;
    s.two.push(wants(2)).await;
    let (_, request) = s.one.asked().await;
    assert_eq!(request, withdraw(2));
    s.one.close(CLOSE_SHUTDOWN, "bye");
    // All of them are free, and the other node is the only one that leads.
    assert_eq!(s.two.next().await, offers(SLOTS));
    let mut one = accept(&s.nodes, 0).await;
    introduced(&mut one, 1).await;
    one.push(wants(1)).await;
    s.two.push(wants(0)).await;
    let (id, request) = s.two.asked().await;
    assert_eq!(request, withdraw(1));
    s.two.answer(id, Reply::Withdrawn { slots: 1 }).await;
    assert_eq!(one.next().await, offers(1));
}

#[tokio::test]
async fn a_worker_that_drains_says_so_to_every_node() {
    let mut s = Story::begin().await;
    s.link.drain();
    let nothing = Subscribe { queue: QUEUE.into(), tasks: vec![], workflows: vec![] };
    assert_eq!(s.one.asked().await.1, Request::Subscribe(nothing.clone()));
    assert_eq!(s.two.asked().await.1, Request::Subscribe(nothing));
}
