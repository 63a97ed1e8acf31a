//! Queues and their lanes, in parts: nothing bounds how many names there are.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, Name, Timestamp, Work};
use coda_protocol::limits::{LIST_ROWS_MAX, LIST_SCAN_ROWS_MAX};
use coda_protocol::reply::{LaneDescription, LaneList, QueueCursor, QueuePage, QueuePlace, QueueSummary, Wait};

use super::{is_paused, wait};
use crate::entry::Lane;
use crate::kv::Read;
use crate::rows::LaneRow;
use crate::tables::{DELAYED, Key, LANE, META, QUEUE, READY, RUN, TASK, write_name};

/// Queues that hold live work or are paused, from a cursor on: first those with work, then those that are only paused.
/// Worker counts, and queues that have nothing but workers, are the leader's to add. Within a page each queue stands
/// once, by name; between pages there is no order.
#[must_use]
pub fn queues(kv: &dyn Read, group: GroupId, from: Option<&QueuePlace>) -> QueuePage {
    let mut page = Page::default();
    let paused_from = match from {
        None | Some(QueuePlace::First) => page.lanes(kv, group, None).then(Name::default),
        Some(QueuePlace::Lane { queue, kind, name }) => {
            let lane = Lane { queue: queue.clone(), kind: *kind, name: name.clone() };
            page.lanes(kv, group, Some(&lane)).then(Name::default)
        }
        Some(QueuePlace::Paused(queue)) => Some(queue.clone()),
        Some(QueuePlace::Served(_)) => None,
    };
    if let Some(paused_from) = paused_from {
        page.paused(kv, group, &paused_from);
    }
    let next = page.next.map(|place| QueueCursor { group, place });
    QueuePage { queues: page.queues.into_values().collect(), next }
}

#[derive(Default)]
struct Page {
    queues: BTreeMap<Name, QueueSummary>,
    rows: usize,
    next: Option<QueuePlace>,
}

impl Page {
    /// Adds up the lanes from this one on; whether all were seen.
    fn lanes(&mut self, kv: &dyn Read, group: GroupId, from: Option<&Lane>) -> bool {
        LANE.scan_from(
            kv,
            group,
            |_| {},
            |out| from.into_iter().for_each(|lane| lane.write(out)),
            |Lane { queue, kind, name }, row| {
                let known = self.queues.contains_key(&queue);
                if self.rows == LIST_SCAN_ROWS_MAX || (!known && self.queues.len() == LIST_ROWS_MAX) {
                    self.next = Some(QueuePlace::Lane { queue, kind, name });
                    return ControlFlow::Break(());
                }
                self.rows += 1;
                let paused = || is_paused(kv, group, &queue);
                let summary = self.queues.entry(queue.clone()).or_insert_with(|| summary(queue.clone(), paused()));
                summary.ready += row.ready;
                summary.leased += row.leased;
                summary.delayed += row.delayed;
                ControlFlow::Continue(())
            },
        );
        self.next.is_none()
    }

    /// Adds paused queues that hold nothing.
    fn paused(&mut self, kv: &dyn Read, group: GroupId, from: &Name) {
        let from = |out: &mut Vec<u8>| {
            if !from.is_empty() {
                write_name(from, out);
            }
        };
        QUEUE.scan_from(
            kv,
            group,
            |_| {},
            from,
            |queue, row| {
                if self.rows == LIST_SCAN_ROWS_MAX || self.queues.len() == LIST_ROWS_MAX {
                    self.next = Some(QueuePlace::Paused(queue));
                    return ControlFlow::Break(());
                }
                self.rows += 1;
                if !self.queues.contains_key(&queue) && !has_lanes(kv, group, &queue) {
                    self.queues.insert(queue.clone(), summary(queue, row.paused));
                }
                ControlFlow::Continue(())
            },
        );
    }
}

/// Whether the queue is one of those that [`queues`] lists.
#[must_use]
pub fn is_listed(kv: &dyn Read, group: GroupId, queue: &Name) -> bool {
    has_lanes(kv, group, queue) || QUEUE.has(kv, group, queue)
}

fn has_lanes(kv: &dyn Read, group: GroupId, queue: &Name) -> bool {
    let mut has = false;
    LANE.scan(
        kv,
        group,
        |out| write_name(queue, out),
        |_, _| {
            has = true;
            ControlFlow::Break(())
        },
    );
    has
}

fn summary(queue: Name, paused: bool) -> QueueSummary {
    QueueSummary { queue, paused, ready: 0, leased: 0, delayed: 0, workers: 0 }
}

/// A queue's lanes. Worker counts, and the `Soon` of waiting lanes, are the leader's to refine.
#[must_use]
pub fn lanes(kv: &dyn Read, group: GroupId, queue: &Name) -> LaneList {
    let paused = is_paused(kv, group, queue);
    let mut list =
        LaneList { summary: summary(queue.clone(), paused), lanes: Vec::new(), lanes_total: 0, counted_all: true };
    let mut rows: Vec<(Lane, LaneRow)> = Vec::new();
    LANE.scan(
        kv,
        group,
        |out| write_name(queue, out),
        |lane, row| {
            if list.lanes_total == LIST_SCAN_ROWS_MAX as u64 {
                list.counted_all = false;
                return ControlFlow::Break(());
            }
            list.lanes_total += 1;
            list.summary.ready += row.ready;
            list.summary.leased += row.leased;
            list.summary.delayed += row.delayed;
            if rows.len() < LIST_ROWS_MAX {
                rows.push((lane, row));
            }
            ControlFlow::Continue(())
        },
    );
    let describe = |(lane, row): (Lane, LaneRow)| LaneDescription {
        kind: lane.kind,
        ready: row.ready,
        leased: row.leased,
        delayed: row.delayed,
        workers: 0,
        free_slots: 0,
        oldest: oldest(kv, group, &lane, &row),
        waits: match row.ready {
            0 => first_due(kv, group, &lane, &row),
            _ if paused => Wait::QueuePaused,
            _ => Wait::Soon,
        },
        name: lane.name,
    };
    list.lanes = rows.into_iter().map(describe).collect();
    list
}

/// Whether a lane holds work that could run now, its queue unpaused.
#[must_use]
pub fn is_ready(kv: &dyn Read, group: GroupId, lane: &Lane) -> bool {
    ready(kv, group, lane) > 0
}

/// How much work a lane holds that could run now, its queue unpaused.
#[must_use]
pub fn ready(kv: &dyn Read, group: GroupId, lane: &Lane) -> u64 {
    let ready = LANE.get(kv, group, lane).map_or(0, |row| row.ready);
    if ready > 0 && is_paused(kv, group, &lane.queue) { 0 } else { ready }
}

/// Until when a lane waits that holds nothing but delayed work.
fn first_due(kv: &dyn Read, group: GroupId, lane: &Lane, row: &LaneRow) -> Wait {
    if row.delayed == 0 {
        return Wait::No;
    }
    let mut first = None;
    // What earlier ticks deleted lies before.
    let due_from = META.get(kv, group, &()).unwrap_or_default().due_from;
    DELAYED.scan_from(
        kv,
        group,
        |out| lane.write(out),
        |out| out.extend_from_slice(&due_from.0.to_be_bytes()),
        |key, ()| {
            first = Some(key.work);
            ControlFlow::Break(())
        },
    );
    let life = first.and_then(|work| match work {
        Work::Task(task) => TASK.get(kv, group, &task).map(|row| row.life),
        Work::Run(run) => RUN.get(kv, group, &run).map(|row| row.life),
    });
    life.map_or(Wait::No, |life| wait(life, false))
}

/// When the work that is next in a lane was accepted.
fn oldest(kv: &dyn Read, group: GroupId, lane: &Lane, row: &LaneRow) -> Option<Timestamp> {
    if row.ready == 0 {
        return None;
    }
    let mut first = None;
    let from = |out: &mut Vec<u8>| {
        if let Some(place) = row.ready_from {
            place.write(out);
        }
    };
    READY.scan_from(
        kv,
        group,
        |out| lane.write(out),
        from,
        |key, ()| {
            first = Some(key.work);
            ControlFlow::Break(())
        },
    );
    match first? {
        Work::Task(task) => TASK.get(kv, group, &task).map(|row| row.created),
        Work::Run(run) => RUN.get(kv, group, &run).map(|row| row.created),
    }
}
