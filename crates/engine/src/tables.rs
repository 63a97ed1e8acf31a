//! Where rows live: `group u32 | table u8 | key`, all big endian, so that byte order is the order we mean.
//!
//! Rows of one run or task start with its slot, so that a slot's rows can be found and moved; indexes (ready, due,
//! leases) start with what they are searched by and carry the slot behind it. Names are `u8 length | bytes`.
//! Every value starts with a version byte.

use std::marker::PhantomData;
use std::ops::ControlFlow;

use bytes::Bytes;
use coda_protocol::cluster::SettingValue;
use coda_protocol::codec;
use coda_protocol::ids::{
    GroupId, LeaseId, Name, NodeId, RunId, SessionId, Slot, Slotted, StorageId, TaskId, Timestamp, TokenId, Work,
    WorkKind,
};
use coda_protocol::payload::{Payload, WorkOutcome};
use coda_protocol::request::{StepKey, StepKind};
use coda_protocol::slots::SlotMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::rows::{ClusterRow, NodeRow, PlacementRow, TokenRow};
use crate::entry::Lane;
use crate::kv::{Kv, Read};
use crate::rows::{LaneRow, MemoRow, Meta, QueueRow, ReadyPlace, RunRow, Seq, TaskRow};

pub const META: Table<(), Meta> = Table::new(1);
pub const QUEUE: Table<Name, QueueRow> = Table::new(2);
pub const LANE: Table<Lane, LaneRow> = Table::new(3);
pub const READY: Table<ReadyKey, ()> = Table::new(4);
pub const RUN: Table<RunId, RunRow> = Table::new(5);
pub const RUN_INPUT: Table<RunId, Payload> = Table::new(6);
pub const RUN_OUTCOME: Table<RunId, WorkOutcome> = Table::new(7);
pub const MEMO: Table<MemoKey, MemoRow> = Table::new(8);
pub const TASK: Table<TaskId, TaskRow> = Table::new(9);
pub const TASK_ARGS: Table<TaskId, Payload> = Table::new(10);
pub const TASK_OUTCOME: Table<TaskId, WorkOutcome> = Table::new(11);
pub const LEASE: Table<LeaseKey, Work> = Table::new(12);
pub const DUE: Table<DueKey, ()> = Table::new(13);
pub const DELAYED: Table<DelayedKey, ()> = Table::new(14);

// Of the meta group, from 32 on.
pub const CLUSTER: Table<(), ClusterRow> = Table::new(32);
pub const SETTING: Table<Name, SettingValue> = Table::new(33);
pub const NODE: Table<NodeId, NodeRow> = Table::new(34);
pub const STORAGE: Table<StorageId, NodeId> = Table::new(35);
pub const TOKEN: Table<TokenId, TokenRow> = Table::new(36);
pub const PLACEMENT: Table<GroupId, PlacementRow> = Table::new(37);
pub const SLOT_MAP: Table<(), SlotMap> = Table::new(38);

const ROW_VERSION: u8 = 1;
/// Group and table.
const PREFIX_BYTES: usize = 5;

/// Ready work in the order it is handed out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadyKey {
    pub lane: Lane,
    pub place: ReadyPlace,
    pub work: Work,
}

/// Delayed work and work that waits for a retry, by lane and time: so that a lane can say when its first is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DelayedKey {
    pub lane: Lane,
    pub at: Timestamp,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoKey {
    pub run: RunId,
    pub step: StepKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseKey {
    pub session: SessionId,
    pub lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueKey {
    pub at: Timestamp,
    pub what: Due,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its delay is over.
    Ready(Work),
    /// Its retention is over.
    Forget(Work),
    ForgetToken(TokenId),
}

/// Keys know their own bytes.
pub trait Key: Sized {
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what `write` wrote; `None` for anything else, which is corruption where a table holds it.
    fn read(bytes: &mut &[u8]) -> Option<Self>;
}

/// One table of a group.
pub struct Table<K, V> {
    tag: u8,
    row: PhantomData<(K, V)>,
}

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    const fn new(tag: u8) -> Self {
        Self { tag, row: PhantomData }
    }

    fn prefix(&self, group: GroupId) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&group.0.to_be_bytes());
        out.push(self.tag);
        out
    }

    /// The full storage key.
    pub fn key(&self, group: GroupId, key: &K) -> Vec<u8> {
        let mut out = self.prefix(group);
        key.write(&mut out);
        out
    }

    pub fn get(&self, kv: &(impl Read + ?Sized), group: GroupId, key: &K) -> Option<V> {
        kv.get(&self.key(group, key)).map(|value| decode_row(self.tag, &value))
    }

    pub fn has(&self, kv: &(impl Read + ?Sized), group: GroupId, key: &K) -> bool {
        kv.get(&self.key(group, key)).is_some()
    }

    pub fn put(&self, kv: &mut (impl Kv + ?Sized), group: GroupId, key: &K, row: &V) {
        kv.put(self.key(group, key), encode_row(row));
    }

    /// Puts a row that is not there.
    pub fn insert(&self, kv: &mut (impl Kv + ?Sized), group: GroupId, key: &K, row: &V) {
        kv.insert(self.key(group, key), encode_row(row));
    }

    pub fn delete(&self, kv: &mut (impl Kv + ?Sized), group: GroupId, key: &K) {
        kv.delete(self.key(group, key));
    }

    /// Visits rows whose key starts with what `prefix` writes, from the key that `from` writes behind it.
    pub fn scan_from(
        &self,
        kv: &(impl Read + ?Sized),
        group: GroupId,
        prefix: impl FnOnce(&mut Vec<u8>),
        from: impl FnOnce(&mut Vec<u8>),
        mut visit: impl FnMut(K, V) -> ControlFlow<()>,
    ) {
        let mut start = self.prefix(group);
        prefix(&mut start);
        let end = successor(&start);
        from(&mut start);
        kv.scan(&start, &end, &mut |key, value| {
            let row = decode_row(self.tag, value);
            visit(self.read_key(key), row)
        });
    }

    /// Visits rows whose key starts with what `prefix` writes.
    pub fn scan(
        &self,
        kv: &(impl Read + ?Sized),
        group: GroupId,
        prefix: impl FnOnce(&mut Vec<u8>),
        visit: impl FnMut(K, V) -> ControlFlow<()>,
    ) {
        self.scan_from(kv, group, prefix, |_| {}, visit);
    }

    /// What a storage key names. Only our own bytes are stored: anything else is corruption, and stops the process.
    fn read_key(&self, key: &[u8]) -> K {
        let mut rest = &key[PREFIX_BYTES..];
        match K::read(&mut rest) {
            Some(key) if rest.is_empty() => key,
            _ => panic!("table {} holds a corrupt key", self.tag),
        }
    }

    /// All rows that a visitor would see. For queries and tests.
    pub fn all(&self, kv: &(impl Read + ?Sized), group: GroupId) -> Vec<(K, V)> {
        let mut rows = Vec::new();
        self.scan(
            kv,
            group,
            |_| {},
            |key, row| {
                rows.push((key, row));
                ControlFlow::Continue(())
            },
        );
        rows
    }
}

fn encode_row<V: Serialize>(row: &V) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(ROW_VERSION);
    codec::encode_into(row, &mut out);
    out
}

fn decode_row<V: DeserializeOwned>(tag: u8, value: &[u8]) -> V {
    assert_eq!(value.first(), Some(&ROW_VERSION), "table {tag} holds a row of an unknown version");
    codec::decode("row", &value[1..]).unwrap_or_else(|error| panic!("table {tag} holds a corrupt row: {error}"))
}

/// The smallest key after all that start with `prefix`.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    unreachable!("keys start with a group number below the maximum")
}

/// The bytes of a step inside a key.
pub fn write_step(step: &StepKey, out: &mut Vec<u8>) {
    out.push(match step.kind {
        StepKind::Task => 0,
        StepKind::Workflow => 1,
        StepKind::Inline => 2,
    });
    write_name(&step.name, out);
    out.extend_from_slice(step.cache_key.as_bytes());
}

/// The bytes of a name inside a key.
pub fn write_name(name: &str, out: &mut Vec<u8>) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn read_name(bytes: &mut &[u8]) -> Option<Name> {
    let [length] = take(bytes)?;
    let (name, rest) = bytes.split_at_checked(usize::from(length))?;
    *bytes = rest;
    std::str::from_utf8(name).ok().map(Name::new)
}

/// The slot before an id follows from the id.
fn read_slotted<T: Slotted>(bytes: &mut &[u8], id: fn([u8; 16]) -> T) -> Option<T> {
    let slot = Slot(u16::from_be_bytes(take(bytes)?));
    Some(id(take(bytes)?)).filter(|id| id.slot() == slot)
}

impl Key for () {
    fn write(&self, _: &mut Vec<u8>) {}
    fn read(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Key for Name {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(self, out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        read_name(bytes)
    }
}

impl Key for WorkKind {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Task => 0,
            Self::Run => 1,
        });
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match take(bytes)? {
            [0] => Some(Self::Task),
            [1] => Some(Self::Run),
            _ => None,
        }
    }
}

impl Key for Lane {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(&self.queue, out);
        self.kind.write(out);
        write_name(&self.name, out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { queue: read_name(bytes)?, kind: WorkKind::read(bytes)?, name: read_name(bytes)? })
    }
}

impl Key for RunId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slot().0.to_be_bytes());
        out.extend_from_slice(&self.0);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        read_slotted(bytes, Self)
    }
}

impl Key for TaskId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slot().0.to_be_bytes());
        out.extend_from_slice(&self.0);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        read_slotted(bytes, Self)
    }
}

impl Key for Work {
    fn write(&self, out: &mut Vec<u8>) {
        self.kind().write(out);
        match self {
            Self::Task(task) => task.write(out),
            Self::Run(run) => run.write(out),
        }
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match WorkKind::read(bytes)? {
            WorkKind::Task => Some(Self::Task(TaskId::read(bytes)?)),
            WorkKind::Run => Some(Self::Run(RunId::read(bytes)?)),
        }
    }
}

impl Key for NodeId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self(u64::from_be_bytes(take(bytes)?)))
    }
}

impl Key for GroupId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self(u32::from_be_bytes(take(bytes)?)))
    }
}

impl Key for StorageId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self(take(bytes)?))
    }
}

impl Key for TokenId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self(take(bytes)?))
    }
}

impl Key for ReadyPlace {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.rank);
        out.extend_from_slice(&self.seq.index.to_be_bytes());
        out.extend_from_slice(&self.seq.ordinal.to_be_bytes());
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let [rank] = take(bytes)?;
        let seq = Seq { index: u64::from_be_bytes(take(bytes)?), ordinal: u32::from_be_bytes(take(bytes)?) };
        Some(Self { rank, seq })
    }
}

impl Key for ReadyKey {
    fn write(&self, out: &mut Vec<u8>) {
        self.lane.write(out);
        self.place.write(out);
        self.work.write(out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { lane: Lane::read(bytes)?, place: ReadyPlace::read(bytes)?, work: Work::read(bytes)? })
    }
}

impl Key for DelayedKey {
    fn write(&self, out: &mut Vec<u8>) {
        self.lane.write(out);
        out.extend_from_slice(&self.at.0.to_be_bytes());
        self.work.write(out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (lane, at) = (Lane::read(bytes)?, Timestamp(u64::from_be_bytes(take(bytes)?)));
        Some(Self { lane, at, work: Work::read(bytes)? })
    }
}

impl Key for MemoKey {
    fn write(&self, out: &mut Vec<u8>) {
        self.run.write(out);
        write_step(&self.step, out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let run = RunId::read(bytes)?;
        let kind = match take(bytes)? {
            [0] => StepKind::Task,
            [1] => StepKind::Workflow,
            [2] => StepKind::Inline,
            _ => return None,
        };
        let name = read_name(bytes)?;
        let cache_key = coda_protocol::cache_key::CacheKey::stored(Bytes::copy_from_slice(bytes));
        *bytes = &[];
        Some(Self { run, step: StepKey { kind, name, cache_key } })
    }
}

impl Key for LeaseKey {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.lease.0.to_be_bytes());
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { session: SessionId(take(bytes)?), lease: LeaseId(u64::from_be_bytes(take(bytes)?)) })
    }
}

impl Key for DueKey {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.at.0.to_be_bytes());
        match &self.what {
            Due::Ready(work) => {
                out.push(0);
                work.write(out);
            }
            Due::Forget(work) => {
                out.push(1);
                work.write(out);
            }
            Due::ForgetToken(token) => {
                out.push(2);
                token.write(out);
            }
        }
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let at = Timestamp(u64::from_be_bytes(take(bytes)?));
        let what = match take(bytes)? {
            [0] => Due::Ready(Work::read(bytes)?),
            [1] => Due::Forget(Work::read(bytes)?),
            [2] => Due::ForgetToken(TokenId::read(bytes)?),
            _ => return None,
        };
        Some(Self { at, what })
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::cache_key::CacheKey;

    use super::*;

    fn round_trip<K: Key + PartialEq + std::fmt::Debug>(key: K) {
        let mut bytes = Vec::new();
        key.write(&mut bytes);
        let mut rest = bytes.as_slice();
        assert_eq!((K::read(&mut rest), rest.len()), (Some(key), 0));
    }

    #[test]
    fn keys_read_back_what_they_wrote() {
        let lane = Lane { queue: "q".into(), kind: WorkKind::Run, name: "n".into() };
        let work = Work::Task(TaskId([3; 16]));
        let place = ReadyPlace { rank: 5, seq: Seq { index: 7, ordinal: 9 } };
        round_trip(DelayedKey { lane: lane.clone(), at: Timestamp(4), work });
        round_trip(ReadyKey { lane, place, work });
        round_trip(DueKey { at: Timestamp(4), what: Due::Forget(Work::Run(RunId([8; 16]))) });
        round_trip(DueKey { at: Timestamp(4), what: Due::ForgetToken(TokenId([9; 16])) });
        round_trip(LeaseKey { session: SessionId([1; 16]), lease: LeaseId(2) });
        let step = StepKey { kind: StepKind::Inline, name: "n".into(), cache_key: CacheKey::auto(3) };
        round_trip(MemoKey { run: RunId([2; 16]), step });
    }

    #[test]
    fn ready_work_sorts_by_priority_then_by_acceptance() {
        let key = |rank, index, ordinal| {
            let mut bytes = Vec::new();
            ReadyPlace { rank, seq: Seq { index, ordinal } }.write(&mut bytes);
            bytes
        };
        let sorted = [key(0, 900, 0), key(5, 1, 0), key(5, 1, 1), key(5, 256, 0), key(9, 0, 0)];
        assert!(sorted.is_sorted());
    }

    #[test]
    fn the_name_of_one_lane_is_no_prefix_of_another() {
        let bytes = |queue: &str, name: &str| {
            let mut out = Vec::new();
            Lane { queue: queue.into(), kind: WorkKind::Task, name: name.into() }.write(&mut out);
            out
        };
        assert!(!bytes("ab", "c").starts_with(&bytes("a", "bc")[..2]));
        assert_eq!(successor(&[1, 255, 255]), [2]);
    }
}
