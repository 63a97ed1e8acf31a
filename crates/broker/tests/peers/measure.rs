//! What the transport costs: alone, between two nodes with groups that echo, and as a part of a commit of three nodes
//! with real stores. Not tests: run them with
//! `cargo test --release -p coda-broker --test peers -- --ignored --nocapture --test-threads 1`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coda_protocol::ids::{GroupId, NodeId};
use coda_raft_store::group::{Group, GroupOptions};
use coda_raft_store::peers::{Call, NoPeers, Peer, PeerError, PeerTransport, Rpc};
use coda_raft_store::store::{NodeStore, SnapshotFile, StoreOptions};
use futures::StreamExt;
use futures::stream::{self, BoxStream, FuturesUnordered};
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;

use crate::authority::Authority;
use crate::cluster::{Cluster, GROUPS, submit};
use crate::side::{ECHO, Side};

const FOR: Duration = Duration::from_secs(3);

type Transport = Arc<dyn PeerTransport>;

fn histogram() -> Histogram<u64> {
    Histogram::new(3).unwrap()
}

fn say(what: &str, took: &Histogram<u64>, elapsed: Duration) {
    let per_second = took.len() as f64 / elapsed.as_secs_f64();
    let [p50, p99] = [0.5, 0.99].map(|at| took.value_at_quantile(at));
    println!("{what:<44} {per_second:>10.0}/s   p50 {p50:>6} µs   p99 {p99:>6} µs   max {:>7} µs", took.max());
}

async fn calls(transport: Transport, to: Peer, in_flight: usize, lasts: Duration) -> (Histogram<u64>, Duration) {
    let (begun, mut took) = (Instant::now(), histogram());
    let body = Bytes::from(vec![7; 128]);
    let call = || {
        let (transport, to, body) = (transport.clone(), to.clone(), body.clone());
        async move {
            let begun = Instant::now();
            transport.call(&to, ECHO, Rpc::Vote, body, FOR * 10).await.unwrap();
            begun.elapsed()
        }
    };
    let mut under_way: FuturesUnordered<_> = (0..in_flight).map(|_| call()).collect();
    while let Some(one) = under_way.next().await {
        took.record(one.as_micros() as u64).unwrap();
        if begun.elapsed() < lasts {
            under_way.push(call());
        }
    }
    (took, begun.elapsed())
}

async fn single_appends(transport: Transport, to: Peer) -> (Histogram<u64>, Duration) {
    let (begun, mut took) = (Instant::now(), histogram());
    while begun.elapsed() < FOR {
        let begun = Instant::now();
        let request = stream::once(std::future::ready(Bytes::from(vec![7; 128]))).boxed();
        let answers = transport.appends(&to, ECHO, request).await.unwrap();
        assert_eq!(answers.count().await, 1);
        took.record(begun.elapsed().as_micros() as u64).unwrap();
    }
    (took, begun.elapsed())
}

/// A stream of appends with so many under way.
async fn appends(transport: Transport, to: Peer, in_flight: usize, bytes: usize) -> (Histogram<u64>, Duration) {
    let (send, receive) = mpsc::channel::<Bytes>(in_flight);
    let requests = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    let mut answers = transport.appends(&to, ECHO, requests.boxed()).await.unwrap();
    let (begun, mut took) = (Instant::now(), histogram());
    let body = Bytes::from(vec![7; bytes]);
    let mut sent = std::collections::VecDeque::new();
    loop {
        while sent.len() < in_flight && begun.elapsed() < FOR {
            sent.push_back(Instant::now());
            send.send(body.clone()).await.unwrap();
        }
        let Some(first) = sent.pop_front() else { return (took, begun.elapsed()) };
        answers.next().await.unwrap().unwrap();
        took.record(first.elapsed().as_micros() as u64).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_the_transport_costs() {
    let authority = Authority::new("one");
    let (a, b) = (Side::new(&authority, 1).await, Side::new(&authority, 2).await);
    let (transport, to) = (a.transport.clone(), b.peer());
    let begun = Instant::now();
    a.call(&to).await.unwrap();
    println!("{:<44} {:?}", "dial, handshake, hello and first call", begun.elapsed());
    for in_flight in [1, 16, 64] {
        let (took, elapsed) = a.run(calls(transport.clone(), to.clone(), in_flight, FOR)).await;
        say(&format!("calls of 128 B, {in_flight} under way"), &took, elapsed);
    }
    let (took, elapsed) = a.run(single_appends(transport.clone(), to.clone())).await;
    say("heartbeats, one after the other", &took, elapsed);
    for (in_flight, bytes) in [(1, 128), (64, 128), (64, 1 << 10), (64, 16 << 10), (16, 256 << 10)] {
        let (took, elapsed) = a.run(appends(transport.clone(), to.clone(), in_flight, bytes)).await;
        say(&format!("appends of {bytes} B, {in_flight} under way"), &took, elapsed);
        let megabytes = (took.len() as usize * bytes) as f64 / elapsed.as_secs_f64() / 1e6;
        println!("{:<44} {megabytes:>10.0} MB/s", "");
    }

    let dir = tempfile::tempdir().unwrap();
    let (path, size) = (dir.path().join("snapshot"), 512 << 20);
    std::fs::write(&path, vec![7; size]).unwrap();
    let begun = Instant::now();
    a.snapshot(&to, ECHO, path.clone()).await.unwrap();
    println!("{:<44} {:>10.0} MB/s", "a snapshot of 512 MiB", size as f64 / begun.elapsed().as_secs_f64() / 1e6);
    let (sending, lasts) = (a.snapshot(&to, ECHO, path), Duration::from_secs(2));
    let voting = a.run(calls(transport.clone(), to.clone(), 1, lasts));
    let (installed, (took, elapsed)) = tokio::join!(sending, voting);
    installed.unwrap();
    say("votes beside another one, 1 under way", &took, elapsed);
}

/// Entries of one small task each, from so many who wait for each of theirs.
async fn commits(group: Group, proposers: usize, numbers: Arc<AtomicU64>) -> (Histogram<u64>, Duration) {
    let (begun, mut took) = (Instant::now(), histogram());
    let propose = || {
        let (group, number) = (group.clone(), numbers.fetch_add(1, Ordering::Relaxed));
        async move {
            let begun = Instant::now();
            group.propose(submit(number..number + 1, 64)).await.expect("the leader stays the leader");
            begun.elapsed()
        }
    };
    let mut under_way: FuturesUnordered<_> = (0..proposers).map(|_| propose()).collect();
    while let Some(one) = under_way.next().await {
        took.record(one.as_micros() as u64).unwrap();
        if begun.elapsed() < FOR {
            under_way.push(propose());
        }
    }
    (took, begun.elapsed())
}

/// Carries messages between nodes of one process, each served on its own runtime.
#[derive(Clone, Default)]
struct Direct(Arc<Mutex<BTreeMap<NodeId, (Group, Handle)>>>);

impl Direct {
    fn to(&self, peer: &Peer) -> (Group, Handle) {
        self.0.lock().unwrap()[&peer.node].clone()
    }
}

impl PeerTransport for Direct {
    fn call(&self, to: &Peer, _: GroupId, rpc: Rpc, body: Bytes, _: Duration) -> Call<'_, Bytes> {
        let (group, runtime) = self.to(to);
        let served = runtime.spawn(async move { group.serve(rpc, &body).await });
        Box::pin(async move { Ok(served.await.unwrap().unwrap()) })
    }

    fn appends(
        &self,
        to: &Peer,
        _: GroupId,
        requests: BoxStream<'static, Bytes>,
    ) -> Call<'_, BoxStream<'static, Result<Bytes, PeerError>>> {
        let (group, runtime) = self.to(to);
        let (send, answers) = mpsc::channel(64);
        runtime.spawn(async move {
            let mut answers = group.serve_appends(requests);
            while let Some(answer) = answers.next().await {
                if send.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        let answers = stream::unfold(answers, |mut answers| async move { Some((answers.recv().await?, answers)) });
        Box::pin(std::future::ready(Ok(answers.boxed())))
    }

    fn snapshot(&self, _: &Peer, _: GroupId, _: Bytes, _: SnapshotFile) -> Call<'_, Bytes> {
        unreachable!("nobody is late")
    }
}

fn syncs(dir: &std::path::Path) -> (Histogram<u64>, Duration) {
    let (begun, mut took) = (Instant::now(), histogram());
    let mut file = File::create(dir.join("synced")).unwrap();
    while begun.elapsed() < FOR {
        let begun = Instant::now();
        file.write_all(&[7; 512]).unwrap();
        file.sync_data().unwrap();
        took.record(begun.elapsed().as_micros() as u64).unwrap();
    }
    (took, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_a_commit_costs() {
    let dir = tempfile::tempdir().unwrap();
    let (took, elapsed) = syncs(dir.path());
    say("a sync of 512 B", &took, elapsed);
    let store = NodeStore::open(dir.path().join("data"), StoreOptions::default()).unwrap();
    let alone = Group::start(store.clone(), GroupOptions::new(GROUPS[0], NodeId(1)), Arc::new(NoPeers)).await.unwrap();
    alone.initialize_single().await.unwrap();
    let numbers = Arc::new(AtomicU64::new(0));
    for proposers in [1, 64] {
        let measured = tokio::spawn(commits(alone.clone(), proposers, numbers.clone()));
        let (took, elapsed) = measured.await.unwrap();
        say(&format!("commits of one node, {proposers} under way"), &took, elapsed);
    }
    alone.shutdown().await;

    // The same three nodes without a network, to see what it adds.
    let direct = Direct::default();
    let (mut groups, mut runtimes) = (Vec::new(), Vec::new());
    for node in 1..=3 {
        let store = NodeStore::open(dir.path().join(node.to_string()), StoreOptions::default()).unwrap();
        let options = GroupOptions { addr: node.to_string(), ..GroupOptions::new(GROUPS[0], NodeId(node)) };
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let group = runtime.spawn(Group::start(store, options, Arc::new(direct.clone()))).await.unwrap().unwrap();
        direct.0.lock().unwrap().insert(NodeId(node), (group.clone(), runtime.handle().clone()));
        groups.push(group);
        runtimes.push(runtime);
    }
    groups[0].initialize_single().await.unwrap();
    for node in 2..=3 {
        groups[0].add_learner(Peer { node: NodeId(node), addr: node.to_string() }).await.unwrap();
    }
    groups[0].change_voters((1..=3).map(NodeId)).await.unwrap();
    for proposers in [1, 64] {
        let measured = runtimes[0].spawn(commits(groups[0].clone(), proposers, numbers.clone()));
        let (took, elapsed) = measured.await.unwrap();
        say(&format!("commits of three in one process, {proposers} under way"), &took, elapsed);
    }
    for group in &groups {
        group.shutdown().await;
    }
    runtimes.into_iter().for_each(tokio::runtime::Runtime::shutdown_background);

    let cluster = Cluster::as_it_runs().await;
    let (node, leader) = cluster.leader(GROUPS[0]).await;
    for proposers in [1, 64] {
        let (took, elapsed) = cluster.run(node, commits(leader.clone(), proposers, numbers.clone())).await;
        say(&format!("commits of three nodes, {proposers} under way"), &took, elapsed);
    }
    cluster.agree(GROUPS[0]).await;
    cluster.stop().await;
}
