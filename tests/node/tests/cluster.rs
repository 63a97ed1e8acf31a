//! Several nodes that are one cluster: they find each other, share the work, and lose nothing when one of them goes.

use std::collections::BTreeMap;

use coda_client::BoxError;
use coda_node_tests::cluster::TestCluster;
use coda_node_tests::soon;
use coda_node_tests::work::run;
use coda_protocol::ids::NodeId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_and_share_its_work() {
    let cluster = TestCluster::start(3, 3, 3).await;
    let report = cluster.calm().await;
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for group in &report.groups {
        assert_eq!(group.voters, [1, 2, 3].map(NodeId));
        *leads.entry(group.leader.expect("a leader")).or_default() += 1;
    }
    assert_eq!(leads.len(), 3, "leaders are spread: {leads:?}");
    let worker = run(cluster.worker().task("double", |n: u64| async move { Ok::<_, BoxError>(2 * n) }));
    let client = cluster.client().await;
    let mut handles = Vec::new();
    for n in 0..300_u64 {
        handles.push(client.submit_json("double", &n).await.unwrap());
    }
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(soon("a result", handle.result_json::<u64>()).await.unwrap(), 2 * n as u64);
    }
    worker.stop().await;
    cluster.equal(3).await;
    cluster.stop_all().await;
}
