//! The bytes of log entries, rows and keys of version 1: what is on disks and in snapshots.

#[path = "../../../protocol/tests/compat/golden.rs"]
mod golden;
mod meta_values;
mod values;

use std::fmt::Debug;

use coda_engine::kv::{Kv, MemKv};
use coda_engine::tables::{
    CLUSTER, DELAYED, DUE, Key, LANE, LEASE, MEMO, META, NODE, PLACEMENT, QUEUE, READY, RUN, RUN_INPUT, RUN_OUTCOME,
    SETTING, SLOT_MAP, STORAGE, TASK, TASK_ARGS, TASK_OUTCOME, TOKEN, Table,
};
use coda_protocol::ids::GroupId;
use golden::{all_variants, check, check_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

const GROUP: GroupId = GroupId(513);

#[test]
fn commands() {
    all_variants(&values::commands());
    check("commands.hex", &values::commands());
}

#[test]
fn cluster_commands() {
    all_variants(&meta_values::commands());
    check("cluster_commands.hex", &meta_values::commands());
}

#[test]
fn entries() {
    check("entries.hex", &values::entries());
}

/// A row's fixture is `u8 length of the key | key | value`, as they are stored.
fn rows<K: Key + PartialEq + Debug, V: Serialize + DeserializeOwned + PartialEq + Debug>(
    file: &str,
    table: &Table<K, V>,
    rows: Vec<(&str, K, V)>,
) {
    let write = |(key, row): &(K, V)| {
        let mut kv = MemKv::default();
        table.put(&mut kv, GROUP, key, row);
        let (key, value) = kv.map.pop_first().expect("just put");
        [&[key.len() as u8], key.as_slice(), &value].concat()
    };
    let read = |bytes: &[u8]| {
        let (key, value) = bytes[1..].split_at(usize::from(bytes[0]));
        let mut kv = MemKv::default();
        kv.put(key.to_vec(), value.to_vec());
        table.all(&kv, GROUP).pop().expect("the fixture is a row of this table")
    };
    let rows: Vec<(&str, (K, V))> = rows.into_iter().map(|(label, key, row)| (label, (key, row))).collect();
    check_with(file, &rows, write, read);
}

#[test]
fn every_table() {
    rows("meta.hex", &META, values::metas());
    rows("queue.hex", &QUEUE, values::queues());
    rows("lane.hex", &LANE, values::lanes());
    rows("ready.hex", &READY, values::ready());
    rows("run.hex", &RUN, values::runs());
    rows("run_input.hex", &RUN_INPUT, vec![("input", values::RUN_ID, values::payload())]);
    rows("run_outcome.hex", &RUN_OUTCOME, values::outcomes(values::RUN_ID));
    rows("memo.hex", &MEMO, values::memos());
    rows("task.hex", &TASK, values::tasks());
    rows("task_args.hex", &TASK_ARGS, vec![("args", values::TASK_ID, values::payload())]);
    rows("task_outcome.hex", &TASK_OUTCOME, values::outcomes(values::TASK_ID));
    rows("lease.hex", &LEASE, values::leases());
    rows("due.hex", &DUE, values::due());
    rows("delayed.hex", &DELAYED, values::delayed());
}

#[test]
fn every_table_of_the_meta_group() {
    rows("cluster.hex", &CLUSTER, meta_values::clusters());
    rows("setting.hex", &SETTING, meta_values::settings());
    rows("node.hex", &NODE, meta_values::nodes());
    rows("storage.hex", &STORAGE, meta_values::storages());
    rows("token.hex", &TOKEN, meta_values::tokens());
    rows("placement.hex", &PLACEMENT, meta_values::placements());
    rows("slot_map.hex", &SLOT_MAP, meta_values::slot_maps());
}
