//! Snapshots, sent and received: whole, or not at all and without harm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coda_broker::peers::PeerFrame;
use coda_protocol::ids::GroupId;
use quinn::{RecvStream, SendStream};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::fake::{Fake, Mood};
use crate::raw::{Raw, frame};
use crate::side::{CLUSTER, ECHO, Side, echoed, failed, hello};
use crate::{soon, until};

const OTHER: GroupId = GroupId(2);

fn file(bytes: &[u8]) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sending");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_byte_by_byte_and_leaves_no_file() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    for size in [0, 1, 100_000, 20 << 20] {
        let bytes: Vec<u8> = (0..size).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (_dir, path) = file(&bytes);
        let answer = soon("an answer", a.snapshot(&b.peer(), ECHO, path)).await;
        assert_eq!(answer, Ok(Bytes::from_static(b"installed")));
        let (head, received) = b.echo.snapshots().pop().unwrap();
        assert!(head == "head" && received == bytes, "{size}");
    }
    until("all files are removed", || async { (b.echo.files() == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_or_read_or_has_no_group_fails_alone() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    b.groups.insert(OTHER, Arc::new(Fake::without_folder()));
    let (dir, path) = file(&vec![1; 8 << 20]);
    let why = failed(soon("an answer", a.snapshot(&b.peer(), OTHER, path.clone())).await);
    assert!(why.contains("CODA4145 node 2 cannot store"), "{why}");
    let why = failed(soon("an answer", a.snapshot(&b.peer(), GroupId(3), path)).await);
    assert!(why.contains("CODA4143"), "{why}");
    let why = failed(soon("an answer", a.snapshot(&b.peer(), ECHO, dir.path().join("missing"))).await);
    assert!(why.contains("CODA4141"), "{why}");
    assert_eq!((a.call(&b.peer()).await, b.door.asked()), (echoed(), 1), "on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_given_up_leaves_no_file() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    assert_eq!(a.call(&b.peer()).await, echoed());
    let (_dir, path) = file(&vec![1; 64 << 20]);
    let to = b.peer();
    tokio::select! {
        answer = a.snapshot(&to, ECHO, path) => panic!("{answer:?}"),
        () = until("it begins to arrive", || async { (b.echo.files() == 1).then_some(()) }) => {}
    }
    until("it is removed", || async { (b.echo.files() == 0).then_some(()) }).await;
    assert_eq!((a.call(&b.peer()).await, b.echo.snapshots().len()), (echoed(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_being_installed_is_removed_when_that_ends_or_the_node_starts_again() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    let slow = Fake::new(Mood::Hangs);
    b.groups.insert(OTHER, Arc::new(slow.clone()));
    let (_dir, path) = file(b"state");
    let to = b.peer();
    let answer = tokio::time::timeout(Duration::from_secs(1), a.snapshot(&to, OTHER, path)).await;
    assert!(answer.is_err(), "the group takes its time");
    assert_eq!(slow.files(), 1, "and Raft has it in its hands");
    b.close().await;
    assert_eq!(slow.files(), 1, "what stops in the middle is left to the next start");
}

/// Opens a stream and announces a snapshot.
async fn announce(raw: &Raw, file_bytes: u64) -> (SendStream, RecvStream) {
    let (mut send, recv) = raw.connection.open_bi().await.unwrap();
    let opening = PeerFrame::Snapshot { group: ECHO, file_bytes, head: Bytes::from_static(b"head") };
    send.write_all(&opening.to_bytes()).await.unwrap();
    (send, recv)
}

async fn refused(recv: &mut RecvStream) -> String {
    match soon("an answer", frame(recv)).await {
        PeerFrame::Failed { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_as_long_as_announced_and_not_longer_than_allowed() {
    let authority = Authority::new("one");
    let b = Side::new(&authority, 2).await;
    let (raw, _send, _recv) = Raw::greeted(b.address, &authority.issue(CLUSTER, 3), hello(3, "")).await;
    let (mut send, mut recv) = announce(&raw, 10).await;
    send.write_all(b"12345").await.unwrap();
    send.finish().unwrap();
    let why = refused(&mut recv).await;
    assert!(why.contains("CODA4146") && why.contains("shorter"), "{why}");
    let (_send, mut recv) = announce(&raw, u64::MAX).await;
    let why = refused(&mut recv).await;
    assert!(why.contains("CODA4145") && why.contains("allowed"), "{why}");
    // No room is taken for what is only announced, and there is a bound to how many are received.
    let mut announced = Vec::new();
    for _ in 0..4 {
        announced.push(announce(&raw, 1 << 40).await);
    }
    until("all have begun", || async { (b.echo.files() == 4).then_some(()) }).await;
    let (mut send, mut recv) = announce(&raw, 1).await;
    send.write_all(b"x").await.unwrap();
    send.finish().unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(300), frame(&mut recv));
    assert!(waits.await.is_err() && b.echo.files() == 4, "it waits for its turn");
    drop(announced.pop());
    let answer = soon("its turn", frame(&mut recv)).await;
    assert_eq!(answer, PeerFrame::Answer { id: 0, body: Bytes::from_static(b"installed") });
    drop(announced);
    until("all are removed", || async { (b.echo.files() == 0).then_some(()) }).await;
    // More than announced is not a matter of this stream any more.
    let (mut send, _recv) = announce(&raw, 3).await;
    send.write_all(b"12345").await.unwrap();
    let (code, why) = raw.closed().await;
    assert!(code == 1105 && why.contains("more of a snapshot"), "{code} {why}");
    until("it is removed", || async { (b.echo.files() == 0).then_some(()) }).await;
}
