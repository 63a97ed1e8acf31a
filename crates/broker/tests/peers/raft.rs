//! Real groups over real connections: they elect, replicate, and survive what happens to nodes.

use std::time::{Duration, Instant};

use coda_protocol::ids::NodeId;

use crate::cluster::{Cluster, GROUPS, submit};
use crate::side::free_address;
use crate::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn groups_share_connections_and_are_led_where_they_are_told_to() {
    let cluster = Cluster::start().await;
    for group in GROUPS {
        for number in 0..30 {
            cluster.propose(group, &submit(number..number + 1, 64)).await;
        }
        cluster.agree(group).await;
    }
    let (from, leader) = cluster.leader(GROUPS[1]).await;
    let to = cluster.other(from);
    leader.transfer_leader(NodeId(to)).await.unwrap();
    let mut leadership = cluster.group(to, GROUPS[1]).leadership();
    soon("leadership is handed over", leadership.wait_for(|now| now.is_me)).await.unwrap();
    for group in GROUPS {
        for number in 30..60 {
            cluster.propose(group, &submit(number..number + 1, 64)).await;
        }
        cluster.agree(group).await;
    }
    for (node, one) in &cluster.nodes {
        // Each dials two others at most, and two others dial it.
        assert!(one.door.asked() <= 4, "node {node} has met {} times", one.door.asked());
        assert!(one.endpoint.peers().iter().all(|peer| peer.dialled.is_ok()), "{:?}", one.endpoint.peers());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start().await;
    for round in 0..3_u64 {
        let numbers = round * 100..round * 100 + 10;
        for group in GROUPS {
            cluster.propose(group, &submit(numbers.clone(), 64)).await;
        }
        let (leader, _) = cluster.leader(GROUPS[0]).await;
        let address = cluster.kill(leader).await;
        let took = cluster.propose(GROUPS[0], &submit(numbers.end..numbers.end + 1, 64)).await;
        println!("a proposal was accepted {took:?} after the leader was killed");
        cluster.up(leader, address).await;
        let begun = Instant::now();
        for group in GROUPS {
            cluster.agree(group).await;
        }
        println!("and it had caught up {:?} after it was back", begun.elapsed());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_at_another_address_and_finds_its_way_by_itself() {
    let mut cluster = Cluster::start().await;
    let (leader, _) = cluster.leader(GROUPS[0]).await;
    let moved = cluster.other(leader);
    cluster.propose(GROUPS[0], &submit(0..10, 64)).await;
    cluster.kill(moved).await;
    cluster.propose(GROUPS[0], &submit(10..20, 64)).await;
    let begun = Instant::now();
    cluster.up(moved, free_address()).await;
    for group in GROUPS {
        cluster.agree(group).await;
    }
    println!("it had caught up {:?} after it was back", begun.elapsed());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_nobody_hears_is_replaced_and_follows_when_it_is_heard_again() {
    let cluster = Cluster::with_cables().await;
    for round in 0..2_u64 {
        let first = round * 100;
        for group in GROUPS {
            cluster.propose(group, &submit(first..first + 10, 64)).await;
        }
        let (alone, old) = cluster.leader(GROUPS[0]).await;
        let term = old.leadership().borrow().term;
        cluster.cut.off(cluster.nodes[&alone].address);
        let begun = Instant::now();
        let next = until("another one leads", || async {
            let others = cluster.nodes.keys().filter(|node| **node != alone);
            others.map(|node| cluster.group(*node, GROUPS[0])).find(|one| one.leadership().borrow().is_me)
        })
        .await;
        let entry = submit(first + 10..first + 20, 64);
        let committed = until("it can", || async { next.propose(entry.clone()).await.ok() }).await;
        println!("a proposal was accepted {:?} after the leader was cut off", begun.elapsed());
        assert!(committed.position.term > term);
        // What the old one is asked is not done, or at least not known to be.
        let late = tokio::time::timeout(Duration::from_millis(300), old.propose(submit(first + 50..first + 51, 64)));
        assert!(!late.await.is_ok_and(|committed| committed.is_ok()));
        cluster.cut.heal();
        let begun = Instant::now();
        for group in GROUPS {
            cluster.agree(group).await;
        }
        println!("all agreed {:?} after it was heard again", begun.elapsed());
    }
    cluster.stop().await;
}
