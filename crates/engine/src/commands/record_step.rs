//! Record what an inline step returned. The first recorded result is the one that everybody sees.

use coda_protocol::planted::{self, Bug};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::RecordStep;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::rows::MemoRow;
use crate::steps::memo_key;
use crate::tables::{MEMO, RUN};

pub(crate) fn apply(cx: &mut Cx<'_>, record: &RecordStep) -> Outcome {
    let mut row =
        RUN.get(cx.kv, cx.group, &record.run).ok_or_else(|| Reject::NoSuchRun { run: record.run.to_string() })?;
    row.life.holder(record.lease)?;
    let key = memo_key(record.run, &record.key);
    if let Some(MemoRow::Ended { result, .. }) = MEMO.get(cx.kv, cx.group, &key) {
        if planted::is(Bug::RecordOverwrites) {
            MEMO.put(cx.kv, cx.group, &key, &MemoRow::Ended { result: record.result.clone(), attempts: 1 });
            return Ok(Reply::Recorded(record.result.clone()));
        }
        return Ok(Reply::Recorded(result));
    }
    MEMO.insert(cx.kv, cx.group, &key, &MemoRow::Ended { result: record.result.clone(), attempts: 1 });
    // Written only when it changes: a run of many inline steps writes one row per step.
    if !row.has_memo || row.lost > 0 {
        row.has_memo = true;
        row.lost = 0;
        RUN.put(cx.kv, cx.group, &record.run, &row);
    }
    Ok(Reply::Recorded(record.result.clone()))
}
