//! Bytes that no Coda program sends. Each costs the connection it came on, one line in the log, and nobody else.

use std::time::Duration;

use coda_client::{BoxError, Client, SubmitOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, bytes_of, client_config, endpoint, tls};
use coda_node_tests::work::{Running, run};
use coda_node_tests::{logs, soon, until};
use coda_protocol::frame::{Frame, Hello, Welcome};
use coda_protocol::ids::{NodeId, Position, RunId, SessionId, Work};
use coda_protocol::limits::{FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};
use coda_protocol::push::Push;
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::{Answer, Reply};
use coda_protocol::request::Request;
use coda_protocol::version::WIRE_VERSIONS;
use tokio::task::JoinHandle;

/// A client and a worker that are busy while others misbehave.
struct Bystanders {
    worker: Running,
    asking: JoinHandle<Client>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Bystanders {
    async fn of(node: &TestNode) -> Self {
        let worker = run(node.worker().task("echo", |n: u64| async move { Ok::<_, BoxError>(n) }));
        let client = node.client().await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let asking = tokio::spawn(async move {
            let mut n = 0;
            while !*stopped.borrow() {
                n += 1;
                let task = client.submit_json("echo", &n).await.expect("an answer");
                assert_eq!(soon("a result", task.result_json::<u64>()).await.expect("a result"), n);
            }
            assert!(n > 0);
            client
        });
        Self { worker, asking, stop }
    }

    /// All that they asked was answered, on the connections that they had from the start.
    async fn end(self, node: &mut TestNode) {
        self.stop.send_replace(true);
        let client = soon("the last answer", self.asking).await.expect("every answer was right");
        client.close().await;
        self.worker.stop().await;
        node.stop().await;
    }
}

/// The connection is closed like this, and the log says so once.
async fn refused(raw: &Raw, code: u32, reason: &str) {
    let (closed, said) = raw.closed().await;
    assert_eq!(closed, code, "{said}");
    assert!(said.contains(reason), "{said}");
    let local = raw.local();
    let lines = until("a line in the log", || async {
        let lines = logs::warnings_about(local);
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&format!("CODA{code}")), "{lines:?}");
}

fn request(id: u64) -> Frame {
    Frame::Request { id, request: Request::AwaitRun(RunId([1; 16])) }
}

/// A frame of this kind with these bytes as its body.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = ((9 + body.len()) as u32).to_be_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(&7_u64.to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_close_their_connection_with_a_code_and_a_reason() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let welcome = Frame::Welcome(Welcome { version: 1, node: NodeId(1), incarnation: 1, server: "x".into() });
    let answer = Frame::Answer { id: 1, answer: Answer { position: Position::default(), result: Ok(Reply::Done) } };
    let push = Frame::Push(Push::LeaseLost { work: Work::Run(RunId([1; 16])), lease: coda_protocol::ids::LeaseId(1) });
    let hello =
        Frame::Hello { versions: WIRE_VERSIONS, hello: Hello { session: SessionId([1; 16]), agent: "x".into() } };
    let too_long = [&bytes_of(&request(1))[..4], &[0xff; 40]].concat();
    let mut trailing = bytes_of(&request(1));
    trailing[3] += 1;
    trailing.push(0);
    let cases: Vec<(Vec<u8>, u32, &str)> = vec![
        (u32::MAX.to_be_bytes().to_vec(), 1001, "larger than the 5242880 allowed"),
        (((FRAME_BYTES_MAX + 1) as u32).to_be_bytes().to_vec(), 1001, "larger than"),
        (vec![0, 0, 0, 0], 1002, "too short"),
        (vec![0, 0, 0, 8, 3, 0, 0, 0], 1002, "too short"),
        (frame(0, &[]), 1003, "unknown frame kind 0"),
        (frame(99, b"whatever"), 1003, "unknown frame kind 99"),
        (too_long, 1003, "unknown frame kind 255"),
        (frame(3, &[0xff; 64]), 1006, "malformed request"),
        (frame(3, &[]), 1006, "malformed request"),
        (trailing, 1006, "1 bytes too many"),
        // A vector of steps that claims 2^60 elements.
        (frame(3, &[&[7][..], &[0; 17], &[253], &(1_u64 << 60).to_le_bytes()].concat()), 1006, "malformed request"),
        (frame(4, &[0xff; 3]), 1006, "malformed answer"),
        (bytes_of(&hello), 1007, "a second hello"),
        (frame(1, b"GET / HTTP/1.1"), 1004, "not a Coda hello"),
        (bytes_of(&welcome), 1007, "a welcome"),
        (bytes_of(&answer), 1007, "an answer"),
        (bytes_of(&push), 1007, "a push"),
    ];
    for (bytes, code, reason) in cases {
        let mut raw = node.raw().await.greet().await;
        raw.say(&bytes).await;
        refused(&raw, code, reason).await;
    }
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_in_the_middle_of_a_frame_is_told_so() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let mut raw = node.raw().await.greet().await;
    let bytes = bytes_of(&request(1));
    raw.say(&bytes[..bytes.len() - 1]).await;
    raw.send.finish().unwrap();
    refused(&raw, 1002, "too short").await;
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_begin_with_a_hello_is_told_so() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let cases: Vec<(Vec<u8>, u32, &str)> = vec![
        (bytes_of(&request(1)), 1004, "not a Coda hello"),
        (b"GET / HTTP/1.1\r\nHost: coda\r\n\r\n".to_vec(), 1001, "larger than"),
        (frame(1, b"CO"), 1004, "not a Coda hello"),
        (frame(1, b"CODA"), 1004, "not a Coda hello"),
        (frame(1, b"CODA\0\x01\0\x01"), 1006, "malformed hello"),
        (frame(9, b""), 1003, "unknown frame kind 9"),
        // A first frame of megabytes is refused before its bytes are taken.
        (vec![0, 0x4f, 0, 0], 1004, "not a Coda hello"),
    ];
    for (bytes, code, reason) in cases {
        let mut raw = node.raw().await;
        raw.say(&bytes).await;
        refused(&raw, code, reason).await;
    }
    let mut raw = node.raw().await;
    raw.say(b"\0\0").await;
    raw.send.finish().unwrap();
    refused(&raw, 1004, "not a Coda hello").await;
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_close_their_connection_whatever_they_are() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..60 {
        let mut raw = node.raw().await;
        if round % 2 == 0 {
            raw = raw.greet().await;
        }
        let mut garbage: Vec<u8> = (0..512).map(|_| random() as u8).collect();
        if round % 3 == 0 {
            // A good length, so that the rest is looked at.
            garbage[..4].copy_from_slice(&500_u32.to_be_bytes());
            garbage[4] = (round % 7) as u8;
        }
        if round % 4 == 0 {
            raw.payload(&garbage).await;
        }
        raw.say(&garbage).await;
        let (code, reason) = raw.closed().await;
        assert!((1001..=1007).contains(&code), "{round}: {code} {reason}");
        assert_eq!(logs::warnings_about(raw.local()).len(), 1);
    }
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_streams_are_held_to_the_same_rules() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let two = [bytes_of(&request(1)), bytes_of(&request(2))].concat();
    let cases: Vec<(Vec<u8>, u32, &str)> = vec![
        (vec![0xff; 100], 1001, "larger than"),
        (Vec::new(), 1002, "too short"),
        (frame(3, &[0xff; 64]), 1006, "malformed request"),
        (bytes_of(&request(1))[..20].to_vec(), 1002, "too short"),
        (two, 1007, "behind the one frame"),
        (frame(9, &[]), 1003, "unknown frame kind"),
        (vec![0; FRAME_BYTES_MAX + 5], 1007, "behind the one frame"),
        (
            [&(FRAME_BYTES_MAX as u32).to_be_bytes()[..], &vec![0; FRAME_BYTES_MAX + 1]].concat(),
            1007,
            "behind the one frame",
        ),
    ];
    for (bytes, code, reason) in cases {
        let raw = node.raw().await.greet().await;
        raw.payload(&bytes).await;
        refused(&raw, code, reason).await;
    }
    // A stream that is given up half-way is no offence.
    let mut raw = node.raw().await.greet().await;
    let mut stream = raw.connection.open_uni().await.unwrap();
    stream.write_all(&[0, 0, 1, 0, 3]).await.unwrap();
    stream.reset(1_u32.into()).unwrap();
    assert!(raw.ask(Request::DescribeNode).await.is_ok());
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_never_says_hello_is_closed_in_time() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    // One opens no stream at all, one says half a hello.
    let silent = endpoint();
    let silent = soon(
        "a handshake",
        silent.connect_with(client_config(tls(&node.ca(), &[b"coda"])), node.address, "coda").unwrap(),
    )
    .await
    .unwrap();
    let mut half = node.raw().await;
    half.say(&[0, 0, 0, 40, 1, 0, 0]).await;
    // Both keep the connection alive, so that it is not silence that ends it.
    let asked = tokio::time::Instant::now();
    let closed = coda_node_tests::raw::closed(&silent);
    let (silent, half) = tokio::join!(closed, half.closed());
    assert_eq!(silent, (2, "no hello in time".into()));
    assert_eq!(half, (2, "no hello in time".into()));
    assert!(asked.elapsed() < Duration::from_secs(12));
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_and_stray_datagrams_hold_nobody_up() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in [1, 20, 100, 1_200, 1_400] {
        for first in [0x00, 0x40, 0xc0, 0xff] {
            let mut datagram = vec![0xa5; size];
            datagram[0] = first;
            socket.send_to(&datagram, node.address).await.unwrap();
        }
    }
    // Handshakes begun and abandoned: the endpoint that would answer is gone at once.
    for _ in 0..50 {
        let config = client_config(tls(&node.ca(), &[b"coda"]));
        let connecting = endpoint().connect_with(config, node.address, "coda").unwrap();
        drop(tokio::time::timeout(Duration::from_micros(300), connecting).await);
    }
    let mut raw = node.raw().await.greet().await;
    assert!(raw.ask(Request::DescribeNode).await.is_ok());
    bystanders.end(&mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_are_served_and_let_go() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let endpoint = endpoint();
    let config = client_config(tls(&node.ca(), &[b"coda"]));
    let mut all = Vec::new();
    for _ in 0..20 {
        let connecting = (0..50).map(|_| {
            let (endpoint, config, address) = (endpoint.clone(), config.clone(), node.address);
            tokio::spawn(async move { Raw::connect_with(endpoint, config, address).await.greet().await })
        });
        for raw in connecting.collect::<Vec<_>>() {
            all.push(soon("a welcome", raw).await.unwrap());
        }
    }
    let client = node.client().await;
    let sessions = client.describe_node().await.unwrap().sessions;
    assert!(sessions >= 1_000, "{sessions}");
    for raw in &mut all {
        raw.post(Request::DescribeNode).await;
    }
    for raw in &mut all {
        assert!(raw.answer(1).await.is_ok());
    }
    for raw in &all {
        raw.connection.close(0_u32.into(), b"");
    }
    until("all are forgotten", || async { (client.describe_node().await.unwrap().sessions < 10).then_some(()) }).await;
    bystanders.end(&mut node).await;
}

/// More than a session may have in flight.
const WAITS: usize = REQUESTS_IN_FLIGHT_MAX + 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_bound_and_names_beyond_theirs_are_refused_and_not_fatal() {
    let mut node = TestNode::start().await;
    let bystanders = Bystanders::of(&node).await;
    let mut raw = node.raw().await.greet().await;
    let long = "x".repeat(100_000);
    let refused = raw.ask(Request::DescribeQueue(long.as_str().into())).await;
    assert!(matches!(refused, Err(Refusal::Reject(_))), "{refused:?}");
    let refused = raw.ask(Request::PauseQueue("a\nb".into())).await;
    assert!(matches!(refused, Err(Refusal::Reject(_))), "{refused:?}");
    // Far more waits than may wait. Which of them are refused depends on how fast the node takes them in, how many does not.
    let client = node.client().await;
    let never = client.submit(SubmitOptions::new("nobody does this")).await.unwrap();
    let first = 100;
    let mut bytes = Vec::new();
    for id in first..first + WAITS as u64 {
        Frame::Request { id, request: Request::AwaitTask(never.id()) }.encode(&mut bytes);
    }
    for chunk in bytes.chunks(64 << 10) {
        raw.say(chunk).await;
    }
    for _ in REQUESTS_IN_FLIGHT_MAX..WAITS {
        let Frame::Answer { id, answer } = raw.frame().await else { panic!("not an answer") };
        assert!(id >= first, "{id}");
        let refused = matches!(answer.result, Err(Refusal::Unavailable(Unavailable::Overloaded { .. })));
        assert!(refused, "{:?}", answer.result);
    }
    assert!(logs::warnings_about(raw.local()).is_empty());
    raw.close(1).await;
    bystanders.end(&mut node).await;
}
