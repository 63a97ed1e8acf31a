//! Calls on the control stream: each gets its own answer, its own time, and nothing of another's trouble.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_protocol::ids::GroupId;
use coda_raft_store::peers::Rpc;

use crate::authority::Authority;
use crate::fake::{Fake, Mood};
use crate::side::{ECHO, Side, echoed, failed, unreachable};
use crate::until;

const HUNG: GroupId = GroupId(2);
const SECOND: Duration = Duration::from_secs(1);

async fn pair() -> (Side, Side) {
    let authority = Authority::new("one");
    (Side::new(&authority, 1).await, Side::new(&authority, 2).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_call_arrives_as_what_it_is() {
    let (a, b) = pair().await;
    for rpc in [Rpc::Append, Rpc::Vote, Rpc::PreVote, Rpc::TransferLeader] {
        let (transport, to) = (a.transport.clone(), b.peer());
        let call = async move { transport.call(&to, ECHO, rpc, Bytes::from_static(b"!"), SECOND * 10).await };
        assert_eq!(a.run(call).await, Ok(format!("{rpc:?} !").into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_hangs_costs_its_callers_their_time_and_others_nothing() {
    let (a, b) = pair().await;
    b.groups.insert(HUNG, Arc::new(Fake::new(Mood::Hangs)));
    assert_eq!(a.call(&b.peer()).await, echoed());
    let begun = Instant::now();
    let why = failed(a.call_group(&b.peer(), HUNG, SECOND / 5).await);
    assert!(why.contains("CODA4137") && why.contains("200ms"), "{why}");
    assert!(begun.elapsed() >= SECOND / 5);
    // As many as may hang, do; one more is refused at once, and the other group answers.
    let to = b.peer();
    let hanging = futures::future::join_all((0..64).map(|_| a.call_group(&to, HUNG, SECOND * 3)));
    let meanwhile = async {
        let why = until("the group is full", || async {
            a.call_group(&to, HUNG, SECOND / 10).await.err().filter(|why| why.to_string().contains("CODA4144"))
        })
        .await;
        assert!(why.to_string().contains("node 2 is busy"), "{why}");
        assert_eq!(a.call(&to).await, echoed());
    };
    let (hung, ()) = tokio::join!(hanging, meanwhile);
    assert!(hung.into_iter().all(|answer| answer.is_err()));
    // What nobody waits for any more makes room.
    let why = until("there is room again", || async {
        a.call_group(&to, HUNG, SECOND / 10).await.err().filter(|why| why.to_string().contains("CODA4137"))
    })
    .await;
    assert!(matches!(why, coda_raft_store::peers::PeerError::Failed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let (a, b) = pair().await;
    let hung = Fake::new(Mood::Hangs);
    b.groups.insert(HUNG, Arc::new(hung.clone()));
    assert_eq!(a.call(&b.peer()).await, echoed());
    let to = b.peer();
    for _ in 0..3 {
        let call = a.call_group(&to, HUNG, SECOND * 60);
        assert!(tokio::time::timeout(SECOND / 20, call).await.is_err());
    }
    assert_eq!(a.call(&b.peer()).await, echoed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_not_there_yet_is_found_when_it_comes() {
    let (a, b) = pair().await;
    let late = GroupId(9);
    let why = failed(a.call_group(&b.peer(), late, SECOND * 10).await);
    assert!(why.contains("CODA4143 group 9 is not on node 2"), "{why}");
    b.groups.insert(late, Arc::new(Fake::new(Mood::Echoes)));
    assert_eq!(a.call_group(&b.peer(), late, SECOND * 10).await, echoed());
    b.groups.insert(late, Arc::new(Fake::new(Mood::Stopped)));
    let why = failed(a.call_group(&b.peer(), late, SECOND * 10).await);
    assert!(why.contains("CODA4131") && why.contains("it sleeps"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_too_large_is_refused_here() {
    let (a, b) = pair().await;
    let (transport, to) = (a.transport.clone(), b.peer());
    let body = Bytes::from(vec![0; 65 << 10]);
    let why = failed(a.run(async move { transport.call(&to, ECHO, Rpc::Vote, body, SECOND * 10).await }).await);
    assert!(why.contains("CODA4140"), "{why}");
    assert_eq!((a.call(&b.peer()).await, b.echo.calls()), (echoed(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_unreachable_and_found_when_it_comes() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let b = Side::new(&authority, 2).await;
    let (to, address) = (b.peer(), b.address);
    b.kill().await;
    let begun = Instant::now();
    let why = unreachable(a.call_group(&to, ECHO, SECOND * 10).await);
    assert!(why.contains("CODA4133") && why.contains(&address.to_string()), "{why}");
    // A caller in a hurry is told the same, in its own time.
    let why = unreachable(a.call_group(&to, ECHO, SECOND / 10).await);
    assert!(why.contains("CODA4133"), "{why}");
    assert!(begun.elapsed() < SECOND * 5);
    let b = Side::again(&authority, 2, address, "").await;
    let found = until("it is found", || async { a.call_group(&to, ECHO, SECOND * 10).await.ok() });
    assert_eq!(Ok(found.await), echoed());
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so() {
    let (a, b) = pair().await;
    b.groups.insert(HUNG, Arc::new(Fake::new(Mood::Hangs)));
    assert_eq!(a.call(&b.peer()).await, echoed());
    let to = b.peer();
    let waiting = a.call_group(&to, HUNG, SECOND * 60);
    let stopping = async {
        tokio::time::sleep(SECOND / 10).await;
        b.close().await;
    };
    let (answer, ()) = tokio::join!(waiting, stopping);
    let why = failed(answer);
    assert!(why.contains("CODA4136") && why.contains("stopping"), "{why}");
}
