//! Let one node in that knows a secret. Only the secret's digest comes here.

use coda_protocol::ids::{Millis, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::limits::JOIN_TOKENS_MAX;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use super::members;
use super::rows::TokenRow;
use super::settings::JOIN_TOKEN_TTL;
use crate::apply::Cx;
use crate::command::Outcome;
use crate::due;
use crate::tables::{Due, TOKEN};

pub(crate) fn apply(cx: &mut Cx<'_>, token: TokenId, digest: TokenDigest, ttl: Option<Millis>) -> Outcome {
    members::cluster(cx)?;
    if let Some(known) = TOKEN.get(cx.kv, cx.group, &token) {
        if known.digest != digest {
            return Err(Reject::IdConflict { id: token.to_string() });
        }
        return Ok(Reply::TokenCreated { expires: known.expires });
    }
    if TOKEN.all(cx.kv, cx.group).len() >= JOIN_TOKENS_MAX {
        return Err(Reject::TooManyTokens { tokens_max: JOIN_TOKENS_MAX as u64 });
    }
    let ttl = ttl.unwrap_or_else(|| Millis(JOIN_TOKEN_TTL.get(cx.kv)));
    let row = TokenRow { digest, created: cx.now, expires: cx.now + ttl, redeemed: None };
    due::add(cx, row.forgotten(), Due::ForgetToken(token));
    TOKEN.insert(cx.kv, cx.group, &token, &row);
    Ok(Reply::TokenCreated { expires: row.expires })
}
