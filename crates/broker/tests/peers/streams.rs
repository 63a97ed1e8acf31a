//! Streams of appends: pipelined, in order, and ended by either end without harm to the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_broker::peers::PeerFrame;
use coda_protocol::ids::GroupId;
use coda_raft_store::peers::PeerError;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use crate::authority::Authority;
use crate::fake::{Fake, Mood};
use crate::raw::Raw;
use crate::side::{CLUSTER, ECHO, Side, echoed, hello};
use crate::{soon, until};

const OTHER: GroupId = GroupId(2);

async fn pair() -> (Side, Side) {
    let authority = Authority::new("one");
    (Side::new(&authority, 1).await, Side::new(&authority, 2).await)
}

/// Requests that a test sends one by one.
fn by_hand() -> (mpsc::Sender<Bytes>, BoxStream<'static, Bytes>) {
    let (send, receive) = mpsc::channel(1_024);
    (send, stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) }).boxed())
}

fn number(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_order_and_nobody_waits_for_the_last_one() {
    let (a, b) = pair().await;
    let (send, requests) = by_hand();
    let mut answers = a.appends(&b.peer(), ECHO, requests).await.unwrap();
    for n in 0..1_000 {
        send.send(number(n)).await.unwrap();
    }
    for n in 0..1_000 {
        assert_eq!(soon("an answer", answers.next()).await, Some(Ok(number(n))));
    }
    // One that is alone is sent alone.
    send.send(number(7)).await.unwrap();
    assert_eq!(soon("an answer", answers.next()).await, Some(Ok(number(7))));
    drop(send);
    assert_eq!(soon("the end", answers.next()).await, None);
    until("the other end sees it", || async { (b.echo.streams() == (1, 1)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_any_size_arrive_whole() {
    let (a, b) = pair().await;
    let sizes = [0, 1, 4_096, 4_097, 65_536, 1 << 20, (36 << 20) + 17, 3];
    let bodies = sizes.map(|size| {
        let mut body = vec![0xa5; size];
        let head = (size as u64).to_be_bytes();
        let length = size.min(8);
        body[..length].copy_from_slice(&head[8 - length..]);
        Bytes::from(body)
    });
    let answers = a.appends(&b.peer(), ECHO, stream::iter(bodies.clone()).boxed()).await.unwrap();
    let answers: Vec<_> = soon("all answers", answers.collect()).await;
    assert_eq!(answers, bodies.map(|body| Ok(body.slice(..body.len().min(8)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_one_needs_no_stream_and_gets_its_answer() {
    let (a, b) = pair().await;
    for n in 0..200 {
        let request = stream::once(std::future::ready(number(n))).boxed();
        let answers = a.appends(&b.peer(), ECHO, request).await.unwrap();
        let answers: Vec<_> = soon("an answer", answers.collect()).await;
        assert_eq!(answers, [Ok(number(n))]);
    }
    // Too large for that, it takes the other way.
    let request = stream::once(std::future::ready(Bytes::from(vec![1; 1 << 20]))).boxed();
    let answers = a.appends(&b.peer(), ECHO, request).await.unwrap();
    assert_eq!(answers.collect::<Vec<_>>().await, [Ok(Bytes::from_static(&[1; 8]))]);
    // And what goes wrong is an answer too.
    b.groups.insert(OTHER, Arc::new(Fake::new(Mood::Stopped)));
    for (group, word) in [(OTHER, "CODA4131"), (GroupId(3), "CODA4143")] {
        let request = stream::once(std::future::ready(number(1))).boxed();
        let mut answers = a.appends(&b.peer(), group, request).await.unwrap();
        let Some(Err(PeerError::Failed(why))) = answers.next().await else { panic!("an error") };
        assert!(why.contains(word), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_answers_ends_the_stream_at_both_ends() {
    let (a, b) = pair().await;
    let (send, requests) = by_hand();
    let mut answers = a.appends(&b.peer(), ECHO, requests).await.unwrap();
    send.send(number(1)).await.unwrap();
    assert_eq!(soon("an answer", answers.next()).await, Some(Ok(number(1))));
    drop(answers);
    soon("the requests are dropped", send.closed()).await;
    until("the other end sees it", || async { (b.echo.streams() == (1, 1)).then_some(()) }).await;
    assert_eq!((a.call(&b.peer()).await, b.door.asked()), (echoed(), 1), "on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_ends_its_answers_ends_the_stream() {
    let (a, b) = pair().await;
    b.groups.insert(OTHER, Arc::new(Fake::new(Mood::Stopped)));
    let (send, requests) = by_hand();
    let mut answers = a.appends(&b.peer(), OTHER, requests).await.unwrap();
    assert_eq!(soon("the end", answers.next()).await, None);
    drop(answers);
    soon("the requests are dropped", send.closed()).await;
    // And one that is not there says so.
    let (_send, requests) = by_hand();
    let mut answers = a.appends(&b.peer(), GroupId(3), requests).await.unwrap();
    let Some(Err(PeerError::Failed(why))) = soon("an error", answers.next()).await else { panic!("an error") };
    assert!(why.contains("CODA4143"), "{why}");
    assert_eq!(answers.next().await, None);
    assert_eq!((a.call(&b.peer()).await, b.door.asked()), (echoed(), 1), "on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_never_delay_a_vote_or_another_group() {
    let (a, b) = pair().await;
    let hung = Fake::new(Mood::Hangs);
    b.groups.insert(OTHER, Arc::new(hung.clone()));
    // Each fills its window and then stands still.
    let much = || stream::repeat(Bytes::from(vec![7; 256 << 10])).boxed();
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut answers = a.appends(&b.peer(), OTHER, much()).await.unwrap();
        assert!(answers.next().now_or_never().is_none());
        stuck.push(answers);
    }
    let (send, requests) = by_hand();
    let mut answers = a.appends(&b.peer(), ECHO, requests).await.unwrap();
    let mut slowest = Duration::ZERO;
    for n in 0..100 {
        let begun = Instant::now();
        assert_eq!(a.call(&b.peer()).await, echoed());
        send.send(number(n)).await.unwrap();
        assert_eq!(soon("an answer", answers.next()).await, Some(Ok(number(n))));
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest call and append beside 40 streams that stand still: {slowest:?}");
    drop(stuck);
    until("all of them end", || async { (hung.streams() == (40, 40)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_a_hanging_group_never_reads_do_not_use_up_the_streams_of_others() {
    let (a, b) = pair().await;
    b.groups.insert(OTHER, Arc::new(Fake::new(Mood::Hangs)));
    for _ in 0..300 {
        let mut answers = a.appends(&b.peer(), OTHER, stream::repeat(number(1)).boxed()).await.unwrap();
        assert!(answers.next().now_or_never().is_none());
    }
    let answers = a.appends(&b.peer(), ECHO, stream::iter([number(1), number(2)]).boxed()).await.unwrap();
    assert_eq!(answers.collect::<Vec<_>>().await, [Ok(number(1)), Ok(number(2))]);
    assert_eq!(b.door.asked(), 1, "on one connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_first_frame_is_late_is_waited_for() {
    let authority = Authority::new("one");
    let b = Side::new(&authority, 2).await;
    let (raw, _control, _answers) = Raw::greeted(b.address, &authority.issue(CLUSTER, 3), hello(3, "")).await;
    let request = [&PeerFrame::Appends { group: ECHO }.to_bytes()[..], b"\0\0\0\x02me"].concat();
    // The other end hears of both with the first frame of the second.
    let mut late = raw.connection.open_bi().await.unwrap();
    let mut early = raw.connection.open_bi().await.unwrap();
    early.0.write_all(&request).await.unwrap();
    let mut answer = [0; 6];
    soon("an answer", early.1.read_exact(&mut answer)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    late.0.write_all(&request).await.unwrap();
    soon("an answer", late.1.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"\0\0\0\x02me");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_swallows_appends_is_given_up_and_one_that_is_only_idle_is_not() {
    let (a, b) = pair().await;
    b.groups.insert(OTHER, Arc::new(Fake::new(Mood::Swallows)));
    let (send, requests) = by_hand();
    let mut idle = a.appends(&b.peer(), ECHO, requests).await.unwrap();
    send.send(number(1)).await.unwrap();
    assert_eq!(soon("an answer", idle.next()).await, Some(Ok(number(1))));
    let (swallowed, requests) = by_hand();
    let mut answers = a.appends(&b.peer(), OTHER, requests).await.unwrap();
    swallowed.send(number(1)).await.unwrap();
    // A leader goes on sending; that alone is no progress.
    let trickle = tokio::spawn({
        let swallowed = swallowed.clone();
        async move {
            while swallowed.send(number(1)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let begun = Instant::now();
    // Both are waited for: nobody looks at a stream that nobody polls.
    let (given_up, waited) = tokio::join!(soon("an error", answers.next()), async {
        tokio::time::timeout(Duration::from_secs(12), idle.next()).await
    });
    let Some(Err(PeerError::Failed(why))) = given_up else { panic!("an error") };
    assert!(why.contains("CODA4139") && why.contains("5s"), "{why}");
    assert!(begun.elapsed() >= Duration::from_secs(5));
    assert!(waited.is_err(), "it goes on waiting");
    send.send(number(2)).await.unwrap();
    assert_eq!(soon("an answer", idle.next()).await, Some(Ok(number(2))));
    soon("the requests are dropped", async {
        drop(answers);
        swallowed.closed().await;
        trickle.await.unwrap();
    })
    .await;
}
