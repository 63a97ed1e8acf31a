//! Who may be there. Whoever is refused learns why, at the end that dialled.

use coda_broker::peers::{PeerEndpointError, PeerFrame, Refused};
use coda_protocol::ids::{ClusterId, NodeId, StorageId};
use coda_raft_store::peers::Peer;

use crate::authority::{self, Authority};
use crate::raw::Raw;
use crate::side::{CLUSTER, ECHO, Side, echoed, hello, peer, unreachable};
use crate::{logs, until};

const OTHER_CLUSTER: ClusterId = ClusterId([0xee; 16]);

fn anywhere() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_cluster_meet_and_share_one_connection() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    let to = b.peer();
    let answers = futures::future::join_all((0..50).map(|_| a.call(&to))).await;
    assert!(answers.into_iter().all(|answer| answer == echoed()));
    assert_eq!(b.call(&a.peer()).await, echoed());
    assert_eq!((a.door.asked(), b.door.asked()), (2, 2), "each dialled once, and was dialled once");
    let known = a.endpoint().peers();
    assert_eq!((known.len(), known[0].node), (1, NodeId(2)));
    let dialled = known[0].dialled.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((dialled.at, dialled.version, dialled.program.as_str()), (b.address, 1, "test/1"));
    assert_eq!(known[0].serves.as_ref().unwrap().at, b.address);
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_not_trusted_at_either_end() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let a = Side::new(&ours, 1).await;
    let b = Side::new(&theirs, 2).await;
    let why = unreachable(a.call(&b.peer()).await);
    assert!(why.contains("CODA4134") && why.contains("UnknownIssuer"), "{why}");
    // The one that dials would have trusted the other.
    let mut identity = ours.issue(CLUSTER, 3);
    identity.roots = authority::store(&[&ours.certificate, &theirs.certificate]);
    let c = Side::with(3, identity, hello(3, ""), anywhere()).await.unwrap();
    let why = unreachable(c.call(&b.peer()).await);
    assert!(why.contains("CODA4135"), "{why}");
    assert_eq!(b.echo.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_or_speaks_to_clients_is_refused() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let raw = Raw::connect(a.address, None, b"coda-peer/1").await.unwrap();
    let (code, _) = raw.closed().await;
    assert_eq!(code, 0x100 + 116, "certificate required");
    let Err(refused) = Raw::connect(a.address, Some(&authority.issue(CLUSTER, 2)), b"coda").await.map(drop) else {
        panic!("not a port for clients");
    };
    assert!(refused.to_string().contains("120"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_of_the_same_authority_is_refused_at_either_end() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let mut me = hello(2, "");
    me.cluster = OTHER_CLUSTER;
    let b = Side::with(2, authority.issue(OTHER_CLUSTER, 2), me.clone(), anywhere()).await.unwrap();
    let why = unreachable(a.call(&b.peer()).await);
    assert!(why.contains("CODA1107") && why.contains(&OTHER_CLUSTER.to_string()), "{why}");
    // Who does not look for itself is told.
    let raw = Raw::peer(a.address, &authority.issue(OTHER_CLUSTER, 2)).await;
    raw.says(&PeerFrame::Hello { versions: (1, 1), hello: me }.to_bytes()).await;
    assert_eq!(raw.closed().await.0, 1107);
    // Nor does the hello say one thing and the certificate another.
    let raw = Raw::peer(a.address, &authority.issue(OTHER_CLUSTER, 2)).await;
    raw.says(&PeerFrame::Hello { versions: (1, 1), hello: hello(2, "") }.to_bytes()).await;
    assert_eq!(raw.closed().await.0, 1107);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_who_its_certificate_says() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    // Another node answers there.
    let why = unreachable(a.call(&peer(3, b.address)).await);
    assert!(why.contains("CODA1109") && why.contains("node 3 was meant") && why.contains("of node 2"), "{why}");
    assert_eq!(a.call(&b.peer()).await, echoed(), "and is itself still a peer");
    // It claims to be another.
    let raw = Raw::peer(a.address, &authority.issue(CLUSTER, 5)).await;
    raw.says(&PeerFrame::Hello { versions: (1, 1), hello: hello(6, "") }.to_bytes()).await;
    assert_eq!(raw.closed().await.0, 1109);
    // It claims to be us.
    let raw = Raw::peer(a.address, &authority.issue(CLUSTER, 1)).await;
    raw.says(&PeerFrame::Hello { versions: (1, 1), hello: hello(1, "") }.to_bytes()).await;
    let (code, why) = raw.closed().await;
    assert!(code == 1105 && why.contains("two nodes run with one identity"), "{code} {why}");
    // Its certificate names nobody, or two, or a client.
    let [one, other] = [7, 8].map(|node| authority::name(CLUSTER, node));
    let nameless = [&[][..], &[one.as_str(), other.as_str()]].map(|uris| authority.issue_named(uris));
    for identity in nameless.into_iter().chain([authority.issue_for_client(CLUSTER)]) {
        let raw = Raw::peer(a.address, &identity).await;
        raw.says(&PeerFrame::Hello { versions: (1, 1), hello: hello(7, "") }.to_bytes()).await;
        assert_eq!(raw.closed().await.0, 1108);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_only_with_its_own_certificate() {
    let authority = Authority::new("one");
    let error = Side::with(1, authority.issue(CLUSTER, 2), hello(1, ""), anywhere()).await.map(drop).unwrap_err();
    assert!(matches!(error, PeerEndpointError::Certificate(_)) && error.code() == "CODA4148", "{error}");
    let a = Side::new(&authority, 1).await;
    let taken = Side::with(2, authority.issue(CLUSTER, 2), hello(2, ""), a.address).await.map(drop).unwrap_err();
    assert_eq!(taken.code(), "CODA4147");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_cluster_refuses_is_told_why_and_logged_once() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 41).await, Side::new(&authority, 42).await);
    let node = NodeId(41);
    let (expected, found) = (StorageId([1; 16]), StorageId([41; 16]));
    for (refused, code, word) in [
        (Refused::Unknown { node }, "CODA1110", "add it first"),
        (Refused::Removed { node }, "CODA1111", "removed"),
        (Refused::OtherStorage { node, expected, found }, "CODA1112", "lost or exchanged"),
        (Refused::OldStorage { node, incarnation: 3, known: 5 }, "CODA1116", "an earlier day"),
        (Refused::NotReady { why: "the membership is not known yet" }, "CODA1113", "try again"),
    ] {
        b.door.refuse(Some(refused));
        for _ in 0..3 {
            let why = unreachable(a.call(&b.peer()).await);
            assert!(why.contains(code) && why.contains("node 42 says") && why.contains(word), "{why}");
        }
        let about_us = |line: &String| line.contains("node=42 ") || line.contains("NodeId(41)");
        let ours = until("both ends log it", || async {
            let lines: Vec<_> = logs::matching(code).into_iter().filter(about_us).collect();
            (lines.len() >= 2).then_some(lines)
        })
        .await;
        assert_eq!(ours.len(), 2, "once at each end: {ours:?}");
        assert!(a.endpoint().peers()[0].dialled.as_ref().unwrap_err().contains(code));
    }
    assert_eq!(b.echo.calls(), 0);
    b.door.refuse(None);
    assert_eq!(a.call(&b.peer()).await, echoed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_data_is_not_spoken_to_either() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    let (expected, found) = (StorageId([1; 16]), StorageId([2; 16]));
    a.door.refuse(Some(Refused::OtherStorage { node: NodeId(2), expected, found }));
    let why = unreachable(a.call(&b.peer()).await);
    assert!(why.contains("CODA1112 node 2: node 2 comes with storage"), "{why}");
    assert_eq!(b.echo.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_later_is_disconnected_then() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    assert_eq!(a.call(&b.peer()).await, echoed());
    assert_eq!(b.call(&a.peer()).await, echoed());
    b.endpoint().readmit();
    assert_eq!((a.call(&b.peer()).await, b.door.asked()), (echoed(), 4), "nothing has changed for it");
    b.door.refuse(Some(Refused::Removed { node: NodeId(1) }));
    b.endpoint().readmit();
    let why = until("the removal is noticed", || async {
        match a.call(&b.peer()).await {
            Err(coda_raft_store::peers::PeerError::Unreachable(why)) => Some(why),
            _ => None,
        }
    })
    .await;
    assert!(why.contains("CODA1111"), "{why}");
    let why = unreachable(b.call(&a.peer()).await);
    assert!(why.contains("CODA1111"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_refused_with_both_ranges() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let raw = Raw::peer(a.address, &authority.issue(CLUSTER, 2)).await;
    raw.says(&PeerFrame::Hello { versions: (7, 9), hello: hello(2, "") }.to_bytes()).await;
    let (code, why) = raw.closed().await;
    assert!(code == 1102 && why.contains("(7, 9)") && why.contains("(1, 1)"), "{code} {why}");
    // One that speaks ours too is welcome.
    let raw = Raw::peer(a.address, &authority.issue(CLUSTER, 2)).await;
    let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
    send.write_all(&PeerFrame::Hello { versions: (1, 9), hello: hello(2, "") }.to_bytes()).await.unwrap();
    let welcome = crate::raw::frame(&mut recv).await;
    assert!(matches!(welcome, PeerFrame::Welcome { version: 1, .. }), "{welcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_an_error_that_names_it() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    for (addr, word) in [("", "never told"), ("nonsense", "nonsense"), ("127.0.0.1", "127.0.0.1")] {
        // Another node each time: what was known of one is not forgotten.
        let to = Peer { node: NodeId(2 + addr.len() as u64), addr: addr.into() };
        let why = unreachable(a.call_group(&to, ECHO, crate::PATIENCE).await);
        assert!(why.contains("CODA4132") && why.contains(word), "{why}");
    }
}
