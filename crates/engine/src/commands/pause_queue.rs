//! Stop and restart handing out a queue's work.

use coda_protocol::ids::Name;
use coda_protocol::reply::Reply;

use crate::apply::Cx;
use crate::command::Outcome;
use crate::effect::Effect;
use crate::rows::QueueRow;
use crate::tables::QUEUE;

pub(crate) fn apply(cx: &mut Cx<'_>, queue: &Name, paused: bool) -> Outcome {
    if paused {
        QUEUE.put(cx.kv, cx.group, queue, &QueueRow { paused });
    } else {
        // No row says nothing is special about the queue: names that were paused once leave nothing behind.
        QUEUE.delete(cx.kv, cx.group, queue);
        cx.effects.push(Effect::QueueUnpaused(queue.clone()));
    }
    Ok(Reply::Done)
}
