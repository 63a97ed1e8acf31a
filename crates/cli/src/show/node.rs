//! One node: who it is, what its groups are doing, its disk, its peers, and its totals.

use coda_protocol::ids::{Millis, NodeId};
use coda_protocol::operate::{DiskReport, FollowerReport, NodeReport, PeerReport, ReplicaReport};
use coda_protocol::reply::{Counters, GroupDescription, NodeDescription};
use comfy_table::Cell;
use serde_json::{Value, json};

use super::cluster::{dash, ids, state_cell};
use crate::args::Format;
use crate::errors::printable;
use crate::output::{Fields, Grid, Screen, bad, bytes, document, good, micros, span};

/// What a node says of itself.
pub fn report(report: &NodeReport, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&report_json(report)),
        Format::Table => report_table(report, screen),
    }
}

fn report_table(report: &NodeReport, screen: &Screen) -> String {
    let NodeReport { registration, disk, counters, .. } = report;
    let mut out = Fields::new(screen)
        .with("NODE", report.node)
        .with("STATE", report.state.map_or_else(|| Cell::new("in no cluster"), state_cell))
        .with("VERSION", printable(&registration.version))
        .with("UP", span(report.uptime.0))
        .with("ADDRESS", printable(&registration.client_addr))
        .with("PEER ADDRESS", dash(&registration.peer_addr))
        .with("ZONE", dash(&registration.zone))
        .with("DATA FOLDER", format!("{}, start {}", registration.storage, registration.incarnation))
        .with("DISK USED", bytes(disk.data_bytes))
        .with("DISK FREE", free_cell(disk))
        .with("FSYNC", sync_cell(disk))
        .with("SESSIONS", report.sessions)
        .with("LOG ENTRIES", counters.entries)
        .with("COMMANDS", counters.commands)
        .with("LOG SYNCS", counters.log_syncs)
        .with("LOG BYTES", counters.log_bytes)
        .with("LEASES", counters.leases)
        .with("REJECTS", counters.rejects)
        .render();
    if !report.replicas.is_empty() {
        out.push('\n');
        out.push_str(&replicas_table(report, screen));
    }
    let failures = report.replicas.iter().filter_map(|replica| Some((replica.group, replica.failure.as_ref()?)));
    let failures: String = failures.map(|(group, why)| format!("  group {group}: {}\n", printable(why))).collect();
    if !failures.is_empty() {
        out.push_str("\nWhy it has stopped:\n");
        out.push_str(&failures);
    }
    if !report.peers.is_empty() {
        out.push('\n');
        out.push_str(&peers_table(&report.peers, screen));
    }
    out
}

fn free_cell(disk: &DiskReport) -> Cell {
    let text = format!("{} of {}", bytes(disk.free_bytes), bytes(disk.total_bytes));
    if disk.refuses_writes {
        return bad(format!("{text}: writes are refused below {}", bytes(disk.reserve_bytes)));
    }
    Cell::new(format!("{text}, {} in reserve", bytes(disk.reserve_bytes)))
}

fn sync_cell(disk: &DiskReport) -> Cell {
    if let Some(Millis(ms)) = disk.sync_hangs {
        return bad(format!("hangs for {}", span(ms)));
    }
    if disk.syncs == 0 {
        return Cell::new("none in the last minute");
    }
    let [p50, p99, max] = [disk.sync_p50_us, disk.sync_p99_us, disk.sync_max_us].map(micros);
    Cell::new(format!("p50 {p50}, p99 {p99}, max {max} of {}", disk.syncs))
}

fn replicas_table(report: &NodeReport, screen: &Screen) -> String {
    let header = [
        "GROUP",
        "ROLE",
        "LEADER",
        "TERM",
        "APPLIED",
        "COMMITTED",
        "LAST",
        "DURABLE",
        "LOG",
        "CHECKPOINT",
        "VOTERS",
        "LEARNERS",
    ];
    let mut grid = Grid::new(screen, header);
    for replica in &report.replicas {
        grid.row([
            Cell::new(replica.group),
            role_cell(replica_role(report.node, replica)),
            Cell::new(replica.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string())),
            Cell::new(replica.term),
            Cell::new(replica.applied),
            Cell::new(replica.committed),
            Cell::new(replica.last_log),
            Cell::new(replica.durable),
            Cell::new(bytes(replica.log_bytes)),
            Cell::new(replica.checkpoint_age.map_or_else(|| "-".to_owned(), |age| span(age.0))),
            Cell::new(ids(&replica.voters)),
            Cell::new(ids(&replica.learners)),
        ]);
    }
    grid.numbers([3, 4, 5, 6, 7, 8, 9]).render()
}

fn peers_table(peers: &[PeerReport], screen: &Screen) -> String {
    let mut grid = Grid::new(screen, ["PEER", "ROUND TRIP"]);
    for peer in peers {
        let trip = match &peer.round_trip_us {
            Ok(us) => Cell::new(micros(*us)),
            Err(why) => bad(printable(why)),
        };
        grid.row([Cell::new(peer.node), trip]);
    }
    grid.render()
}

fn replica_role(node: NodeId, replica: &ReplicaReport) -> &'static str {
    match replica.leader {
        _ if replica.failure.is_some() => "stopped",
        Some(leader) if leader == node => "leader",
        Some(_) if replica.learners.contains(&node) => "learner",
        Some(_) => "follower",
        None => "leaderless",
    }
}

fn role_cell(role: &'static str) -> Cell {
    match role {
        word @ "leader" => good(word),
        word @ ("leaderless" | "stopped") => bad(word),
        word => Cell::new(word),
    }
}

pub fn report_json(report: &NodeReport) -> Value {
    let NodeReport { registration, disk, .. } = report;
    json!({
        "node": report.node.0,
        "state": report.state.map(|state| state.to_string()),
        "version": registration.version,
        "uptime_ms": report.uptime.0,
        "sessions": report.sessions,
        "client_address": registration.client_addr,
        "peer_address": registration.peer_addr,
        "zone": registration.zone,
        "storage": registration.storage.to_string(),
        "incarnation": registration.incarnation,
        "commands_version": registration.commands_version,
        "disk": {
            "total_bytes": disk.total_bytes,
            "free_bytes": disk.free_bytes,
            "reserve_bytes": disk.reserve_bytes,
            "data_bytes": disk.data_bytes,
            "refuses_writes": disk.refuses_writes,
            "syncs": disk.syncs,
            "sync_p50_us": disk.sync_p50_us,
            "sync_p99_us": disk.sync_p99_us,
            "sync_max_us": disk.sync_max_us,
            "sync_hangs_ms": disk.sync_hangs.map(|hangs| hangs.0),
        },
        "groups": report.replicas.iter().map(|replica| replica_json(report.node, replica)).collect::<Vec<_>>(),
        "peers": report.peers.iter().map(peer_json).collect::<Vec<_>>(),
        "counters": counters_json(&report.counters),
    })
}

fn replica_json(node: NodeId, replica: &ReplicaReport) -> Value {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let follower_json = |follower: &FollowerReport| {
        json!({
            "node": follower.node.0,
            "matched": follower.matched,
            "heard_ms": follower.heard.map(|heard| heard.0),
        })
    };
    json!({
        "group": replica.group.0,
        "role": replica_role(node, replica),
        "leader": replica.leader.map(|leader| leader.0),
        "term": replica.term,
        "applied": replica.applied,
        "committed": replica.committed,
        "last_log": replica.last_log,
        "durable": replica.durable,
        "purged": replica.purged,
        "log_bytes": replica.log_bytes,
        "checkpoint_age_ms": replica.checkpoint_age.map(|age| age.0),
        "voters": numbers(&replica.voters),
        "learners": numbers(&replica.learners),
        "followers": replica.followers.iter().map(follower_json).collect::<Vec<_>>(),
        "failure": replica.failure,
    })
}

fn peer_json(peer: &PeerReport) -> Value {
    json!({
        "node": peer.node.0,
        "round_trip_us": peer.round_trip_us.as_ref().ok(),
        "no_connection": peer.round_trip_us.as_ref().err(),
    })
}

fn counters_json(counters: &Counters) -> Value {
    json!({
        "entries": counters.entries,
        "commands": counters.commands,
        "log_syncs": counters.log_syncs,
        "log_bytes": counters.log_bytes,
        "leases": counters.leases,
        "rejects": counters.rejects,
    })
}

/// As [`report`], of a node that is older than reports.
pub fn status(node: &NodeDescription, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&node_json(node)),
        Format::Table => node_table(node, screen),
    }
}

fn node_table(node: &NodeDescription, screen: &Screen) -> String {
    let counters = &node.counters;
    let mut out = Fields::new(screen)
        .with("NODE", node.node.0)
        .with("VERSION", node.version.as_str())
        .with("UP", span(node.uptime_ms))
        .with("SESSIONS", node.sessions)
        .with("LOG ENTRIES", counters.entries)
        .with("COMMANDS", counters.commands)
        .with("LOG SYNCS", counters.log_syncs)
        .with("LOG BYTES", counters.log_bytes)
        .with("LEASES", counters.leases)
        .with("REJECTS", counters.rejects)
        .render();
    let mut grid = Grid::new(screen, ["GROUP", "ROLE", "LEADER", "TERM", "APPLIED"]);
    for group in &node.groups {
        grid.row([
            Cell::new(group.group),
            role_cell(role(node, group)),
            Cell::new(group.leader.map_or_else(|| "-".to_owned(), |leader| leader.0.to_string())),
            Cell::new(group.term),
            Cell::new(group.applied),
        ]);
    }
    out.push('\n');
    out.push_str(&grid.numbers([3, 4]).render());
    out
}

/// What this node is in a group.
fn role(node: &NodeDescription, group: &GroupDescription) -> &'static str {
    match group.leader {
        Some(leader) if leader == node.node => "leader",
        Some(_) => "follower",
        None => "leaderless",
    }
}

fn node_json(node: &NodeDescription) -> Value {
    let group_json = |group: &GroupDescription| {
        json!({
            "group": group.group,
            "role": role(node, group),
            "leader": group.leader.map(|leader| leader.0),
            "term": group.term,
            "applied": group.applied,
        })
    };
    json!({
        "node": node.node.0,
        "version": node.version.as_str(),
        "uptime_ms": node.uptime_ms,
        "sessions": node.sessions,
        "groups": node.groups.iter().map(group_json).collect::<Vec<_>>(),
        "counters": counters_json(&node.counters),
    })
}
