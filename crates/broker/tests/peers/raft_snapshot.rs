//! A node that missed more than the log keeps gets a snapshot, while everything else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coda_raft_store::group::Group;

use crate::cluster::{Cluster, GROUPS, submit};
use crate::until;

const TASKS: u64 = 600;
const TASK_BYTES: usize = 100 << 10;

fn quantile(sorted: &[Duration], of_thousand: usize) -> Duration {
    sorted[(sorted.len() - 1) * of_thousand / 1_000]
}

/// Proposes one small entry after the other, until told to stop; how long each took.
async fn propose_steadily(group: Group, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 1_000_000.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let begun = Instant::now();
        group.propose(submit(number..number + 1, 64)).await.expect("the leader stays the leader");
        took.push(begun.elapsed());
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_never_stands_in_the_way_of_appends_and_heartbeats() {
    let mut cluster = Cluster::start().await;
    let [small, large] = GROUPS;
    let (leader, _) = cluster.leader(large).await;
    let late = cluster.other(leader);
    let address = cluster.kill(late).await;
    for number in (0..TASKS).step_by(10) {
        cluster.propose(large, &submit(number..number + 10, TASK_BYTES)).await;
    }
    let (_, large_leader) = cluster.leader(large).await;
    let (_, small_leader) = cluster.leader(small).await;
    let purged =
        until("the log is let go", || async { large_leader.status().purged.filter(|index| *index > 50) }).await;
    let terms = || (large_leader.leadership().borrow().clone(), small_leader.leadership().borrow().clone());
    let before = terms();

    // First without the snapshot, to compare.
    let measure = |stop: &Arc<AtomicBool>| {
        [&small_leader, &large_leader].map(|group| tokio::spawn(propose_steadily(group.clone(), stop.clone())))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let quiet = measure(&stop);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    let quiet = futures::future::join_all(quiet).await;

    let stop = Arc::new(AtomicBool::new(false));
    let busy = measure(&stop);
    let begun = Instant::now();
    cluster.up(late, address).await;
    let caught_up = cluster.group(late, large);
    assert!(caught_up.read(|_, applied| applied) < purged, "the log alone cannot bring it back");
    until("the snapshot is installed", || async { (caught_up.read(|_, applied| applied) > purged).then_some(()) })
        .await;
    let took = begun.elapsed();
    stop.store(true, Ordering::SeqCst);
    let busy = futures::future::join_all(busy).await;

    println!("{} MB caught up in {took:?}", TASKS as usize * TASK_BYTES / 1_000_000);
    for (what, took) in
        ["small quiet", "large quiet", "small beside it", "large beside it"].iter().zip(quiet.into_iter().chain(busy))
    {
        let took = took.unwrap();
        let [p50, p99, max] = [500, 990, 1_000].map(|of_thousand| quantile(&took, of_thousand));
        println!("{what}: {} proposals, p50 {p50:?}, p99 {p99:?}, max {max:?}", took.len());
    }
    assert_eq!(terms(), before, "no heartbeat was missed for long enough to doubt the leaders");
    for group in GROUPS {
        cluster.agree(group).await;
    }
    cluster.stop().await;
}
