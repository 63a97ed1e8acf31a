//! Starting work and waiting for it.

use coda_client::protocol::frame::CLOSE_SHUTDOWN;
use coda_client::protocol::ids::{GroupId, WorkKind};
use coda_client::protocol::payload::{Failure, Payload};
use coda_client::protocol::reject::Reject;
use coda_client::protocol::reply::{QueueCursor, QueuePage, QueuePlace, QueueSummary, Reply};
use coda_client::protocol::request::Request;
use coda_client::{Client, RunError, StartOptions};

use crate::node::{Node, Peer};

async fn connected(node: &Node) -> (Client, Peer) {
    let (client, peer) = tokio::join!(Client::connect(node.options()), node.accept());
    (client.unwrap(), peer)
}

#[tokio::test]
async fn a_result_survives_reconnects_and_may_be_read_again() {
    let node = Node::start();
    let (client, mut peer) = connected(&node).await;
    let serve = async {
        let (id, Request::StartRun(start)) = peer.asked().await else { panic!() };
        assert_eq!((&*start.workflow, &*start.queue, &start.input.data[..]), ("flow", "default", &b"[1,2]"[..]));
        peer.answer(id, Reply::Started { existed: false }).await;
        let (id, wait) = peer.asked().await;
        assert_eq!(wait, Request::AwaitRun(start.run));
        peer.close(CLOSE_SHUTDOWN, "bye");
        let mut peer = node.accept().await;
        assert_eq!(peer.asked().await, (id, wait.clone()));
        peer.answer(id, Reply::Ended(Ok(Payload::json("3")))).await;
        let (id, again) = peer.asked().await;
        assert_eq!(again, wait);
        peer.answer(id, Reply::Ended(Ok(Payload::json("3")))).await;
        // Dropped with its last answer unsent otherwise.
        peer
    };
    let ask = async {
        let run = client.start_json("flow", &[1, 2]).await.unwrap();
        assert!(!run.existed());
        assert_eq!(run.result_json::<u32>().await, Ok(3));
        assert_eq!(run.result_json::<u32>().await, Ok(3));
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_failure_and_a_rejection_are_told_apart() {
    let node = Node::start();
    let (client, mut peer) = connected(&node).await;
    let failure = Failure { kind: "E".into(), message: "no".into(), traceback: String::new(), retryable: true };
    let serve = async {
        let (id, _) = peer.asked().await;
        peer.answer(id, Reply::Started { existed: true }).await;
        let (id, _) = peer.asked().await;
        peer.answer(id, Reply::Ended(Err(failure.clone()))).await;
        let (id, _) = peer.asked().await;
        peer.refuse(id, Reject::BadPriority { priority: 70 }).await;
    };
    let ask = async {
        let task = client.submit_json("send", &()).await.unwrap();
        assert!(task.existed());
        let error = task.result().await.unwrap_err();
        assert_eq!((error.clone(), error.code()), (RunError::Failed(failure.clone()), "CODA4016"));
        let error = client.start(StartOptions::new("flow").priority(70)).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "CODA2008");
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_reply_of_the_wrong_kind_is_an_error_with_a_code() {
    let node = Node::start();
    let (client, mut peer) = connected(&node).await;
    let summary = QueueSummary { queue: "q".into(), paused: true, ready: 1, leased: 2, delayed: 3, workers: 4 };
    let serve = async {
        // Two pages, of which the second goes on with the same queue.
        let place = QueuePlace::Lane { queue: "q".into(), kind: WorkKind::Run, name: "n".into() };
        let next = QueueCursor { group: GroupId(1), place };
        let (id, first) = peer.asked().await;
        assert_eq!(first, Request::ListQueuesFrom(None));
        let page = QueuePage { queues: vec![summary.clone()], next: Some(next.clone()) };
        peer.answer(id, Reply::QueuePage(page)).await;
        let (id, second) = peer.asked().await;
        assert_eq!(second, Request::ListQueuesFrom(Some(next)));
        peer.answer(id, Reply::QueuePage(QueuePage { queues: vec![summary.clone()], next: None })).await;
        let (id, _) = peer.asked().await;
        peer.answer(id, Reply::Done).await;
    };
    let ask = async {
        let both = QueueSummary { ready: 2, leased: 4, delayed: 6, ..summary.clone() };
        assert_eq!(client.list_queues().await.unwrap(), [both]);
        assert_eq!(client.describe_queue("q").await.unwrap_err().code(), "CODA4012");
    };
    tokio::join!(serve, ask);
}
