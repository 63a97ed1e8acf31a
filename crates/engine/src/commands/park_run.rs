//! A run that only waits gives up its worker slot; the end of any of its steps makes it ready again.

use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::ParkRun;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::leases;
use crate::rows::Event;
use crate::tables::RUN;

pub(crate) fn apply(cx: &mut Cx<'_>, park: &ParkRun) -> Outcome {
    let run = park.run;
    let mut row = RUN.get(cx.kv, cx.group, &run).ok_or_else(|| Reject::NoSuchRun { run: run.to_string() })?;
    let held = row.life.lease();
    row.life = row.life.on(Event::Parked(park.lease))?;
    // A step that ended unseen would never wake it, and neither would the absence of steps.
    if row.steps_ended != park.seen || row.steps_pending == 0 {
        return Err(Reject::NotIdle);
    }
    let (session, lease) = held.expect("only leased work parks");
    leases::forget(cx, session, lease, &row.lane());
    RUN.put(cx.kv, cx.group, &run, &row);
    Ok(Reply::Done)
}
