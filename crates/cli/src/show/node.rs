//! One node: who it is, what its groups are doing, and its totals.

use coda_protocol::reply::{GroupDescription, NodeDescription};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::args::Format;
use crate::output::{Fields, Grid, Screen, bad, document, good, span};

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
            match role(node, group) {
                word @ "leader" => good(word),
                word @ "leaderless" => bad(word),
                word => Cell::new(word),
            },
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
    let counters = &node.counters;
    json!({
        "node": node.node.0,
        "version": node.version.as_str(),
        "uptime_ms": node.uptime_ms,
        "sessions": node.sessions,
        "groups": node.groups.iter().map(group_json).collect::<Vec<_>>(),
        "counters": {
            "entries": counters.entries,
            "commands": counters.commands,
            "log_syncs": counters.log_syncs,
            "log_bytes": counters.log_bytes,
            "leases": counters.leases,
            "rejects": counters.rejects,
        },
    })
}
