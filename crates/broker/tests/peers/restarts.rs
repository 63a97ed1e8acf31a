//! Nodes that are killed, come back, and move.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_raft_store::peers::PeerError;
use futures::StreamExt;
use futures::stream;

use crate::authority::Authority;
use crate::side::{ECHO, Side, echoed, free_address};
use crate::{soon, until};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_noticed_by_silence() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    let mut answers = a.appends(&b.peer(), ECHO, stream::pending::<Bytes>().boxed()).await.unwrap();
    assert_eq!(a.call(&b.peer()).await, echoed());
    b.kill().await;
    let begun = Instant::now();
    let Some(Err(PeerError::Failed(why))) = soon("an error", answers.next()).await else { panic!("an error") };
    assert!(why.contains("CODA4136") && why.contains("timed out"), "{why}");
    println!("silence noticed after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_back_at_once_resets_its_old_connections() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let b = Side::new(&authority, 2).await;
    let (to, address) = (b.peer(), b.address);
    let mut answers = a.appends(&to, ECHO, stream::pending::<Bytes>().boxed()).await.unwrap();
    assert_eq!(a.call(&to).await, echoed());
    b.kill().await;
    let b = Side::again(&authority, 2, address, "").await;
    let begun = Instant::now();
    let Some(Err(PeerError::Failed(why))) = soon("an error", answers.next()).await else { panic!("an error") };
    println!("reset after {:?}: {why}", begun.elapsed());
    assert!(why.contains("CODA4136") && why.contains("reset by peer"), "{why}");
    assert_eq!(a.call(&to).await, echoed());
    println!("and called after {:?}", begun.elapsed());
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_is_found_where_the_caller_says() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let b = Side::new(&authority, 2).await;
    let before = b.peer();
    assert_eq!(a.call(&before).await, echoed());
    b.kill().await;
    let b = Side::new(&authority, 2).await;
    // One group knows it, another does not yet.
    let (old, new) = (before.clone(), b.peer());
    let found = until("it is found", || async {
        let (_, found) = tokio::join!(a.call_group(&old, ECHO, SECOND), a.call_group(&new, ECHO, SECOND));
        found.ok()
    });
    assert_eq!(Ok(found.await), echoed());
    assert_eq!(a.call(&before).await, echoed(), "then both use the connection that is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_tells_whom_it_meets() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let b = Side::new(&authority, 2).await;
    let before = b.peer();
    assert_eq!(a.call(&before).await, echoed());
    b.kill().await;
    let address = free_address();
    let b = Side::again(&authority, 2, address, &address.to_string()).await;
    assert_eq!(b.call(&a.peer()).await, echoed());
    // Whoever asked for it at the old address is waiting for that, at most until the next attempt.
    let begun = Instant::now();
    let found = until("it is found", || async { a.call_group(&before, ECHO, SECOND * 10).await.ok() });
    assert_eq!(Ok(found.await), echoed());
    println!("found at its new address after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_makes_itself_known_is_not_waited_for() {
    let authority = Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let b = Side::new(&authority, 2).await;
    let (to, address) = (b.peer(), b.address);
    b.kill().await;
    // Pauses have grown to their bound by now.
    let calling = async {
        loop {
            if let Ok(answer) = a.call_group(&to, ECHO, SECOND * 10).await {
                return (answer, Instant::now());
            }
        }
    };
    let coming_back = async {
        tokio::time::sleep(SECOND * 4).await;
        let b = Side::again(&authority, 2, address, "").await;
        assert_eq!(b.call(&a.peer()).await, echoed());
        (b, Instant::now())
    };
    let ((answer, reached), (_b, known)) = soon("it is reached", async { tokio::join!(calling, coming_back) }).await;
    assert_eq!(Ok(answer), echoed());
    println!("reached {:?} after it made itself known", reached.saturating_duration_since(known));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_connection_of_a_node_replaces_the_older() {
    let authority = Authority::new("one");
    let b = Side::new(&authority, 2).await;
    let old = Side::new(&authority, 1).await;
    assert_eq!(old.call(&b.peer()).await, echoed());
    // The same node, as somebody who copied its folder would start it.
    let new = Side::new(&authority, 1).await;
    assert_eq!(new.call(&b.peer()).await, echoed());
    assert_eq!(b.door.asked(), 2);
    let served = b.endpoint().peers().into_iter().find_map(|peer| peer.serves).unwrap();
    assert_eq!(served.at, new.address);
}
