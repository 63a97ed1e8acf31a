//! Every answer says where in the log it stands: what a client saw before is never after what it asks next.

use std::time::Duration;

use coda_client::{Client, ClientError, SubmitOptions};
use coda_node_tests::cluster::TestCluster;
use coda_node_tests::{PATIENCE, raw, soon};
use coda_protocol::ids::{GroupId, LeaseId, Position, TaskId};
use coda_protocol::payload::Payload;
use coda_protocol::reject::{Refusal, Reject};
use coda_protocol::reply::{Answer, Reply};
use coda_protocol::request::{CompleteTask, Request, SubmitTask};

async fn ask(client: &Client, request: Request) -> Answer {
    soon("an answer", client.link().ask_within(request, PATIENCE)).await.expect("answered")
}

/// A task of another name under this id.
fn named(name: &str, task: TaskId) -> Request {
    match raw::submit(name, "default") {
        Request::SubmitTask(submit) => Request::SubmitTask(SubmitTask { task, ..submit }),
        other => panic!("{other:?} submits nothing"),
    }
}

fn known(answer: &Answer) -> Position {
    answer.position.known().unwrap_or_else(|| panic!("{answer:?} stands nowhere"))
}

fn in_order(positions: &[Position]) {
    assert!(positions.iter().all(|at| at.group == positions[0].group), "one group: {positions:?}");
    assert!(positions.is_sorted_by_key(|at| (at.index, at.term)), "{positions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_a_refusal_and_what_is_read_all_stand_in_the_log() {
    let cluster = TestCluster::start(1, 1, 1).await;
    let client = cluster.client().await;
    let (task, other) = (TaskId([7; 16]), TaskId([8; 16]));

    let missing = ask(&client, Request::DescribeTask(task)).await;
    assert!(matches!(missing.result, Err(Refusal::Reject(Reject::NoSuchTask { .. }))), "{missing:?}");
    let submitted = client.submit(SubmitOptions::new("charge").id(task)).await.unwrap();
    let again = client.submit(SubmitOptions::new("charge").id(task)).await.unwrap();
    let read = ask(&client, Request::DescribeTask(task)).await;
    let conflict = ask(&client, named("refund", task)).await;
    assert!(matches!(conflict.result, Err(Refusal::Reject(Reject::IdConflict { .. }))), "{conflict:?}");
    let unknown = ask(&client, Request::AwaitTask(other)).await;
    assert!(matches!(unknown.result, Err(Refusal::Reject(Reject::NoSuchTask { .. }))), "{unknown:?}");

    let [submitted, again] = [submitted, again].map(|handle| handle.position().expect("it was just submitted"));
    assert!(again.index > submitted.index, "each is an entry of its own: {submitted:?}, {again:?}");
    let (missing, read, conflict, unknown) = (known(&missing), known(&read), known(&conflict), known(&unknown));
    assert!(missing.index < submitted.index, "it was not there yet");
    in_order(&[missing, submitted, again, read, conflict, unknown]);

    assert_eq!(client.task(task).position(), None, "nobody has said so");
    let node = ask(&client, Request::DescribeNode).await;
    assert_eq!(node.position.known(), None, "no log says what a node says of itself");
    let pages = ask(&client, Request::ListQueuesFrom(None)).await;
    in_order(&[unknown, known(&pages)]);
    client.close().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_and_the_end_of_its_work_stand_in_the_log_too() {
    let cluster = TestCluster::start(1, 1, 1).await;
    let client = cluster.client().await;
    let mut worker = cluster.raw(1).await;
    worker.serve("default", &["charge"], 2).await;
    let submitted = client.submit(SubmitOptions::new("charge")).await.unwrap();
    let asked = submitted.position().expect("submitted");
    let lease = soon("a lease", worker.task()).await;
    assert_eq!(lease.task, submitted.id());
    assert!(lease.lease.index() >= asked.index, "granted with the entry that made it ready, or later");
    assert!(lease.lease >= LeaseId::granted(asked.index, 0));

    let end = |lease| {
        let outcome = Ok(Payload::json("1"));
        Request::CompleteTask(CompleteTask { task: submitted.id(), lease, outcome })
    };
    let stale = ask(&client, end(LeaseId::granted(asked.index, 0xffff))).await;
    assert_eq!(stale.result, Err(Refusal::Reject(Reject::StaleLease)));
    let ended = ask(&client, end(lease.lease)).await;
    assert_eq!(ended.result, Ok(Reply::Done));
    let (outcome, at) = soon("its outcome", submitted.outcome()).await.unwrap();
    assert_eq!(outcome, Ok(Payload::json("1")));
    let late = ask(&client, end(lease.lease)).await;
    in_order(&[asked, known(&stale), known(&ended), at, known(&late)]);
    client.close().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_an_end_hears_the_position_of_that_entry() {
    let cluster = TestCluster::start(1, 1, 1).await;
    let client = cluster.client().await;
    let mut worker = cluster.raw(1).await;
    worker.serve("default", &["charge"], 1).await;
    let submitted = client.submit(SubmitOptions::new("charge")).await.unwrap();
    let waiting = tokio::spawn({
        let submitted = submitted.clone();
        async move { submitted.outcome().await.unwrap().1 }
    });
    let lease = soon("a lease", worker.task()).await;
    let outcome = Ok(Payload::json("1"));
    let ended =
        ask(&client, Request::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome })).await;
    let heard = soon("the end", waiting).await.unwrap();
    // It had waited, or it came to a state that had ended already: never before the end.
    in_order(&[known(&ended), heard]);
    client.close().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_go_on_under_the_next_leader_in_a_later_term() {
    let cluster = TestCluster::start(3, 3, 1).await;
    let client = cluster.client().await;
    let task = TaskId::random();
    let submit = || client.submit(SubmitOptions::new("charge").id(task));
    let before = submit().await.unwrap().position().expect("submitted");
    let report = coda_node_tests::cluster::cluster_report(&client).await;
    let group = report.groups.iter().find(|group| group.group == GroupId(before.group)).expect("its group");
    let to = group.voters.iter().copied().find(|node| Some(*node) != group.leader);
    // A leader that has just begun may not have heard of the others yet.
    let transfer = async {
        while client.admin(PATIENCE).transfer_leader(group.group, to).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the leader hands over", transfer).await;
    // A question right behind the change: the state that the new leader answers from has the old one's entries last.
    let read = known(&ask(&client, Request::DescribeTask(task)).await);
    let after = submit().await.unwrap().position().expect("submitted");
    in_order(&[before, read, after]);
    assert!(after.term > before.term, "{before:?}, {after:?}");
    client.close().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_has_a_deadline_like_any_other() {
    let cluster = TestCluster::start(1, 1, 1).await;
    let client = cluster.client().await;
    let submitted = client.submit(SubmitOptions::new("nobody-does-this")).await.unwrap();
    let wait = Request::AwaitTask(submitted.id());
    let late = client.link().ask_within(wait.clone(), Duration::from_millis(50)).await;
    assert!(matches!(late, Err(ClientError::Deadline { ms: 50, .. })), "{late:?}");
    // One that was given up does not answer for the next.
    let mut worker = cluster.raw(1).await;
    worker.serve("default", &["nobody-does-this"], 1).await;
    let lease = soon("a lease", worker.task()).await;
    let outcome = Ok(Payload::json("2"));
    ask(&client, Request::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome })).await;
    let ended = ask(&client, wait).await;
    assert_eq!(ended.result, Ok(Reply::Ended(Ok(Payload::json("2")))));
    client.close().await;
    cluster.stop_all().await;
}
