//! Change a setting, or return it to its default.

use coda_protocol::cluster::SettingValue;
use coda_protocol::reply::Reply;
use smol_str::SmolStr;

use super::members;
use crate::apply::Cx;
use crate::command::Outcome;
use crate::tables::SETTING;

pub(crate) fn apply(cx: &mut Cx<'_>, key: &SmolStr, value: Option<SettingValue>) -> Outcome {
    let mut cluster = members::cluster(cx)?;
    if SETTING.get(cx.kv, cx.group, key) == value {
        return Ok(Reply::Done);
    }
    match value {
        Some(value) => SETTING.put(cx.kv, cx.group, key, &value),
        None => SETTING.delete(cx.kv, cx.group, key),
    }
    members::changed(cx, &mut cluster);
    Ok(Reply::Done)
}
