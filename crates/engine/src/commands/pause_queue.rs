//! Stop and restart handing out a queue's work.

use std::ops::ControlFlow;

use coda_protocol::ids::Name;
use coda_protocol::reply::Reply;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::effect::Effect;
use crate::rows::QueueRow;
use crate::tables::{LANE, QUEUE, write_name};

pub(crate) fn apply(cx: &mut Cx<'_>, queue: &Name, paused: bool) -> Outcome {
    if paused {
        QUEUE.put(cx.kv, cx.group, queue, &QueueRow { paused });
    } else {
        // No row says nothing is special about the queue: names that were paused once leave nothing behind.
        QUEUE.delete(cx.kv, cx.group, queue);
        let mut ready = Vec::new();
        LANE.scan(
            cx.kv,
            cx.group,
            |out| write_name(queue, out),
            |lane, row| {
                if row.ready > 0 {
                    ready.push(Effect::LaneReady(lane));
                }
                ControlFlow::Continue(())
            },
        );
        cx.effects.append(&mut ready);
    }
    Ok(Reply::Done)
}
