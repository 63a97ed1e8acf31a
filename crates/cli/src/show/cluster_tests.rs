//! Rendering of clusters, from reports of paper to the last space.

use coda_protocol::cluster::{NodeState, SettingDescription, SettingValue, TokenDescription, TokenState};
use coda_protocol::ids::{GroupId, Millis, NodeId, Timestamp, TokenId};
use coda_protocol::operate::{ClusterReport, ReplicaDigest};
use coda_protocol::rebalance::{Plan, Stuck, StuckReason};

use super::canned::{self, NOW};
use super::tests::both;
use super::{cluster, copies, node, plan, setting, token};
use crate::args::Format;
use crate::output::Screen;

fn health(report: &ClusterReport) -> String {
    cluster::health(report, &Screen { format: Format::Table, colours: false, now: NOW })
}

#[test]
fn how_a_cluster_is() {
    both("cluster-status", |screen| cluster::status(&canned::healthy(), screen));
    both("cluster-status-degraded", |screen| cluster::status(&canned::degraded(), screen));
    both("cluster-status-no-quorum", |screen| cluster::status(&canned::no_quorum(), screen));
    both("cluster-status-draining", |screen| cluster::status(&canned::draining(), screen));
    both("cluster-status-bad-disks", |screen| cluster::status(&canned::bad_disks(), screen));
}

#[test]
fn health_is_one_line_with_the_worst_of_it() {
    assert_eq!(health(&canned::healthy()), "healthy\n");
    assert_eq!(
        health(&canned::no_quorum()),
        "no quorum: 4 groups have no quorum: in group 0, 1 of 3 voters answer, for one \
             (and 3 more: see `coda-admin cluster status`)\n"
    );
    assert!(health(&canned::degraded()).starts_with("degraded: node 3 is 20000 entries behind in group 3 (and "));
    let coloured = Screen { format: Format::Table, colours: true, now: NOW };
    assert_eq!(cluster::health(&canned::healthy(), &coloured), "\u{1b}[32mhealthy\u{1b}[39m\n");
    both("cluster-health", |screen| cluster::health(&canned::draining(), screen));
}

#[test]
fn what_nobody_confirmed_is_not_called_healthy() {
    let report = ClusterReport { is_current: false, ..canned::healthy() };
    assert_eq!(health(&report), "degraded: this is what node 1 last heard: no leader of the meta group confirmed it\n");
}

#[test]
fn a_list_of_nodes() {
    let mut members = canned::degraded().members;
    let mut gone = canned::member(4, NodeState::Removed);
    gone.report = Err("removed".into());
    members.push(gone);
    both("node-list", |screen| cluster::nodes(&members, false, screen));
    both("node-list-all", |screen| cluster::nodes(&members, true, screen));
}

#[test]
fn what_a_node_says_of_itself() {
    both("node-report", |screen| node::report(&canned::node(1), screen));
    let mut bad = canned::bad_disks().node(NodeId(3)).unwrap().clone();
    bad.disk.refuses_writes = true;
    bad.disk.sync_hangs = Some(Millis(8_200));
    bad.peers[0].round_trip_us = Err("timed out".into());
    bad.replicas[3].leader = None;
    both("node-report-bad", |screen| node::report(&bad, screen));
    let mut new = canned::node(4);
    (new.state, new.registration.zone, new.disk.syncs) = (None, "".into(), 0);
    new.peers.clear();
    both("node-report-new", |screen| node::report(&new, screen));
}

#[test]
fn what_is_to_be_moved() {
    let mut draining = canned::draining().plan;
    draining.stuck.push(Stuck { group: GroupId(2), reason: StuckReason::NoRoom { node: NodeId(3) } });
    draining.stuck.push(Stuck { group: GroupId(0), reason: StuckReason::QuorumLost });
    both("plan", |screen| plan::plan(&draining, screen));
    both("plan-empty", |screen| plan::plan(&Plan::default(), screen));
    let stuck = Plan { steps: Vec::new(), ..draining };
    both("plan-stuck", |screen| plan::plan(&stuck, screen));
}

#[test]
fn join_tokens() {
    let token = |id, state| TokenDescription {
        token: TokenId([id; 16]),
        created: Timestamp(NOW.0 - 600_000),
        expires: if id == 2 { Timestamp(NOW.0 - 60_000) } else { Timestamp(NOW.0 + 3_000_000) },
        state,
    };
    let tokens = [
        token(1, TokenState::Open),
        token(2, TokenState::Expired),
        token(3, TokenState::Redeemed { node: NodeId(4), at: Timestamp(NOW.0 - 300_000) }),
    ];
    both("tokens", |screen| token::list(&tokens, screen));
}

#[test]
fn settings_of_a_cluster() {
    let setting = |key: &str, value, default, allowed: &str, about: &str| SettingDescription {
        key: key.into(),
        value,
        default,
        allowed: allowed.into(),
        about: about.into(),
    };
    let hour = SettingValue::Number(3_600_000);
    let on = SettingValue::Switch(true);
    let settings = [
        setting(
            "join_token.ttl_ms",
            hour,
            hour,
            "a number from 60000 to 604800000",
            "how long a join token may be used",
        ),
        setting(
            "rebalance.auto",
            SettingValue::Switch(false),
            on,
            "true or false",
            "spread replicas and leaders again",
        ),
    ];
    both("settings", |screen| setting::all(&settings, screen));
    both("setting", |screen| setting::one(&settings[1], screen));
}

#[test]
fn copies_that_are_equal_and_such_as_are_not() {
    let copies = |digests: [Result<(u64, u64), &str>; 3]| {
        let copy = |(node, digest): (usize, Result<(u64, u64), &str>)| ReplicaDigest {
            node: NodeId(node as u64 + 1),
            digest: digest.map_err(Into::into),
        };
        digests.into_iter().enumerate().map(copy).collect::<Vec<_>>()
    };
    let same = Ok((120_345, 0x1234_5678_9abc_def0));
    let checked = [
        copies::Checked::new(GroupId(0), copies([same, same, same])),
        copies::Checked::new(GroupId(1), copies([same, Ok((120_345, 7)), same])),
        copies::Checked::new(GroupId(2), copies([same, Err("no connection"), same])),
        copies::Checked::new(GroupId(3), vec![ReplicaDigest { node: NodeId(1), digest: same.map_err(Into::into) }]),
    ];
    both("copies", |screen| copies::list(&checked, screen));
}
