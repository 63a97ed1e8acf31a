//! Queues: how much work there is, who serves it, and why the rest waits.

use coda_protocol::reply::{LaneDescription, LaneList, QueueSummary, Wait};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::args::Format;
use crate::output::{Fields, Grid, Screen, document, good, warned};
use crate::waits;

pub fn list(queues: &[QueueSummary], screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&json!({ "queues": queues.iter().map(summary_json).collect::<Vec<_>>() })),
        Format::Table => {
            let mut grid = Grid::new(screen, ["QUEUE", "STATE", "READY", "LEASED", "DELAYED", "WORKERS"]);
            for queue in queues {
                let unserved = queue.workers == 0 && queue.ready > 0;
                grid.row([
                    Cell::new(&queue.queue),
                    state_cell(queue),
                    Cell::new(queue.ready),
                    Cell::new(queue.leased),
                    Cell::new(queue.delayed),
                    if unserved { warned(queue.workers) } else { Cell::new(queue.workers) },
                ]);
            }
            grid.numbers([2, 3, 4, 5]).render()
        }
    }
}

pub fn describe(description: &LaneList, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&description_json(description, screen)),
        Format::Table => description_table(description, screen),
    }
}

fn description_table(description: &LaneList, screen: &Screen) -> String {
    let LaneList { summary, lanes, .. } = description;
    let counted = |count: u64| if description.counted_all { count.to_string() } else { format!("{count}+") };
    let mut out = Fields::new(screen)
        .with("QUEUE", summary.queue.as_str())
        .with("STATE", state_cell(summary))
        .with("READY", counted(summary.ready))
        .with("LEASED", counted(summary.leased))
        .with("DELAYED", counted(summary.delayed))
        .with("WORKERS", summary.workers)
        .render();
    if lanes.is_empty() {
        out.push_str("\nNo work is in this queue and no worker serves it.\n");
        return out;
    }
    let header = ["KIND", "NAME", "READY", "LEASED", "DELAYED", "WORKERS", "FREE SLOTS", "OLDEST", "WAITS"];
    let mut grid = Grid::new(screen, header);
    for lane in lanes {
        grid.row([
            Cell::new(waits::kind(lane.kind)),
            Cell::new(&lane.name),
            Cell::new(lane.ready),
            Cell::new(lane.leased),
            Cell::new(lane.delayed),
            Cell::new(lane.workers),
            Cell::new(lane.free_slots),
            Cell::new(lane.oldest.map_or_else(|| "-".to_owned(), |at| screen.age(at))),
            wait_cell(lane.waits),
        ]);
    }
    out.push('\n');
    out.push_str(&grid.numbers([2, 3, 4, 5, 6]).render());
    let more = description.lanes_total.saturating_sub(lanes.len() as u64);
    if more > 0 {
        out.push_str(&format!("and {} more\n", counted(more)));
    }
    let sentences: Vec<String> = lanes
        .iter()
        .filter_map(|lane| {
            let why = waits::lane_sentence(lane, &summary.queue, screen.now)?;
            Some(format!("  {} {}: {why}\n", waits::kind(lane.kind), lane.name))
        })
        .collect();
    if !sentences.is_empty() {
        out.push_str("\nWhy it waits:\n");
        out.extend(sentences);
    }
    out
}

fn state_word(queue: &QueueSummary) -> &'static str {
    if queue.paused { "paused" } else { "active" }
}

fn state_cell(queue: &QueueSummary) -> Cell {
    if queue.paused { warned(state_word(queue)) } else { good(state_word(queue)) }
}

fn wait_cell(wait: Wait) -> Cell {
    match wait {
        Wait::No => Cell::new("-"),
        Wait::QueuePaused | Wait::NoWorker | Wait::WorkersBusy => warned(waits::reason(wait)),
        Wait::DelayedUntil(_) | Wait::RetryingAt(_) | Wait::Steps | Wait::Running | Wait::Soon => {
            Cell::new(waits::reason(wait))
        }
    }
}

fn summary_json(queue: &QueueSummary) -> Value {
    json!({
        "queue": queue.queue.as_str(),
        "state": state_word(queue),
        "ready": queue.ready,
        "leased": queue.leased,
        "delayed": queue.delayed,
        "workers": queue.workers,
    })
}

fn description_json(description: &LaneList, screen: &Screen) -> Value {
    let lanes: Vec<Value> =
        description.lanes.iter().map(|lane| lane_json(lane, &description.summary.queue, screen)).collect();
    let mut value = summary_json(&description.summary);
    value["lanes"] = lanes.into();
    value["lanes_total"] = description.lanes_total.max(description.lanes.len() as u64).into();
    value["counted_all"] = description.counted_all.into();
    value
}

fn lane_json(lane: &LaneDescription, queue: &str, screen: &Screen) -> Value {
    json!({
        "kind": waits::kind(lane.kind),
        "name": lane.name.as_str(),
        "ready": lane.ready,
        "leased": lane.leased,
        "delayed": lane.delayed,
        "workers": lane.workers,
        "free_slots": lane.free_slots,
        "oldest_ms": lane.oldest.map(|at| at.0),
        "oldest_age_ms": lane.oldest.map(|at| screen.now.0.saturating_sub(at.0)),
        "waits": waits::reason(lane.waits),
        "waits_until_ms": waits::until(lane.waits).map(|at| at.0),
        "why": waits::lane_sentence(lane, queue, screen.now),
    })
}
