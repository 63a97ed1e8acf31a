//! The bytes of wire version 1, variant by variant.

mod cluster_values;
mod golden;
mod operate_values;
mod values;

use bytes::BytesMut;
use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::frame::Frame;
use coda_protocol::ids::{GroupId, LeaseId, RunId, Slot, Slotted, TaskId};
use coda_protocol::join::JoinToken;
use golden::{all_variants, check, check_with};

#[test]
fn requests() {
    all_variants(&values::requests());
    check("requests.hex", &values::requests());
}

#[test]
fn replies() {
    all_variants(&values::replies());
    check("replies.hex", &values::replies());
    check("answers.hex", &values::answers());
}

#[test]
fn pushes() {
    all_variants(&values::pushes());
    check("pushes.hex", &values::pushes());
}

#[test]
fn rejects() {
    all_variants(&values::rejects());
    all_variants(&values::unavailable());
    check("rejects.hex", &values::rejects());
    check("unavailable.hex", &values::unavailable());
}

#[test]
fn frames() {
    let write = |frame: &Frame| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    let read = |bytes: &[u8]| Frame::take(&mut BytesMut::from(bytes)).unwrap().expect("a whole frame");
    check_with("frames.hex", &values::frames(), write, read);
}

#[test]
fn operating() {
    all_variants(&operate_values::requests());
    all_variants(&operate_values::replies());
    check("cluster_requests.hex", &operate_values::requests());
    check("cluster_replies.hex", &operate_values::replies());
}

#[test]
fn clusters() {
    check("cluster_maps.hex", &cluster_values::maps());
    check("cluster_descriptions.hex", &cluster_values::descriptions());
    check("member_descriptions.hex", &cluster_values::members());
    check("token_descriptions.hex", &cluster_values::tokens());
    check("setting_descriptions.hex", &cluster_values::settings());
    check("plans.hex", &cluster_values::plans());
    let steps: Vec<_> = cluster_values::steps();
    all_variants(&steps);
    check("steps.hex", &steps);
}

/// Operators pass them on, perhaps to a node of another version.
#[test]
fn join_tokens() {
    let text = format!("coda-join-{}-{}", "a1".repeat(16), "07".repeat(32));
    let token: JoinToken = text.parse().unwrap();
    assert_eq!(token.to_string(), text);
    check("token_digests.hex", &[("sevens", token.digest())]);
}

/// Cache keys are made by SDKs in several languages: all must make these bytes.
#[test]
fn cache_keys() {
    let explicit = |parts: &[KeyPart]| CacheKey::explicit(parts).unwrap();
    let text = |text: &str| KeyPart::Str(text.into());
    let keys = [
        ("auto 0", CacheKey::auto(0)),
        ("auto 258", CacheKey::auto(258)),
        ("fresh", CacheKey::fresh(LeaseId(0x0102_0304_0506_0708), 9)),
        ("[]", explicit(&[])),
        ("[null]", explicit(&[KeyPart::Null])),
        ("[true, false]", explicit(&[KeyPart::Bool(true), KeyPart::Bool(false)])),
        ("[1, -1]", explicit(&[KeyPart::Int(1), KeyPart::Int(-1)])),
        ("[1.5]", explicit(&[KeyPart::Float(1.5)])),
        ("['ab']", explicit(&[text("ab")])),
        ("['a', 'b']", explicit(&[text("a"), text("b")])),
        ("[bytes 'ab']", explicit(&[KeyPart::Bytes(b"ab".to_vec())])),
        ("[['a'], 'é']", explicit(&[KeyPart::List(vec![text("a")]), text("é")])),
    ];
    let read = |bytes: &[u8]| {
        let key = CacheKey::stored(bytes.to_vec().into());
        key.check().expect("a good key");
        key
    };
    check_with("cache_keys.hex", &keys, |key| key.as_bytes().to_vec(), read);
}

/// Where rows live depends on this hash: it never changes.
#[test]
fn slots() {
    let derived = TaskId::derived(Slot(4_095), GroupId(513), 0x0102_0304_0506, 0x0fff_f123);
    let slots = [
        ("zero", TaskId([0; 16]).slot()),
        ("sevens", TaskId([7; 16]).slot()),
        ("run of sevens", RunId([7; 16]).slot()),
        ("uuid 7", "0190163d-8694-739b-aea5-966c26f8ad91".parse::<RunId>().unwrap().slot()),
        ("derived", derived.slot()),
    ];
    check("slots.hex", &slots);
    check("derived_ids.hex", &[("derived", derived)]);
}
