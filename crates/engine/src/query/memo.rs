//! The memo of a run, a page at a time: nothing bounds how much a run remembers.

use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, LeaseId, RunId};
use coda_protocol::limits::{MEMO_PAGE_BYTES_MAX, MEMO_PAGE_ITEMS_MAX, MEMO_PAGE_ROWS_MAX};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::request::StepKey;

use crate::kv::Read;
use crate::rows::{MemoRow, RunRow};
use crate::tables::{Key, MEMO, RUN, write_step};

/// What an execution of a run needs to know from before: a part that fits a frame.
#[derive(Debug, Default)]
pub struct MemoRead {
    /// Under which the run is held now, if at all.
    pub lease: Option<LeaseId>,
    /// Of the run, when this was read.
    pub steps_ended: u32,
    pub items: Vec<(StepKey, WorkOutcome)>,
    /// More may lie behind this key. There may be no items before it: what is left out costs reading too.
    pub next: Option<StepKey>,
}

/// Reads the memo of a run behind a key, as its current attempt sees it. Steps that only an earlier execution could ask
/// for are left out.
#[must_use]
pub fn memo_page(kv: &dyn Read, group: GroupId, run: RunId, after: Option<&StepKey>) -> MemoRead {
    let Some(row) = RUN.get(kv, group, &run) else { return MemoRead::default() };
    let lease = row.life.lease().map(|(_, lease)| lease);
    let mut page = MemoRead { lease, steps_ended: row.steps_ended, ..MemoRead::default() };
    let mut last: Option<StepKey> = None;
    let (mut rows, mut bytes) = (0, 0);
    let behind = |out: &mut Vec<u8>| {
        if let Some(after) = after {
            write_step(after, out);
            // The least that sorts behind it.
            out.push(0);
        }
    };
    MEMO.scan_from(
        kv,
        group,
        |out| run.write(out),
        behind,
        |key, memo| {
            // What is left out costs reading too.
            let size = memo.bytes() + key.step.cache_key.as_bytes().len() + key.step.name.len();
            if bytes > 0 && bytes + size > MEMO_PAGE_BYTES_MAX {
                page.next = last.take();
                return ControlFlow::Break(());
            }
            rows += 1;
            bytes += size;
            last = Some(key.step.clone());
            page.items.extend(outcome(&row, lease, &key.step, &memo).map(|outcome| (key.step, outcome)));
            // Looking at the next row would read all of its result.
            let items = page.items.len();
            if bytes < MEMO_PAGE_BYTES_MAX && rows < MEMO_PAGE_ROWS_MAX && items < MEMO_PAGE_ITEMS_MAX {
                return ControlFlow::Continue(());
            }
            page.next = last.take();
            ControlFlow::Break(())
        },
    );
    page
}

/// All of a memo as it is now. For tests: whoever sends it reads it a page at a time.
#[must_use]
pub fn memo(kv: &dyn Read, group: GroupId, run: RunId) -> MemoRead {
    let mut all = memo_page(kv, group, run, None);
    while let Some(after) = all.next.take() {
        let page = memo_page(kv, group, run, Some(&after));
        all.items.extend(page.items);
        all.next = page.next;
    }
    all
}

fn outcome(row: &RunRow, lease: Option<LeaseId>, step: &StepKey, memo: &MemoRow) -> Option<WorkOutcome> {
    let of = step.cache_key.fresh_lease();
    if of.is_some() && of != lease { None } else { memo.outcome(row.attempt) }
}
