//! One link: handshake, answers, large frames, reconnects, refusals.

use std::time::Duration;

use coda_client::protocol::frame::{CLOSE_GOODBYE, CLOSE_SHUTDOWN, Frame, FrameError};
use coda_client::protocol::ids::{Millis, RunId, TaskId};
use coda_client::protocol::payload::Payload;
use coda_client::protocol::policy::RetryPolicy;
use coda_client::protocol::reject::{Reject, Unavailable};
use coda_client::protocol::reply::Reply;
use coda_client::protocol::request::{Request, SubmitTask};
use coda_client::{ClientError, ConnectOptions, Event, Link};

use crate::node::{Node, answer, within};

const LARGE_BYTES: usize = 3 << 20;

fn submit(bytes: usize) -> Request {
    Request::SubmitTask(SubmitTask {
        task: TaskId::random(),
        name: "send".into(),
        queue: "emails".into(),
        args: Payload::json(vec![b'1'; bytes]),
        priority: 4,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    })
}

#[tokio::test]
async fn a_request_is_answered_with_its_position() {
    let node = Node::start();
    let options = node.options();
    let (session, agent) = (options.session, options.agent.clone());
    let (opened, mut peer) = tokio::join!(Link::open(options), node.accept());
    assert_eq!((peer.hello.session, &peer.hello.agent), (session, &agent));
    let (link, mut events) = opened.unwrap();
    assert!(matches!(events.recv().await, Some(Event::Connected { first: true, welcome }) if welcome.incarnation == 7));
    let asking = tokio::spawn(async move { link.request(Request::DescribeNode).await });
    let (id, request) = peer.asked().await;
    assert_eq!(request, Request::DescribeNode);
    peer.answer(id, Reply::Done).await;
    let (reply, position) = asking.await.unwrap().unwrap();
    assert_eq!((reply, position.index), (Reply::Done, id));
    // The task's link was the last one.
    assert_eq!(peer.close_code().await, u64::from(CLOSE_GOODBYE));
    assert!(matches!(events.recv().await, Some(Event::Failed(ClientError::Closed))));
    assert!(events.recv().await.is_none());
}

#[tokio::test]
async fn a_version_mismatch_is_final_and_says_which_side_to_upgrade() {
    let node = Node::start();
    let refuse = async {
        let peer = node.greeted().await;
        let error = FrameError::VersionMismatch { ours: (5, 6), theirs: (1, 1) };
        peer.connection.close(error.close_code().into(), error.to_string().as_bytes());
        peer.connection.closed().await;
    };
    let (opened, ()) = tokio::join!(Link::open(node.options()), refuse);
    let error = opened.map(drop).unwrap_err();
    assert_eq!(error.code(), "CODA1005");
    assert!(
        error.to_string().contains("the client speaks (1, 1), this node (5, 6); upgrade the older side"),
        "{error}"
    );
}

#[tokio::test]
async fn a_welcome_of_an_unknown_version_is_a_mismatch_too() {
    let node = Node::start();
    let welcome = async {
        let mut peer = node.greeted().await;
        peer.welcome(99).await;
        peer.close_code().await
    };
    let (opened, code) = tokio::join!(Link::open(node.options()), welcome);
    assert_eq!((opened.map(drop).unwrap_err().code(), code), ("CODA1005", 1005));
}

#[tokio::test]
async fn a_node_of_another_ca_is_not_trusted() {
    let (node, other) = (Node::start(), Node::start());
    let options = ConnectOptions { ca_pem: other.ca_pem.clone().into_bytes(), ..node.options() };
    let refused = async { node.refused().await };
    let (opened, ()) = tokio::join!(Link::open(options), refused);
    assert_eq!(opened.map(drop).unwrap_err().code(), "CODA4008");
    let options = ConnectOptions { ca_pem: b"nonsense".to_vec(), ..node.options() };
    assert_eq!(Link::open(options).await.map(drop).unwrap_err().code(), "CODA4005");
}

#[tokio::test]
async fn with_no_node_there_open_ends_with_its_timeout() {
    let node = Node::start();
    let options = ConnectOptions { connect_timeout: Duration::from_millis(50), ..node.options() };
    let error = Link::open(options).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "CODA4007");
}

#[tokio::test]
async fn a_node_that_has_too_many_connections_is_tried_again_and_says_so_in_the_end() {
    let node = Node::start();
    let (opened, _peer) = tokio::join!(Link::open(node.options()), async {
        node.turn_away().await;
        node.turn_away().await;
        node.accept().await
    });
    opened.unwrap();
    let options = ConnectOptions { connect_timeout: Duration::from_millis(200), ..node.options() };
    let turning_away = async {
        loop {
            node.turn_away().await;
        }
    };
    let error = tokio::select! {
        opened = Link::open(options) => opened.map(drop).unwrap_err(),
        () = turning_away => unreachable!(),
    };
    assert_eq!(error.code(), "CODA4007");
    assert!(error.to_string().contains("CODA1009"), "{error}");
}

#[tokio::test]
async fn a_client_that_was_closed_as_too_slow_comes_back_and_asks_again() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, _) = opened.unwrap();
    let asking = tokio::spawn(async move { link.request(Request::DescribeNode).await });
    peer.asked().await;
    let slow = FrameError::TooSlow { bytes_max: 9 };
    peer.close(slow.close_code(), &slow.to_string());
    let mut again = node.accept().await;
    let (id, _) = again.asked().await;
    again.answer(id, Reply::Done).await;
    assert!(asking.await.unwrap().is_ok());
}

#[tokio::test]
async fn large_frames_travel_on_streams_of_their_own_in_both_directions() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, mut events) = opened.unwrap();
    events.recv().await;
    link.post(1, submit(LARGE_BYTES)).await.unwrap();
    link.post(2, submit(10)).await.unwrap();
    let (large, request) = peer.next_alone().await;
    assert!(matches!(request, Request::SubmitTask(task) if task.args.data.len() == LARGE_BYTES));
    let (small, _) = peer.asked().await;
    let reply = Reply::Ended(Ok(Payload::json(vec![b'2'; LARGE_BYTES])));
    peer.write_alone(answer(large, Ok(reply.clone()))).await;
    assert!(
        matches!(within(events.recv()).await, Some(Event::Answered { token: 1, result: Ok((got, _)) }) if got == reply)
    );
    peer.answer(small, Reply::Done).await;
    assert!(matches!(within(events.recv()).await, Some(Event::Answered { token: 2, .. })));
}

#[tokio::test]
async fn after_a_reconnect_everything_unanswered_is_sent_again_with_the_same_ids() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, mut events) = opened.unwrap();
    let requests = [submit(1), submit(LARGE_BYTES), submit(3)];
    for (token, request) in requests.iter().enumerate() {
        link.post(token as u64, request.clone()).await.unwrap();
    }
    let mut ids = Vec::new();
    for request in [&requests[0], &requests[2]] {
        let (id, got) = peer.asked().await;
        assert_eq!(&got, request);
        ids.push(id);
    }
    peer.answer(ids[0], Reply::Done).await;
    assert!(matches!(within(events.recv()).await, Some(Event::Connected { .. })));
    assert!(matches!(within(events.recv()).await, Some(Event::Answered { token: 0, .. })));
    peer.close(CLOSE_SHUTDOWN, "bye");
    let mut peer = node.accept().await;
    assert_eq!(peer.asked().await, (ids[1], requests[2].clone()));
    let (large, got) = peer.next_alone().await;
    assert_eq!(got, requests[1]);
    for id in [ids[1], large] {
        peer.answer(id, Reply::Done).await;
    }
    let mut tokens = Vec::new();
    while tokens.len() < 2 {
        match within(events.recv()).await.unwrap() {
            Event::Answered { token, result } => tokens.push((token, result.is_ok())),
            Event::Connected { first, .. } => assert!(!first),
            Event::Disconnected => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tokens, [(2, true), (1, true)]);
}

#[tokio::test]
async fn a_greeting_goes_first_on_every_connection() {
    let node = Node::start();
    let opening = Link::open_greeting(node.options(), || vec![Request::ListQueues]);
    let (opened, mut peer) = tokio::join!(opening, node.accept());
    let (link, _events) = opened.unwrap();
    link.post(1, Request::DescribeNode).await.unwrap();
    assert_eq!([peer.asked().await.1, peer.asked().await.1], [Request::ListQueues, Request::DescribeNode]);
    peer.close(CLOSE_SHUTDOWN, "bye");
    let mut peer = node.accept().await;
    assert_eq!([peer.asked().await.1, peer.asked().await.1], [Request::ListQueues, Request::DescribeNode]);
}

#[tokio::test]
async fn what_is_unavailable_is_tried_again_and_a_rejection_is_not() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, _events) = opened.unwrap();
    let asking = tokio::spawn(async move { link.request(submit(1)).await });
    let (id, first) = peer.asked().await;
    for unavailable in [
        Unavailable::Overloaded { retry_after_ms: 1 },
        Unavailable::NotLeader { leader: None },
        Unavailable::ShuttingDown,
    ] {
        peer.refuse(id, unavailable).await;
        assert_eq!(peer.asked().await, (id, first.clone()));
    }
    peer.refuse(id, Reject::BadPriority { priority: 77 }).await;
    assert_eq!(within(asking).await.unwrap(), Err(ClientError::Refused(Reject::BadPriority { priority: 77 })));
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_names_the_last_refusal() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, _events) = opened.unwrap();
    let refuse = async {
        let (id, _) = peer.asked().await;
        peer.refuse(id, Unavailable::Overloaded { retry_after_ms: 60_000 }).await;
    };
    let asking = link.request_within(Request::DescribeNode, Duration::from_millis(300));
    let (result, ()) = tokio::join!(asking, refuse);
    let error = result.unwrap_err();
    assert_eq!(error.code(), "CODA4009");
    assert!(error.to_string().contains("overloaded"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_link_with_a_code() {
    let lying_length = u32::MAX.to_be_bytes().to_vec();
    let unknown_kind = [&9u32.to_be_bytes()[..], &[77; 9]].concat();
    let too_short = [&3u32.to_be_bytes()[..], &[1; 3]].concat();
    let malformed = [&10u32.to_be_bytes()[..], &[4; 10]].concat();
    let expected =
        [(lying_length, "CODA1001"), (unknown_kind, "CODA1003"), (too_short, "CODA1002"), (malformed, "CODA1006")];
    for (bytes, code) in expected {
        let node = Node::start();
        let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
        let (link, _events) = opened.unwrap();
        peer.write_raw(&bytes).await;
        let error = within(link.request(Request::DescribeNode)).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert_eq!(format!("CODA{}", peer.close_code().await), code);
        // And it stays so.
        assert_eq!(link.request(Request::DescribeNode).await.unwrap_err(), error);
    }
}

#[tokio::test]
async fn a_frame_that_only_clients_send_is_refused() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, _events) = opened.unwrap();
    peer.write(&[Frame::Request { id: 1, request: Request::DescribeNode }]).await;
    assert_eq!(within(link.request(Request::DescribeNode)).await.unwrap_err().code(), "CODA1007");
}

#[tokio::test]
async fn waits_for_one_run_share_one_request() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, _events) = opened.unwrap();
    let wait = || link.request(Request::AwaitRun(RunId([1; 16])));
    let serve = async {
        let (id, _) = peer.asked().await;
        let (other, request) = peer.asked().await;
        assert_eq!(request, Request::DescribeNode);
        peer.answer(other, Reply::Done).await;
        peer.answer(id, Reply::Ended(Ok(Payload::json("1")))).await;
    };
    let (a, b, c, ()) = tokio::join!(wait(), wait(), link.request(Request::DescribeNode), serve);
    assert_eq!(a, b);
    assert!(a.is_ok() && c.is_ok());
}

#[tokio::test]
async fn too_many_unanswered_requests_make_the_next_one_wait() {
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, mut events) = opened.unwrap();
    let mut posted = 0;
    let parcel = loop {
        match link.try_post(posted, submit(1)).unwrap() {
            None => posted += 1,
            Some(parcel) => break parcel,
        }
    };
    assert!((1_000..16_384).contains(&posted));
    let sending = link.post_parcel(parcel);
    tokio::pin!(sending);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut sending).await.is_err());
    let mut seen = Vec::new();
    let (id, _) = peer.asked().await;
    peer.answer(id, Reply::Done).await;
    within(sending).await.unwrap();
    within(events.recv_many(&mut seen, 10)).await;
    for _ in 0..posted {
        peer.asked().await;
    }
}

/// `cargo test --release -p coda-client -- --ignored throughput --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    const REQUESTS: u64 = 300_000;
    const BATCH: usize = 1_024;
    let node = Node::start();
    let (opened, mut peer) = tokio::join!(Link::open(node.options()), node.accept());
    let (link, mut events) = opened.unwrap();
    tokio::spawn(async move { peer.echo().await });
    let since = std::time::Instant::now();
    let sender = link.clone();
    tokio::spawn(async move {
        for token in 0..REQUESTS {
            sender.post(token, submit(100)).await.unwrap();
        }
    });
    let (mut done, mut batch) = (0, Vec::new());
    while done < REQUESTS {
        events.recv_many(&mut batch, BATCH).await;
        done += batch.drain(..).filter(|event| matches!(event, Event::Answered { .. })).count() as u64;
    }
    println!("{:.0} requests/s", REQUESTS as f64 / since.elapsed().as_secs_f64());
}
