//! Nodes of a cluster whose disks hang, or are full.

use std::time::Duration;

use coda_client::ClientError;
use coda_node_tests::cluster::{TestCluster, cluster_report};
use coda_node_tests::raw::submit;
use coda_node_tests::{soon, until};
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::operate::Health;

/// So that a client's retries show.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_lets_another_lead_and_comes_back() {
    let cluster = TestCluster::start(3, 3, 1).await;
    let client = cluster.client().await;
    let leader = |report: coda_protocol::operate::ClusterReport| {
        report.groups.iter().find(|group| group.group == GroupId(1)).and_then(|group| group.leader)
    };
    let hangs = leader(cluster_report(&client).await).expect("a leader");
    cluster.slow_disk(hangs.0, Duration::from_secs(3_600));
    // Something has to be written for a disk to be found wanting; what is written goes on through the others.
    for n in 0..20_u64 {
        soon("a task is taken", client.submit_json("later", &n)).await.expect("never refused");
    }
    until("another leads", || async {
        client.submit_json("later", &0).await.expect("never refused");
        leader(cluster_report(&client).await).filter(|leader| *leader != hangs)
    })
    .await;
    let report = cluster_report(&client).await;
    let Health::Degraded(why) = report.health() else { panic!("{:?}", report.health()) };
    assert!(why.iter().any(|why| why.contains(&format!("the disk of node {hangs} has not answered"))), "{why:?}");
    for n in 0..20_u64 {
        soon("a task is taken", client.submit_json("later", &n)).await.expect("never refused");
    }
    cluster.slow_disk(hangs.0, Duration::ZERO);
    cluster.calm().await;
    cluster.equal(1).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_work_and_goes_on_when_there_is_room() {
    let cluster = TestCluster::start(1, 1, 1).await;
    let client = cluster.client().await;
    client.submit_json("later", &0).await.expect("taken");
    cluster.free_on_disk(1, 1 << 20);
    let refused = until("it is refused", || async {
        client.link().request_within(submit("later", "default"), SHORT).await.err()
    })
    .await;
    let ClientError::Deadline { last: Some(last), .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(last.code(), "CODA3005");
    let report = cluster_report(&client).await;
    assert!(report.node(NodeId(1)).expect("it answers").disk.refuses_writes);
    let Health::Degraded(why) = report.health() else { panic!("{:?}", report.health()) };
    assert!(why.iter().any(|why| why.contains("node 1 refuses writes")), "{why:?}");
    // Operators are not locked out, and what waits goes on by itself.
    client.pause_queue("default").await.expect("paused");
    client.unpause_queue("default").await.expect("unpaused");
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.submit_json("later", &1).await.map(drop) }
    });
    cluster.free_on_disk(1, 1 << 39);
    soon("it goes on", waits).await.unwrap().expect("taken");
    assert_eq!(cluster.calm().await.health(), Health::Healthy);
    cluster.stop_all().await;
}
