//! What happens later: the due index. Never early; late only by how late a tick is proposed.

use std::ops::ControlFlow;

use coda_protocol::ids::{GroupId, Timestamp};

use crate::apply::Cx;
use crate::effect::Effect;
use crate::kv::Read;
use crate::rows::Meta;
use crate::tables::{DUE, Due, DueKey, META};

pub(crate) fn add(cx: &mut Cx<'_>, at: Timestamp, what: Due) {
    DUE.insert(cx.kv, cx.group, &DueKey { at, what }, &());
    cx.wake = Some(cx.wake.map_or(at, |wake| wake.min(at)));
}

/// The first due items, at most `max`.
pub(crate) fn first(kv: &(impl Read + ?Sized), group: GroupId, meta: Meta, max: usize) -> Vec<DueKey> {
    let mut items = Vec::new();
    let from = |out: &mut Vec<u8>| out.extend_from_slice(&meta.due_from.0.to_be_bytes());
    DUE.scan_from(
        kv,
        group,
        |_| {},
        from,
        |key, ()| {
            items.push(key);
            if items.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    items
}

/// When the next item is due.
pub(crate) fn next(kv: &(impl Read + ?Sized), group: GroupId) -> Option<Timestamp> {
    let meta = META.get(kv, group, &()).unwrap_or_default();
    first(kv, group, meta, 1).first().map(|key| key.at)
}

/// Hints at the soonest time that this entry knows of.
pub(crate) fn nudge(cx: &mut Cx<'_>) {
    if let Some(at) = cx.wake {
        cx.effects.push(Effect::WakeAt(at));
    }
}
