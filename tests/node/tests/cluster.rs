//! Several nodes that are one cluster: they find each other, share the work, and lose nothing when one of them goes.

use std::collections::BTreeMap;
use std::time::Duration;

use coda_client::BoxError;
use coda_node_tests::cluster::{TestCluster, ask, cluster_report, try_ask};
use coda_node_tests::work::run;
use coda_node_tests::{logs, soon, until};
use coda_protocol::cluster::{NodeState, SettingValue};
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::operate::{ClusterReport, ClusterRequest, GroupReport};
use coda_protocol::reply::{QueueList, Reply};
use coda_protocol::request::Request;
use tokio::sync::watch;
use tokio::time::sleep;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_for_the_whole_cluster() {
    let cluster = TestCluster::start(3, 3, 3).await;
    let client = cluster.client().await;
    for n in 0..60_u64 {
        client.submit_json("later", &n).await.unwrap();
    }
    for node in 1..=3 {
        let mut raw = cluster.raw(node).await;
        let Ok(Reply::QueuePage(first)) = raw.ask(Request::ListQueuesFrom(None)).await else { panic!() };
        let (mut list, mut next) = (QueueList::default(), None);
        next = list.add(first).or(next);
        while let Some(from) = next.take() {
            let Ok(Reply::QueuePage(page)) = raw.ask(Request::ListQueuesFrom(Some(from))).await else { panic!() };
            next = list.add(page);
        }
        let queues: Vec<(String, u64)> =
            list.into_queues().into_iter().map(|queue| (queue.queue.to_string(), queue.ready)).collect();
        assert_eq!(queues, [("default".to_owned(), 60)], "as node {node} says");
        let Ok(Reply::Lanes(lanes)) = raw.ask(Request::DescribeLanes("default".into())).await else { panic!() };
        assert_eq!((lanes.summary.ready, lanes.summary.paused), (60, false), "as node {node} says");
        assert_eq!(raw.ask(Request::PauseQueue("default".into())).await, Ok(Reply::Done));
        let Ok(Reply::Lanes(lanes)) = raw.ask(Request::DescribeLanes("default".into())).await else { panic!() };
        assert!(lanes.summary.paused, "as node {node} was told");
        assert_eq!(raw.ask(Request::UnpauseQueue("default".into())).await, Ok(Reply::Done));
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stops_and_comes_back_while_work_goes_on() {
    let mut cluster = TestCluster::start(3, 3, 3).await;
    let worker = run(cluster.worker().task("double", |n: u64| async move { Ok::<_, BoxError>(2 * n) }));
    let client = cluster.client().await;
    let (stop, mut stopping) = watch::channel(false);
    let load = tokio::spawn({
        let client = client.clone();
        async move {
            let mut done = 0_u64;
            while !*stopping.borrow_and_update() {
                let handle = client.submit_json("double", &done).await.expect("never refused");
                assert_eq!(handle.result_json::<u64>().await.expect("a result"), 2 * done);
                done += 1;
            }
            done
        }
    });
    for node in 1..=3 {
        cluster.stop(node).await;
        cluster.go(node).await;
        cluster.calm().await;
    }
    stop.send_replace(true);
    assert!(soon("the load ends", load).await.unwrap() > 0);
    worker.stop().await;
    cluster.equal(3).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_and_leave_nothing_behind() {
    let mut cluster = TestCluster::start(3, 3, 4).await;
    let client = cluster.client().await;
    let mut handles = Vec::new();
    for n in 0..50_u64 {
        handles.push(client.submit_json("double", &n).await.unwrap());
    }
    for node in [4, 5] {
        cluster.add(node).await;
        cluster.join(&client, node).await;
        cluster.until_state(&client, node, NodeState::Active).await;
    }
    let report = cluster.calm().await;
    let copies = |report: &ClusterReport, node: u64| {
        let on = |group: &&GroupReport| group.voters.contains(&NodeId(node)) && group.group != GroupId::META;
        report.groups.iter().filter(on).count()
    };
    let counts: Vec<usize> = (1..=5).map(|node| copies(&report, node)).collect();
    assert_eq!(counts.iter().sum::<usize>(), 12, "three copies of each: {counts:?}");
    assert!(counts.iter().all(|count| (2..=3).contains(count)), "evenly: {counts:?}");
    let refused = try_ask(&client, ClusterRequest::Remove(NodeId(1))).await.unwrap_err();
    assert_eq!(refused.code(), "CODA2042", "it is in use");
    for node in [1, 2] {
        assert_eq!(ask(&client, ClusterRequest::Drain(NodeId(node))).await, Reply::Done);
        until("it is empty", || async {
            let removed = try_ask(&client, ClusterRequest::Remove(NodeId(node))).await;
            if removed.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
            removed.ok()
        })
        .await;
        cluster.stop(node).await;
    }
    let report = cluster.calm().await;
    assert!(report.groups.iter().all(|group| group.voters == [3, 4, 5].map(NodeId)), "{:?}", report.groups);
    let worker = run(cluster.worker().task("double", |n: u64| async move { Ok::<_, BoxError>(2 * n) }));
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(soon("a result", handle.result_json::<u64>()).await.unwrap(), 2 * n as u64);
    }
    worker.stop().await;
    cluster.equal(4).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_lost_its_disk_or_was_removed_does_not_come_back() {
    let mut cluster = TestCluster::start(3, 3, 1).await;
    let client = cluster.client_of(&[1]).await;
    cluster.stop(3).await;
    cluster.wipe(3);
    cluster.go(3).await;
    let refused = cluster.try_join(&client, 3).await.unwrap_err();
    assert_eq!(refused.code(), "CODA2040", "its copies are gone, and with them what it promised");
    until("the others refuse it", || async { logs::matching("comes with storage").pop() }).await;
    // It leaves as a dead node does, and another takes its place.
    assert_eq!(ask(&client, ClusterRequest::Drain(NodeId(3))).await, Reply::Done);
    cluster.add(4).await;
    cluster.join(&client, 4).await;
    until("it is replaced", || async {
        let removed = try_ask(&client, ClusterRequest::Remove(NodeId(3))).await;
        if removed.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        removed.ok()
    })
    .await;
    let report = cluster.calm_without(&[3]).await;
    assert!(report.groups.iter().all(|group| group.voters == [1, 2, 4].map(NodeId)), "{:?}", report.groups);
    let terms: Vec<u64> = report.groups.iter().map(|group| group.term).collect();
    cluster.stop(3).await;
    cluster.go(3).await;
    until("the others refuse it", || async { logs::matching("node 3 was removed").pop() }).await;
    let after = cluster.calm_without(&[3]).await;
    assert_eq!(after.groups.iter().map(|group| group.term).collect::<Vec<_>>(), terms, "nobody was disturbed");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_at_once_when_an_operator_asks_for_it() {
    let cluster = TestCluster::start(3, 3, 1).await;
    let client = cluster.client().await;
    let off = ClusterRequest::SetSetting { key: "rebalance.auto".into(), value: Some(SettingValue::Switch(false)) };
    assert_eq!(ask(&client, off).await, Reply::Done);
    let leads = || async {
        let report = cluster_report(&client).await;
        report.groups.iter().find(|group| group.group == GroupId(1)).and_then(|group| group.leader)
    };
    for to in [2, 3, 1, 2].map(NodeId) {
        let transfer = ClusterRequest::TransferLeader { group: GroupId(1), to: Some(to) };
        assert_eq!(ask(&client, transfer).await, Reply::Done);
        until("it leads", || async { leads().await.filter(|leader| *leader == to) }).await;
    }
    assert_eq!(ask(&client, ClusterRequest::TransferLeader { group: GroupId(1), to: None }).await, Reply::Done);
    until("another leads", || async { leads().await.filter(|leader| *leader != NodeId(2)) }).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stays_for_a_while_where_an_operator_has_put_it() {
    let cluster = TestCluster::start(3, 3, 3).await;
    let client = cluster.client().await;
    // Twice: from the second time on, whoever spreads leaders evenly has waited for everything that it waits for.
    for _ in 0..2 {
        let report = cluster.calm().await;
        let leads = |node: u64| report.groups.iter().filter(|group| group.leader == Some(NodeId(node))).count();
        let most = (1..=3).max_by_key(|node| leads(*node)).map(NodeId).expect("three nodes");
        let other = report.groups.iter().find(|group| group.group != GroupId::META && group.leader != Some(most));
        let group = other.expect("each leads a group").group;
        let transfer = ClusterRequest::TransferLeader { group, to: Some(most) };
        assert_eq!(soon("it is moved", try_ask(&client, transfer)).await.unwrap(), Reply::Done);
        let after = cluster_report(&client).await;
        let preferred = after.groups.iter().find(|one| one.group == group).and_then(|one| one.preferred);
        assert_eq!(preferred, Some(most), "it was not taken back at once");
        until("leaders are spread evenly again", || async {
            let report = cluster_report(&client).await;
            report.groups.iter().find(|one| one.group == group)?.leader.filter(|leader| *leader != most)
        })
        .await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_that_led_what_the_one_who_decides_has_no_copy_of() {
    let mut cluster = TestCluster::start(5, 3, 5).await;
    let report = cluster.calm().await;
    let decides = report.groups[0].leader.expect("the meta group has a leader");
    let apart = |group: &&GroupReport| !group.voters.contains(&decides);
    let group = report.groups.iter().find(apart).expect("five nodes, three copies");
    let led = group.preferred.expect("somebody should lead");
    cluster.stop(led.0).await;
    let client = cluster.client().await;
    assert_eq!(ask(&client, ClusterRequest::Drain(led)).await, Reply::Done);
    until("it is empty", || async {
        let removed = try_ask(&client, ClusterRequest::Remove(led)).await;
        if removed.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        removed.ok()
    })
    .await;
    cluster.calm().await;
    cluster.equal(5).await;
    cluster.stop_all().await;
}
