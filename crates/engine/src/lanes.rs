//! Lanes: ready work in order, and how grants are filled from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

use coda_protocol::ids::{Name, Timestamp, Work, WorkKind};
use coda_protocol::limits::{LEASE_BYTES_PER_ENTRY_MAX, PRIORITY_MAX};

use crate::apply::Cx;
use crate::due;
use crate::effect::Effect;
use crate::entry::{Entry, Grant, Lane};
use crate::leases;
use crate::rows::{ReadyPlace, Seq};
use crate::tables::{DELAYED, DelayedKey, Due, Key, LANE, QUEUE, READY, ReadyKey};

/// How many places one look into a lane reads ahead.
const READ_AHEAD_MAX: usize = 64;

pub(crate) fn place(priority: u8, seq: Seq) -> ReadyPlace {
    ReadyPlace { rank: PRIORITY_MAX - priority, seq }
}

/// Makes work available in its lane.
pub(crate) fn enter(cx: &mut Cx<'_>, lane: &Lane, place: ReadyPlace, work: Work) {
    let row = cx.lane(lane);
    row.ready += 1;
    row.ready_from = Some(row.ready_from.map_or(place, |from| from.min(place)));
    READY.insert(cx.kv, cx.group, &ReadyKey { lane: lane.clone(), place, work }, &());
}

/// Keeps work from its lane until it is due.
pub(crate) fn delay(cx: &mut Cx<'_>, lane: &Lane, at: Timestamp, work: Work) {
    cx.lane(lane).delayed += 1;
    DELAYED.insert(cx.kv, cx.group, &DelayedKey { lane: lane.clone(), at, work }, &());
    due::add(cx, at, Due::Ready(work));
}

/// Its time has come: it enters its lane next.
pub(crate) fn end_delay(cx: &mut Cx<'_>, lane: &Lane, at: Timestamp, work: Work) {
    cx.lane(lane).delayed -= 1;
    DELAYED.delete(cx.kv, cx.group, &DelayedKey { lane: lane.clone(), at, work });
}

/// Fills the entry's grants from ready work, best place first, one slot per grant and round so that work spreads over
/// sessions. Returns the unused slots per grant.
pub(crate) fn serve(cx: &mut Cx<'_>, entry: &Entry) -> Vec<u32> {
    let mut slots: Vec<u32> = entry.grants.iter().map(|grant| grant.slots).collect();
    let mut lines: BTreeMap<(&Name, WorkKind), Vec<usize>> = BTreeMap::new();
    for (i, grant) in entry.grants.iter().enumerate() {
        lines.entry((&grant.queue, grant.kind)).or_default().push(i);
    }
    let known: BTreeSet<Lane> = cx.lanes.keys().chain(&entry.lanes).cloned().collect();
    let mut bytes = 0;
    // Each entry starts with another line, so that none is always the last under the bounds of an entry.
    let first = (cx.index % lines.len().max(1) as u64) as usize;
    for ((queue, kind), grants) in lines.iter().cycle().skip(first).take(lines.len()) {
        let lanes: Vec<&Lane> = known.iter().filter(|lane| lane.queue == **queue && lane.kind == *kind).collect();
        if lanes.is_empty() || is_paused(cx, queue) {
            continue;
        }
        let heads = lanes.into_iter().filter_map(|lane| Head::new(cx, lane)).collect();
        serve_line(cx, entry, grants, heads, &mut slots, &mut bytes);
    }
    report_ready(cx, &known);
    slots
}

/// One queue and kind: the grants that want it, and the heads of its lanes.
fn serve_line(
    cx: &mut Cx<'_>,
    entry: &Entry,
    grants: &[usize],
    mut heads: Vec<Head>,
    slots: &mut [u32],
    bytes: &mut usize,
) {
    loop {
        let mut any = false;
        for &i in grants {
            if slots[i] == 0 || cx.leases_left() == 0 || *bytes >= LEASE_BYTES_PER_ENTRY_MAX {
                continue;
            }
            let grant = &entry.grants[i];
            let Some(head) = best(cx, &mut heads, names(entry, grant)) else { continue };
            let (place, work) = head.take(cx);
            *bytes += leases::grant(cx, grant.session, &head.lane, place, work);
            slots[i] -= 1;
            any = true;
        }
        if !any {
            return;
        }
    }
}

/// A name set that does not exist is empty: a malformed entry leases nothing.
fn names<'e>(entry: &'e Entry, grant: &Grant) -> &'e [Name] {
    entry.name_sets.get(grant.names as usize).map_or(&[], |names| names)
}

/// The lane with the soonest place among those of the given names.
fn best<'h>(cx: &Cx<'_>, heads: &'h mut [Head], names: &[Name]) -> Option<&'h mut Head> {
    heads
        .iter_mut()
        .filter(|head| names.binary_search(&head.lane.name).is_ok())
        .filter_map(|head| head.peek(cx).map(|place| (place, head)))
        .min_by_key(|(place, _)| *place)
        .map(|(_, head)| head)
}

/// The front of one lane, read ahead.
struct Head {
    lane: Lane,
    ahead: VecDeque<(ReadyPlace, Work)>,
}

impl Head {
    fn new(cx: &mut Cx<'_>, lane: &Lane) -> Option<Self> {
        (cx.lane(lane).ready > 0).then(|| Self { lane: lane.clone(), ahead: VecDeque::new() })
    }

    fn peek(&mut self, cx: &Cx<'_>) -> Option<ReadyPlace> {
        if self.ahead.is_empty() && cx.lanes[&self.lane].ready > 0 {
            self.fill(cx);
        }
        self.ahead.front().map(|(place, _)| *place)
    }

    fn fill(&mut self, cx: &Cx<'_>) {
        let from = cx.lanes[&self.lane].ready_from;
        let from = |out: &mut Vec<u8>| {
            if let Some(place) = from {
                place.write(out);
            }
        };
        READY.scan_from(
            cx.kv,
            cx.group,
            |out| self.lane.write(out),
            from,
            |key, ()| {
                self.ahead.push_back((key.place, key.work));
                if self.ahead.len() < READ_AHEAD_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            },
        );
        assert!(!self.ahead.is_empty(), "lane {:?} counts ready work that its index lacks", self.lane);
    }

    fn take(&mut self, cx: &mut Cx<'_>) -> (ReadyPlace, Work) {
        let (place, work) = self.ahead.pop_front().expect("peeked");
        READY.delete(cx.kv, cx.group, &ReadyKey { lane: self.lane.clone(), place, work });
        let row = cx.lane(&self.lane);
        row.ready -= 1;
        row.ready_from = Some(place);
        (place, work)
    }
}

fn is_paused(cx: &Cx<'_>, queue: &Name) -> bool {
    QUEUE.get(cx.kv, cx.group, queue).is_some_and(|row| row.paused)
}

/// Hints at what is left. A paused queue's lanes are hinted when it is unpaused.
fn report_ready(cx: &mut Cx<'_>, known: &BTreeSet<Lane>) {
    for lane in known {
        if cx.lane(lane).ready > 0 && !is_paused(cx, &lane.queue) {
            cx.effects.push(Effect::LaneReady(lane.clone()));
        }
    }
}

/// Writes the touched lanes; an empty lane keeps no row.
pub(crate) fn flush(cx: &mut Cx<'_>) {
    for (lane, row) in std::mem::take(&mut cx.lanes) {
        if row.ready + row.leased + row.delayed == 0 {
            LANE.delete(cx.kv, cx.group, &lane);
        } else {
            LANE.put(cx.kv, cx.group, &lane, &row);
        }
    }
}
