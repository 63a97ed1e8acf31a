//! Bytes that no Coda node sends. Each costs the connection it came on, one line in the log, and nobody else.

use coda_broker::peers::PeerFrame;
use coda_protocol::ids::GroupId;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::authority::Authority;
use crate::raw::Raw;
use crate::side::{CLUSTER, ECHO, Side, echoed, hello};
use crate::{logs, soon, until};

/// Two nodes that talk while others misbehave.
struct Bystanders {
    talking: JoinHandle<Side>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Bystanders {
    fn of(a: Side, b: &Side) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let to = b.peer();
        let talking = tokio::spawn(async move {
            let mut calls = 0;
            while !*stopped.borrow() {
                assert_eq!(a.call(&to).await, echoed());
                calls += 1;
            }
            assert!(calls > 0);
            a
        });
        Self { talking, stop }
    }

    /// All that they asked was answered, on the connection that they had from the start.
    async fn end(self, b: &Side, others: usize) {
        self.stop.send_replace(true);
        soon("the last answer", self.talking).await.expect("every answer was right");
        assert_eq!(b.door.asked(), 1 + others);
    }
}

/// A frame of this kind with these bytes as its body.
fn bytes(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = ((9 + body.len()) as u32).to_be_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(&7_u64.to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_is_dropped() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    assert_eq!(a.call(&b.peer()).await, echoed());
    let (to, port) = (b.address, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let bystanders = Bystanders::of(a, &b);
    for n in 0..2_000_u32 {
        let length = (n as usize * 7) % 1_400;
        let mut datagram: Vec<u8> = (0..length).map(|at| (n.wrapping_mul(at as u32 ^ 0x9e37) >> 3) as u8).collect();
        if n % 3 == 0 && length > 5 {
            // Looks like the first packet of a handshake.
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        port.send_to(&datagram, to).await.unwrap();
    }
    bystanders.end(&b, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_begin_with_a_hello_is_sent_away() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    assert_eq!(a.call(&b.peer()).await, echoed());
    let bystanders = Bystanders::of(a, &b);
    let client_hello = b"\0\0\0\x12\x01\0\0\0\0\0\0\0\0CODA\0\x01\0\x01xx";
    for (node, code, first) in [
        (60, 1101, &b"GET / HTTP/1.1\r\n\r\n"[..]),
        (61, 1101, &client_hello[..22]),
        (62, 1101, &bytes(3, &[0, 0, 0, 1, 2, 0, 0, 0, 9])),
        (63, 1104, &bytes(1, b"CDPR\0\x01\0\x01\x01")),
        (64, 1104, &bytes(99, b"")),
        (65, 1104, &3_u32.to_be_bytes()),
    ] {
        let raw = Raw::peer(b.address, &authority.issue(CLUSTER, node)).await;
        let first = if node == 65 { [first, b"abc"].concat() } else { first.to_vec() };
        raw.says(&first).await;
        assert_eq!(raw.closed().await.0, code, "{node}");
        let about = format!("NodeId({node})");
        let lines =
            until("a line in the log", || async { Some(logs::matching(&about)).filter(|lines| !lines.is_empty()) })
                .await;
        assert!(lines.len() == 1 && lines[0].contains(&format!("CODA{code}")), "{lines:?}");
    }
    // A second stream before the hello is not even possible.
    let raw = Raw::peer(b.address, &authority.issue(CLUSTER, 66)).await;
    let _first = raw.connection.open_bi().await.unwrap();
    let second = tokio::time::timeout(std::time::Duration::from_millis(300), raw.connection.open_bi()).await;
    assert!(second.is_err());
    // And who says nothing is sent away too.
    assert_eq!(raw.closed().await.0, 1106);
    bystanders.end(&b, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_the_protocol_loses_its_connection_and_is_logged_once() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    assert_eq!(a.call(&b.peer()).await, echoed());
    let bystanders = Bystanders::of(a, &b);
    let opening = PeerFrame::Appends { group: ECHO }.to_bytes();
    let oversized = [&opening[..], &u32::MAX.to_be_bytes()].concat();
    let welcome = PeerFrame::Welcome { version: 1, hello: hello(1, "") }.to_bytes();
    let unknown_call = bytes(3, &[&[0, 0, 0, 1, 77][..], &[0; 4]].concat());
    let cases: Vec<(u64, u64, bool, Vec<u8>)> = vec![
        // On the control stream.
        (70, 1104, true, bytes(200, b"")),
        (71, 1103, true, (1_u32 << 30).to_be_bytes().to_vec()),
        (72, 1105, true, welcome.to_vec()),
        (73, 1104, true, unknown_call),
        (74, 1104, true, bytes(3, b"short")),
        // On another stream.
        (75, 1105, false, bytes(3, &[0, 0, 0, 1, 2, 0, 0, 0, 9])),
        (76, 1103, false, oversized),
        (77, 1104, false, bytes(6, b"")),
        (78, 1103, false, u32::MAX.to_be_bytes().to_vec()),
    ];
    let others = cases.len();
    for (node, code, on_control, said) in cases {
        let (raw, mut control, _recv) = Raw::greeted(b.address, &authority.issue(CLUSTER, node), hello(node, "")).await;
        let mut stream;
        let send = if on_control {
            &mut control
        } else {
            stream = raw.connection.open_bi().await.unwrap();
            &mut stream.0
        };
        send.write_all(&said).await.unwrap();
        let (closed, why) = raw.closed().await;
        assert_eq!(closed, code, "{node}: {why}");
        let about = format!("NodeId({node})");
        let lines =
            until("a line in the log", || async { Some(logs::matching(&about)).filter(|lines| !lines.is_empty()) })
                .await;
        assert!(lines.len() == 1 && lines[0].contains(&format!("CODA{code}")), "{lines:?}");
    }
    bystanders.end(&b, others).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_calls_more_than_it_reads_waits_alone() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    assert_eq!(a.call(&b.peer()).await, echoed());
    let bystanders = Bystanders::of(a, &b);
    let (raw, mut send, recv) = Raw::greeted(b.address, &authority.issue(CLUSTER, 3), hello(3, "")).await;
    // Of a group that is not there: the answer is longer than the question.
    let call = bytes(3, &[&GroupId(9).0.to_be_bytes()[..], &[2, 0, 0, 0, 9]].concat()).repeat(1_000);
    let flood = async {
        loop {
            send.write_all(&call).await.expect("it is not sent away for that");
        }
    };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(3), flood).await.is_err());
    assert!(raw.connection.close_reason().is_none());
    drop(recv);
    bystanders.end(&b, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_dials_at_once_gets_in_one_after_the_other() {
    let authority = Authority::new("one");
    let b = Side::new(&authority, 2).await;
    let certificates: Vec<_> = (100..148).map(|node| (node, authority.issue(CLUSTER, node))).collect();
    let crowd = certificates.iter().map(|(node, tls)| Raw::greeted(b.address, tls, hello(*node, "")));
    let crowd = soon("all are welcome", futures::future::join_all(crowd)).await;
    assert!(crowd.iter().all(|(raw, ..)| raw.connection.close_reason().is_none()));
    assert_eq!((crowd.len(), b.door.asked()), (48, 48));
}
