//! A node whose work waits for slots says so, to few at a time; and what a worker promised and nobody uses, it gives back.

use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, submit};
use coda_protocol::frame::Frame;
use coda_protocol::ids::WorkKind;
use coda_protocol::payload::Payload;
use coda_protocol::push::{Push, Wants};
use coda_protocol::reply::Reply;
use coda_protocol::request::{CompleteTask, Credit, Request, Withdraw};

async fn withdraw(raw: &mut Raw, slots: u32) -> u32 {
    let withdraw = Withdraw { queue: "q".into(), kind: WorkKind::Task, slots };
    match raw.ask(Request::Withdraw(withdraw)).await {
        Ok(Reply::Withdrawn { slots }) => slots,
        other => panic!("{other:?}"),
    }
}

fn wants(wanted: u32) -> Push {
    Push::Wants(Wants { queue: "q".into(), kind: WorkKind::Task, wanted })
}

#[tokio::test]
async fn what_is_free_is_given_back_and_nothing_else_is() {
    let mut node = TestNode::start_groups(2).await;
    let mut raw = node.raw().await.greet().await;
    assert_eq!(withdraw(&mut raw, 3).await, 0, "of a queue that it does not serve");
    raw.resume(2).await;
    raw.serve("q", &["t"], 5).await;
    raw.ask(submit("t", "q")).await.unwrap();
    raw.task().await;
    assert_eq!([withdraw(&mut raw, 3).await, withdraw(&mut raw, 3).await, withdraw(&mut raw, 3).await], [3, 1, 0]);
    raw.ask(submit("t", "q")).await.unwrap();
    assert_eq!(raw.pushes_so_far().await, [], "no slot is left");
    // Without an id nobody would learn how many they were: nothing is taken.
    raw.credit("q", 1).await;
    raw.task().await;
    raw.credit("q", 2).await;
    let request = Request::Withdraw(Withdraw { queue: "q".into(), kind: WorkKind::Task, slots: 2 });
    raw.say_frame(&Frame::Request { id: 0, request }).await;
    assert_eq!(withdraw(&mut raw, 9).await, 2);
    // A new subscription has none.
    raw.credit("q", 2).await;
    raw.subscribe("q", &["t"]).await;
    assert_eq!(withdraw(&mut raw, 9).await, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_node_without_others_says_nothing() {
    let mut node = TestNode::start().await;
    let mut raw = node.raw().await.greet().await;
    raw.serve("q", &["t"], 0).await;
    raw.ask(submit("t", "q")).await.unwrap();
    // As long as it takes to be told, many times over.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(raw.pushes_so_far().await, []);
    node.stop().await;
}

#[tokio::test]
async fn work_that_waits_for_slots_is_spoken_of_until_it_has_them() {
    let mut node = TestNode::start_groups(2).await;
    node.node().imagine_another();
    let mut raw = node.raw().await.greet().await;
    raw.resume(2).await;
    raw.serve("q", &["t"], 0).await;
    for _ in 0..3 {
        raw.ask(submit("t", "q")).await.unwrap();
    }
    // What was ready when the node looked.
    let Push::Wants(first) = raw.push().await else { panic!() };
    assert!((1..=3).contains(&first.wanted) && first.kind == WorkKind::Task && first.queue == "q");
    // Said again, until all three are known to wait.
    while raw.push().await != wants(3) {}
    raw.credit("q", 3).await;
    // Both groups lease, and a third hand tells what waits: in which order that comes is not said.
    let (mut leased, mut wanted) = (Vec::new(), 3);
    while leased.len() < 3 || wanted > 0 {
        match raw.push().await {
            Push::Task(lease) => leased.push(lease),
            Push::Wants(wants) => wanted = wants.wanted,
            other => panic!("{other:?}"),
        }
    }
    // With slots to spare nothing waits, and nothing is said.
    raw.credit("q", 9).await;
    for lease in leased {
        let outcome = Ok(Payload::json("1"));
        raw.ask(Request::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome })).await.unwrap();
        raw.ask(submit("t", "q")).await.unwrap();
        raw.task().await;
    }
    assert_eq!(raw.pushes_so_far().await, []);
    node.stop().await;
}

#[tokio::test]
async fn work_is_not_spoken_of_while_its_queue_is_paused_and_is_when_its_slots_are_gone_by_then() {
    let mut node = TestNode::start().await;
    node.node().imagine_another();
    let mut one = node.raw().await.greet().await;
    let mut other = node.raw().await.greet().await;
    one.serve("q", &["t"], 1).await;
    other.serve("q", &["t"], 0).await;
    one.ask(Request::PauseQueue("q".into())).await.unwrap();
    one.ask(submit("t", "q")).await.unwrap();
    assert_eq!(withdraw(&mut one, 9).await, 1);
    assert_eq!([one.pushes_so_far().await, other.pushes_so_far().await], [[], []]);
    one.ask(Request::UnpauseQueue("q".into())).await.unwrap();
    assert_eq!([one.push().await, other.push().await], [wants(1), wants(1)]);
    node.stop().await;
}

#[tokio::test]
async fn only_those_are_asked_who_could_do_it_and_have_no_slot() {
    let mut node = TestNode::start().await;
    node.node().imagine_another();
    let mut raws = Vec::new();
    for (names, slots) in [(["a"], 0), (["b"], 0), (["a"], 0)] {
        let mut raw = node.raw().await.greet().await;
        raw.serve("q", &names, slots).await;
        // Slots for runs are no help.
        let credit = Credit { queue: "q".into(), kind: WorkKind::Run, slots: 3 };
        raw.say_frame(&Frame::Request { id: 0, request: Request::Credit(credit) }).await;
        raws.push(raw);
    }
    raws[1].ask(submit("a", "q")).await.unwrap();
    for i in [0, 2] {
        assert_eq!(raws[i].push().await, wants(1), "one task for two");
    }
    assert_eq!(raws[1].pushes_so_far().await, []);
    node.stop().await;
}
