//! Those who take as much as they can get: each meets a bound with a name, and the others hardly notice. One test: it
//! measures what the process takes, and times what the others wait.
//!
//! `docs/hostile-input.md` has the bounds in one table.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coda_broker::config::{
    INTAKE_BYTES_MAX, INTAKE_BYTES_PER_CONNECTION_MAX, INTAKE_GRACE, UNGREETED_PER_ADDRESS_MAX, UNGREETED_WINDOW_BYTES,
    UNPROVEN_HANDSHAKES_MAX,
};
use coda_client::{BoxError, Client, SubmitOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, client_config, endpoint, tls};
use coda_node_tests::work::run;
use coda_node_tests::{soon, until};
use coda_protocol::limits::FRAME_BYTES_MAX;
use coda_protocol::payload::Payload;
use coda_protocol::request::Request;
use quinn::{Connection, ConnectionError, Endpoint};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// How much more memory the process may take during an attack; test and node share it.
const RSS_BYTES_MAX: usize = 192 << 20;
/// How long others may wait for an answer during one, which on a quiet machine takes less than a millisecond. Builds are
/// not optimised, and two cores serve both sides.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the process has in memory.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// A client that asks all the time, and what it had to wait for at most.
struct Other {
    asking: JoinHandle<Duration>,
    stop: tokio::sync::watch::Sender<bool>,
    rss: usize,
}

impl Other {
    async fn of(client: &Client) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let client = client.clone();
        let asking = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !*stopped.borrow() {
                let asked = Instant::now();
                let task = client.submit_json("echo", &7).await.expect("accepted");
                assert_eq!(soon("a result", task.result_json::<u64>()).await.expect("a result"), 7);
                longest = longest.max(asked.elapsed());
            }
            longest
        });
        Self { asking, stop, rss: rss() }
    }

    async fn unharmed(self, during: &str) {
        let grown = rss().saturating_sub(self.rss);
        self.stop.send_replace(true);
        let waited = soon("the last answer", self.asking).await.expect("every answer was right");
        println!("{during}: {} KiB more, others waited {waited:?} at most", grown >> 10);
        assert!(grown <= RSS_BYTES_MAX, "{during}: {grown} bytes more");
        assert!(waited <= OTHERS_WAIT_MAX, "{during}: others waited {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_too_much_meets_a_bound_and_the_others_go_on() {
    let mut node = TestNode::start().await;
    let worker = run(node.worker().task("echo", |n: u64| async move { Ok::<_, BoxError>(n) }));
    let client = node.client().await;
    claims_of_megabytes_take_none(&node, &client).await;
    who_has_not_said_hello_can_send_next_to_nothing(&node, &client).await;
    those_who_say_nothing_take_no_more_than_their_addresss_part(&node, &client).await;
    forged_addresses_are_asked_to_prove_themselves(&node, &client).await;
    datagrams_of_garbage_are_dropped(&node, &client).await;
    slow_writers_lose_their_room_when_others_need_it(&node, &client).await;
    worker.stop().await;
    node.stop().await;
}

/// Four bytes on the main stream say that five megabytes follow, and nothing does.
async fn claims_of_megabytes_take_none(node: &TestNode, client: &Client) {
    let other = Other::of(client).await;
    let mut bombs = Vec::new();
    // More than there is room for.
    for _ in 0..INTAKE_BYTES_MAX / FRAME_BYTES_MAX + 8 {
        let mut raw = node.raw().await.greet().await;
        raw.say(&(FRAME_BYTES_MAX as u32).to_be_bytes()).await;
        bombs.push(raw);
    }
    assert!(bombs[0].connection.close_reason().is_none());
    other.unharmed("claims of megabytes").await;
    drop(bombs);
}

/// Neither on the main stream nor on any other.
async fn who_has_not_said_hello_can_send_next_to_nothing(node: &TestNode, client: &Client) {
    let other = Other::of(client).await;
    let raw = node.raw().await;
    let stream = tokio::time::timeout(Duration::from_millis(300), raw.connection.open_uni()).await;
    assert!(stream.is_err(), "a stream beside the main one");
    let second = tokio::time::timeout(Duration::from_millis(300), raw.connection.open_bi()).await;
    assert!(second.is_err(), "a second main stream");
    // A node that reads nothing, as one does before a stream has a byte on it, buffers no more than the window.
    let mut fresh = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    fresh.set_default_client_config(client_config(tls(&node.ca(), &[b"coda"])));
    let connection = soon("a handshake", fresh.connect(node.address, "coda").expect("good")).await.expect("connected");
    let mut sent = 0;
    if let Ok(mut send) = connection.open_bi().await.map(|(send, _)| send) {
        // The first frame never gets whole, and is as long as a hello may be.
        send.write_all(&4_090_u32.to_be_bytes()).await.expect("a first word");
        while let Ok(Ok(written)) = tokio::time::timeout(Duration::from_millis(300), send.write(&[0; 1_024])).await {
            sent += written;
            assert!(sent <= 2 * UNGREETED_WINDOW_BYTES as usize, "{sent} bytes before a hello");
        }
    }
    other.unharmed("much before the hello").await;
}

/// From one address; another one has its own part.
async fn those_who_say_nothing_take_no_more_than_their_addresss_part(node: &TestNode, client: &Client) {
    let other = Other::of(client).await;
    let config = client_config(tls(&node.ca(), &[b"coda"]));
    let silent = endpoint();
    let connecting = (0..UNGREETED_PER_ADDRESS_MAX + 64).map(|_| {
        let connecting = silent.connect_with(config.clone(), node.address, "coda").expect("a good configuration");
        tokio::spawn(connecting)
    });
    let mut connected: Vec<Connection> = Vec::new();
    let mut refused = 0;
    for connecting in connecting.collect::<Vec<_>>() {
        match soon("an answer", connecting).await.expect("no panic") {
            Ok(connection) => connected.push(connection),
            Err(ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{} were let in and {refused} refused", connected.len());
    // The first may have been let go before the last came.
    assert!(refused > 0 || connected.iter().any(|connection| connection.close_reason().is_some()));
    let elsewhere = Endpoint::client("127.0.0.9:0".parse().expect("an address")).expect("a socket");
    let mut raw = Raw::connect_with(elsewhere, config, node.address).await.greet().await;
    assert!(raw.ask(Request::DescribeNode).await.is_ok());
    for connection in &connected {
        soon("they are let go", connection.closed()).await;
    }
    other.unharmed("a crowd that says nothing").await;
}

/// Who begins handshakes from addresses that it does not have: after a few, none costs more than an answer.
async fn forged_addresses_are_asked_to_prove_themselves(node: &TestNode, client: &Client) {
    let other = Other::of(client).await;
    let config = client_config(tls(&node.ca(), &[b"coda"]));
    let mut retries = 0;
    let mut begun = Vec::new();
    for _ in 0..2 * UNPROVEN_HANDSHAKES_MAX {
        // What a client says first, caught on its way; its answer is looked at and goes nowhere.
        let trap = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let endpoint = endpoint();
        let at = trap.local_addr().expect("bound");
        begun.push(endpoint.connect_with(config.clone(), at, "coda").expect("a good configuration"));
        let mut first = vec![0; 2_048];
        let (length, _) = soon("a first datagram", trap.recv_from(&mut first)).await.expect("a datagram");
        let forged = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        forged.send_to(&first[..length], node.address).await.expect("sent");
        let (_, _) = soon("an answer", forged.recv_from(&mut first)).await.expect("a datagram");
        // A long header whose type says Retry.
        retries += usize::from(first[0] & 0xf0 == 0xf0);
    }
    assert!(retries >= UNPROVEN_HANDSHAKES_MAX / 2, "{retries} were asked");
    // Who has an address to show gets in.
    let mut raw = node.raw().await.greet().await;
    assert!(raw.ask(Request::DescribeNode).await.is_ok());
    other.unharmed("forged addresses").await;
    drop(begun);
}

async fn datagrams_of_garbage_are_dropped(node: &TestNode, client: &Client) {
    let other = Other::of(client).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..20_000_usize {
        let mut datagram = vec![0; n * 7 % 1_400 + 1];
        for byte in &mut datagram {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        if n % 3 == 0 && datagram.len() > 8 {
            // Looks like the first of a handshake.
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        // The socket may be full: that is what it is for.
        drop(socket.send_to(&datagram, node.address).await);
    }
    other.unharmed("datagrams of garbage").await;
}

/// All room is taken by frames that do not come. Large ones of others wait, and then get theirs; small ones never wait.
async fn slow_writers_lose_their_room_when_others_need_it(node: &TestNode, client: &Client) {
    let per_connection = INTAKE_BYTES_PER_CONNECTION_MAX / FRAME_BYTES_MAX;
    let mut slow = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..INTAKE_BYTES_MAX / (per_connection * FRAME_BYTES_MAX) + 1 {
        let raw = node.raw().await.greet().await;
        for _ in 0..per_connection + 1 {
            let mut stream = soon("a stream", raw.connection.open_uni()).await.expect("a stream");
            stream.write_all(&(FRAME_BYTES_MAX as u32).to_be_bytes()).await.expect("a claim");
            streams.push(stream);
        }
        slow.push(raw);
    }
    let other = Other::of(client).await;
    let large = Arc::new(vec![b'7'; 3 << 20]);
    let asked = Instant::now();
    let waits = (0..4).map(|_| {
        let (client, large) = (client.clone(), large.clone());
        tokio::spawn(async move {
            let options = SubmitOptions::new("nobody").queue("elsewhere").args(Payload::json(large.to_vec()));
            client.submit(options).await.expect("accepted").id()
        })
    });
    for wait in waits.collect::<Vec<_>>() {
        soon("a large task is accepted", wait).await.expect("no panic");
    }
    assert!(asked.elapsed() < 3 * INTAKE_GRACE, "{:?}", asked.elapsed());
    let closed = until("some of them are closed", || async {
        let closed = slow.iter().filter_map(|raw| raw.connection.close_reason()).collect::<Vec<_>>();
        (!closed.is_empty()).then_some(closed)
    })
    .await;
    for reason in closed {
        let ConnectionError::ApplicationClosed(close) = reason else { panic!("{reason}") };
        assert_eq!(close.error_code.into_inner(), 1115, "{close:?}");
    }
    other.unharmed("slow writers").await;
}
