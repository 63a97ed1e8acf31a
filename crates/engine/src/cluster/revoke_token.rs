//! Let nobody in with a token any more. One that was used stays, to say by whom.

use coda_protocol::ids::TokenId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use super::members;
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::{DUE, Due, DueKey, TOKEN};

pub(crate) fn apply(cx: &mut Cx<'_>, token: TokenId) -> Outcome {
    members::cluster(cx)?;
    let Some(row) = TOKEN.get(cx.kv, cx.group, &token) else { return Ok(Reply::Done) };
    if let Some((node, _)) = row.redeemed {
        return Err(Reject::TokenUsed { node: node.0 });
    }
    TOKEN.delete(cx.kv, cx.group, &token);
    DUE.delete(cx.kv, cx.group, &DueKey { at: row.forgotten(), what: Due::ForgetToken(token) });
    Ok(Reply::Done)
}
