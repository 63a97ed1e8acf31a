//! Bodies: what decodes encodes to what decodes to the same, and no check of it panics.

use std::fmt::Debug;

use coda_engine::command::Command;
use coda_engine::entry::{Applied, Entry};
use coda_protocol::cluster::{ClusterMap, check_address};
use coda_protocol::codec;
use coda_protocol::frame::{Hello, Welcome};
use coda_protocol::ids::{Name, check_name};
use coda_protocol::join::JoinToken;
use coda_protocol::limits::SLOTS;
use coda_protocol::operate::{ClusterReply, ClusterRequest};
use coda_protocol::push::Push;
use coda_protocol::reply::{Answer, QueueCursor};
use coda_protocol::request::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a body may be.
pub const KINDS: u8 = 12;
pub const REQUEST: u8 = 0;
pub const PUSH: u8 = 1;
pub const ANSWER: u8 = 2;
pub const ENTRY: u8 = 5;
pub const COMMAND: u8 = 6;
pub const CLUSTER_REQUEST: u8 = 7;
pub const CLUSTER_REPLY: u8 = 8;
pub const MAP: u8 = 9;

/// Of what clients and nodes say to each other, and of the log. The first byte says what the rest is.
pub fn run(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    match kind % KINDS {
        REQUEST => round::<Request>(body, |request| assert!(request.slot().is_none_or(|slot| slot.0 < SLOTS))),
        PUSH => round::<Push>(body, |_| {}),
        ANSWER => round::<Answer>(body, |answer| {
            if let Err(refusal) = &answer.result {
                assert!(refusal.code().starts_with("CODA") && !refusal.to_string().is_empty());
            }
        }),
        3 => round::<Hello>(body, |_| {}),
        4 => round::<Welcome>(body, |_| {}),
        ENTRY => round::<Entry>(body, |_| {}),
        COMMAND => round::<Command>(body, |command| drop(command.check())),
        CLUSTER_REQUEST => round::<ClusterRequest>(body, |_| {}),
        CLUSTER_REPLY => round::<ClusterReply>(body, |reply| {
            if let ClusterReply::Cluster(report) = reply {
                drop(report.health());
            }
        }),
        // Whatever can be decoded leads every slot to a group that is there.
        MAP => round::<ClusterMap>(body, |map| {
            let is_known = |group| map.groups.iter().any(|known| known.group == group);
            assert!(map.slots.ranges().all(|(_, _, group)| is_known(group)));
        }),
        10 => round::<Applied>(body, |_| {}) | round::<QueueCursor>(body, |cursor| drop(cursor.check())),
        _ => text(&String::from_utf8_lossy(body)),
    }
}

fn text(text: &str) -> bool {
    let token = text.parse::<JoinToken>();
    if let Ok(token) = &token {
        assert_eq!(token.to_string(), text.trim().to_ascii_lowercase());
    }
    token.is_ok() | check_name(&Name::from(text)).is_ok() | check_address(text).is_ok()
}

/// Of what nodes say to each other. The first byte says what the rest is.
pub fn peer(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    match kind % 4 {
        0 => coda_broker::fuzz::ask(body),
        1 => coda_broker::fuzz::answer(body),
        // The second byte says where to cut.
        _ => body.split_first().is_some_and(|(cut, stream)| coda_broker::fuzz::peer_stream(stream, *cut)),
    }
}

pub fn certificate(der: &[u8]) -> bool {
    coda_broker::fuzz::certificate(der)
}

fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8], look: impl FnOnce(&T)) -> bool {
    let Ok(value) = codec::decode::<T>("body", body) else { return false };
    let bytes = codec::encode(&value);
    let again: T = codec::decode("body", &bytes).expect("our own bytes");
    assert_eq!(value, again);
    assert_eq!(codec::encode(&again), bytes);
    look(&value);
    true
}
