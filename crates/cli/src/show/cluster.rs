//! A cluster: how it is, its nodes, its groups, and what is to be moved.

use std::fmt::Write;

use coda_protocol::cluster::{MemberDescription, NodeState};
use coda_protocol::ids::{Millis, NodeId};
use coda_protocol::operate::{ClusterReport, GroupReport, Health, LAG_ENTRIES_MAX, MemberReport, ReplicaReport};
use comfy_table::Cell;
use owo_colors::AnsiColors;
use serde_json::{Value, json};

use super::{node, plan};
use crate::args::Format;
use crate::errors::printable;
use crate::output::{Fields, Grid, Screen, bad, bytes, document, good, micros, painted, span, warned};

pub fn status(report: &ClusterReport, screen: &Screen) -> String {
    if screen.format == Format::Json {
        return document(&status_json(report));
    }
    let mut out = health_lines(&report.health(), screen);
    out.push('\n');
    let mut fields = Fields::new(screen);
    if let Some(cluster) = &report.cluster {
        fields = fields
            .with("CLUSTER", cluster.cluster.to_string())
            .with("AGE", screen.age(cluster.created))
            .with("COPIES", format!("{} of each group", cluster.replication_factor))
            .with("GROUPS", format!("the meta group and {}", cluster.groups));
    }
    let seen = if report.is_current { "" } else { ", as it last heard" };
    out.push_str(&fields.with("SEEN BY", format!("node {}{seen}", report.node)).render());
    out.push('\n');
    out.push_str(&nodes_table(in_use(&report.members), screen));
    out.push('\n');
    out.push_str(&groups_table(report, screen));
    let moves = plan::lines(&report.plan, screen);
    if !moves.is_empty() {
        out.push('\n');
        out.push_str(&moves);
    }
    out
}

/// One line: the word, and the worst of its reasons.
pub fn health(report: &ClusterReport, screen: &Screen) -> String {
    let health = report.health();
    if screen.format == Format::Json {
        return document(&json!({ "health": word(&health).replace(' ', "_"), "reasons": reasons(&health) }));
    }
    let more = match reasons(&health).len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more: see `coda-admin cluster status`)", count - 1),
    };
    let line = headline(&health);
    format!("{}{more}\n", painted(screen, colour(&health), &line))
}

/// The members of a cluster, those that are gone only if asked for.
pub fn nodes(members: &[MemberReport], with_removed: bool, screen: &Screen) -> String {
    let shown: Vec<&MemberReport> = members.iter().filter(|one| with_removed || is_in_use(one)).collect();
    match screen.format {
        Format::Json => document(&json!({ "nodes": shown.into_iter().map(member_json).collect::<Vec<_>>() })),
        Format::Table => nodes_table(shown, screen),
    }
}

pub fn word(health: &Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Degraded(_) => "degraded",
        Health::NoQuorum(_) => "no quorum",
    }
}

/// What others said of themselves stands among them.
fn reasons(health: &Health) -> Vec<String> {
    match health {
        Health::Healthy => Vec::new(),
        Health::Degraded(reasons) | Health::NoQuorum(reasons) => {
            reasons.iter().map(|reason| printable(reason)).collect()
        }
    }
}

fn colour(health: &Health) -> AnsiColors {
    match health {
        Health::Healthy => AnsiColors::Green,
        Health::Degraded(_) => AnsiColors::Yellow,
        Health::NoQuorum(_) => AnsiColors::Red,
    }
}

fn headline(health: &Health) -> String {
    match reasons(health).first() {
        Some(reason) => format!("{}: {reason}", word(health)),
        None => word(health).to_owned(),
    }
}

fn health_lines(health: &Health, screen: &Screen) -> String {
    let mut out = format!("{}\n", painted(screen, colour(health), &headline(health)));
    let indent = word(health).len() + 2;
    for reason in reasons(health).iter().skip(1) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:indent$}{reason}", "");
    }
    out
}

fn is_in_use(member: &MemberReport) -> bool {
    member.member.state != NodeState::Removed
}

fn in_use(members: &[MemberReport]) -> Vec<&MemberReport> {
    members.iter().filter(|member| is_in_use(member)).collect()
}

fn nodes_table(members: Vec<&MemberReport>, screen: &Screen) -> String {
    let header =
        ["NODE", "STATE", "ADDRESS", "ZONE", "VERSION", "UP", "LEADS", "GROUPS", "DISK USED", "FREE", "FSYNC P99"];
    let mut grid = Grid::new(screen, header);
    for MemberReport { member, report } in members {
        let none = || Cell::new("-");
        let [up, used, free, sync] = match report {
            Ok(report) => {
                let disk = &report.disk;
                let free = bytes(disk.free_bytes);
                [
                    Cell::new(span(report.uptime.0)),
                    Cell::new(bytes(disk.data_bytes)),
                    if disk.refuses_writes { bad(free) } else { Cell::new(free) },
                    match disk.sync_hangs {
                        Some(Millis(ms)) => bad(format!("hangs {}", span(ms))),
                        None if disk.syncs == 0 => none(),
                        None => Cell::new(micros(disk.sync_p99_us)),
                    },
                ]
            }
            Err(_) if member.state == NodeState::Removed => [none(), none(), none(), none()],
            Err(_) => [bad("no answer"), none(), none(), none()],
        };
        grid.row([
            Cell::new(member.node),
            state_cell(member.state),
            Cell::new(printable(&member.registration.client_addr)),
            Cell::new(dash(&member.registration.zone)),
            Cell::new(printable(&member.registration.version)),
            up,
            Cell::new(member.leads),
            Cell::new(member.groups),
            used,
            free,
            sync,
        ]);
    }
    grid.numbers([6, 7, 8, 9, 10]).render()
}

pub fn state_cell(state: NodeState) -> Cell {
    match state {
        NodeState::Active => good(state),
        NodeState::Joining | NodeState::Draining => warned(state),
        NodeState::Removed => Cell::new(state),
    }
}

pub fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(text) }
}

fn groups_table(report: &ClusterReport, screen: &Screen) -> String {
    let header = ["GROUP", "LEADER", "TERM", "APPLIED", "LAG", "LOG", "CHECKPOINT", "VOTERS", "SETTLED"];
    let mut grid = Grid::new(screen, header);
    for group in &report.groups {
        let leads = leading(report, group);
        let dash = || Cell::new("-");
        grid.row([
            Cell::new(group.group),
            group.leader.map_or_else(|| bad("none"), Cell::new),
            Cell::new(group.term),
            leads.map_or_else(dash, |replica| Cell::new(replica.applied)),
            leads.map_or_else(dash, lag_cell),
            leads.map_or_else(dash, |replica| Cell::new(bytes(replica.log_bytes))),
            leads.and_then(|replica| replica.checkpoint_age).map_or_else(dash, |age| Cell::new(span(age.0))),
            Cell::new(ids(&group.voters)),
            if group.is_settled { Cell::new("yes") } else { warned("no") },
        ]);
    }
    grid.numbers([2, 3, 5, 6]).render()
}

/// What a group's leader knows of the group, if it answered.
fn leading<'a>(report: &'a ClusterReport, group: &GroupReport) -> Option<&'a ReplicaReport> {
    report.replica(group.group, group.leader?)
}

/// Each follower, and how many entries it is behind.
fn lag_cell(leader: &ReplicaReport) -> Cell {
    let lags: Vec<(NodeId, Option<u64>)> = lags(leader);
    let text = |(node, lag): &(NodeId, Option<u64>)| match lag {
        Some(lag) => format!("{node}: {lag}"),
        None => format!("{node}: ?"),
    };
    let texts: Vec<String> = lags.iter().map(text).collect();
    let is_far = |lag: &Option<u64>| lag.is_none_or(|lag| lag > LAG_ENTRIES_MAX);
    match texts.join(", ") {
        none if none.is_empty() => Cell::new("-"),
        behind if lags.iter().any(|(_, lag)| is_far(lag)) => bad(behind),
        close => Cell::new(close),
    }
}

fn lags(leader: &ReplicaReport) -> Vec<(NodeId, Option<u64>)> {
    let lag = |matched: Option<u64>| matched.map(|matched| leader.last_log.saturating_sub(matched));
    leader.followers.iter().map(|follower| (follower.node, lag(follower.matched))).collect()
}

pub fn ids(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return "-".to_owned();
    }
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub fn status_json(report: &ClusterReport) -> Value {
    let health = report.health();
    let cluster = report.cluster.as_ref().map(|cluster| {
        json!({
            "id": cluster.cluster.to_string(),
            "replication_factor": cluster.replication_factor,
            "groups": cluster.groups,
            "created_ms": cluster.created.0,
            "commands_version": cluster.commands_version,
        })
    });
    json!({
        "health": word(&health).replace(' ', "_"),
        "reasons": reasons(&health),
        "seen_by": report.node.0,
        "now_ms": report.now.0,
        "is_current": report.is_current,
        "cluster": cluster,
        "map_version": report.map_version,
        "nodes": report.members.iter().map(member_json).collect::<Vec<_>>(),
        "groups": report.groups.iter().map(|group| group_json(report, group)).collect::<Vec<_>>(),
        "plan": plan::plan_json(&report.plan),
    })
}

fn member_json(member: &MemberReport) -> Value {
    let MemberReport { member: MemberDescription { node, state, registration, since, groups, leads }, report } = member;
    json!({
        "node": node.0,
        "state": state.to_string(),
        "since_ms": since.0,
        "client_address": registration.client_addr,
        "peer_address": registration.peer_addr,
        "zone": registration.zone,
        "version": registration.version,
        "commands_version": registration.commands_version,
        "storage": registration.storage.to_string(),
        "incarnation": registration.incarnation,
        "groups": groups,
        "leads": leads,
        "report": report.as_ref().ok().map(|report| node::report_json(report)),
        "no_answer": report.as_ref().err(),
    })
}

fn group_json(report: &ClusterReport, group: &GroupReport) -> Value {
    let leads = leading(report, group);
    json!({
        "group": group.group.0,
        "voters": group.voters.iter().map(|node| node.0).collect::<Vec<_>>(),
        "preferred_leader": group.preferred.map(|node| node.0),
        "leader": group.leader.map(|node| node.0),
        "term": group.term,
        "is_settled": group.is_settled,
        "applied": leads.map(|replica| replica.applied),
        "log_bytes": leads.map(|replica| replica.log_bytes),
        "checkpoint_age_ms": leads.and_then(|replica| replica.checkpoint_age).map(|age| age.0),
        "lags": leads.map(|replica| {
            lags(replica).into_iter().map(|(node, lag)| json!({ "node": node.0, "entries": lag })).collect::<Vec<_>>()
        }),
    })
}
