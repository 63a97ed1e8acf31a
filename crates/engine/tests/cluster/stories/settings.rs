//! Settings of the cluster.

use coda_engine::query::cluster as query;
use coda_protocol::cluster::{SettingDescription, SettingValue};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use crate::world::World;

fn changed(w: &World) -> Vec<(String, String)> {
    let differ = query::settings(&w.kv).into_iter().filter(SettingDescription::is_changed);
    differ.map(|setting| (setting.key.to_string(), setting.value.to_string())).collect()
}

#[test]
fn settings_have_defaults_and_say_what_was_changed() {
    let mut w = World::new();
    let keys: Vec<_> = query::settings(&w.kv).iter().map(|setting| setting.key.to_string()).collect();
    assert_eq!(keys, ["join_token.ttl_ms", "rebalance.auto", "upgrade.auto"]);
    assert_eq!(changed(&w), []);
    assert_eq!(w.set("rebalance.auto", Some(SettingValue::Switch(false))), Ok(Reply::Done));
    assert_eq!(changed(&w), [("rebalance.auto".into(), "false".into())]);
    let setting = query::setting(&w.kv, "rebalance.auto").unwrap();
    assert_eq!((setting.value, setting.default), (SettingValue::Switch(false), SettingValue::Switch(true)));
    assert_eq!(w.set("rebalance.auto", None), Ok(Reply::Done));
    assert_eq!(changed(&w), []);
    // Set to what the default is, it stays even if a later version had another.
    w.set("join_token.ttl_ms", Some(query::setting(&w.kv, "join_token.ttl_ms").unwrap().default)).unwrap();
    assert_eq!(changed(&w), []);
}

#[test]
fn a_setting_that_is_not_there_or_not_possible_is_refused_with_what_is() {
    let mut w = World::new();
    let refused = w.set("rebalance.speed", Some(SettingValue::Number(1))).unwrap_err();
    assert_eq!(refused.code(), "CODA2050");
    assert!(refused.to_string().contains("join_token.ttl_ms, rebalance.auto, upgrade.auto"), "{refused}");
    assert_eq!(w.set("rebalance.auto", Some(SettingValue::Number(1))).unwrap_err().code(), "CODA2051");
    assert_eq!(w.set("join_token.ttl_ms", Some(SettingValue::Number(1))).unwrap_err().code(), "CODA2051");
    let long = "x".repeat(10_000);
    assert!(matches!(w.set(&long, None), Err(Reject::NoSuchSetting { key, .. }) if key.len() == 64));
    assert_eq!(changed(&w), []);
}
