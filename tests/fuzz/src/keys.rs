//! Storage keys: what a key writes it reads again, keys of one order have bytes of that order, and bytes that no key
//! writes are read as none.

use std::fmt::Debug;

use coda_engine::entry::Lane;
use coda_engine::rows::{ReadyPlace, Seq};
use coda_engine::tables::{DelayedKey, Due, DueKey, Key, LeaseKey, MemoKey, ReadyKey};
use coda_protocol::cache_key::CacheKey;
use coda_protocol::ids::{
    GroupId, LeaseId, Name, NodeId, RunId, SessionId, StorageId, TaskId, Timestamp, TokenId, Work, WorkKind,
};
use coda_protocol::request::{StepKey, StepKind};

/// The first byte says which key, and whether the rest is the bytes of one or makes two.
pub fn run(data: &[u8]) -> bool {
    let Some((kind, rest)) = data.split_first() else { return false };
    let of = kind / 2 % 13;
    if kind.is_multiple_of(2) {
        return match of {
            0 => hostile::<Name>(rest),
            1 => hostile::<Lane>(rest),
            2 => hostile::<RunId>(rest),
            3 => hostile::<TaskId>(rest),
            4 => hostile::<Work>(rest),
            5 => hostile::<NodeId>(rest),
            6 => hostile::<StorageId>(rest),
            7 => hostile::<TokenId>(rest),
            8 => hostile::<ReadyKey>(rest),
            9 => hostile::<DelayedKey>(rest),
            10 => hostile::<MemoKey>(rest),
            11 => hostile::<LeaseKey>(rest),
            _ => hostile::<DueKey>(rest),
        };
    }
    let mut from = Source(rest);
    match of {
        0 => round(&from.name()),
        1 => round(&from.lane()),
        2 => round(&from.work()),
        3 => round(&GroupId(from.number() as u32)),
        4 => ordered(from.number(), from.number(), |n| NodeId(*n)),
        5 => ordered(from.place(), from.place(), |(rank, index, ordinal)| place(*rank, *index, *ordinal)),
        6 => {
            let (lane, work) = (from.lane(), from.work());
            let key = |(rank, index, ordinal): &(u8, u64, u32)| ReadyKey {
                lane: lane.clone(),
                place: place(*rank, *index, *ordinal),
                work,
            };
            ordered(from.place(), from.place(), key);
        }
        7 => {
            let (lane, work) = (from.lane(), from.work());
            let key = |at: &u64| DelayedKey { lane: lane.clone(), at: Timestamp(*at), work };
            ordered(from.number(), from.number(), key);
        }
        8 => {
            let what = from.due();
            ordered(from.number(), from.number(), |at| DueKey { at: Timestamp(*at), what });
        }
        9 => {
            let session = SessionId(from.id());
            ordered(from.number(), from.number(), |lease| LeaseKey { session, lease: LeaseId(*lease) });
        }
        10 => apart(&from.lane(), &from.lane()),
        11 => apart(&from.memo(), &from.memo()),
        _ => apart(&from.work(), &from.work()),
    }
    true
}

fn bytes_of(key: &impl Key) -> Vec<u8> {
    let mut out = Vec::new();
    key.write(&mut out);
    out
}

fn round<K: Key + PartialEq + Debug>(key: &K) {
    let bytes = bytes_of(key);
    let mut rest = bytes.as_slice();
    assert_eq!((K::read(&mut rest).as_ref(), rest.len()), (Some(key), 0));
}

/// What can be read is what those bytes, and no others, say.
fn hostile<K: Key>(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let key = K::read(&mut rest);
    if let Some(key) = &key {
        assert_eq!(bytes_of(key), bytes[..bytes.len() - rest.len()]);
    }
    key.is_some()
}

/// Keys that differ in something that is ordered have bytes of that order.
fn ordered<T: Ord, K: Key + PartialEq + Debug>(a: T, b: T, key: impl Fn(&T) -> K) {
    let (one, other) = (key(&a), key(&b));
    round(&one);
    assert_eq!(bytes_of(&one).cmp(&bytes_of(&other)), a.cmp(&b), "{one:?} {other:?}");
}

/// Different keys have different bytes.
fn apart<K: Key + PartialEq + Debug>(a: &K, b: &K) {
    round(a);
    round(b);
    assert_eq!(bytes_of(a) == bytes_of(b), a == b);
}

fn place(rank: u8, index: u64, ordinal: u32) -> ReadyPlace {
    ReadyPlace { rank, seq: Seq { index, ordinal } }
}

/// Where a target takes values from; zeros behind its end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let length = N.min(self.0.len());
        let (head, rest) = self.0.split_at(length);
        out[..length].copy_from_slice(head);
        self.0 = rest;
        out
    }

    fn id(&mut self) -> [u8; 16] {
        self.take()
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn place(&mut self) -> (u8, u64, u32) {
        let [rank] = self.take();
        (rank, self.number(), self.number() as u32)
    }

    /// A text of at most 255 bytes.
    fn name(&mut self) -> Name {
        let [length] = self.take();
        let (text, rest) = self.0.split_at(usize::from(length).min(self.0.len()));
        self.0 = rest;
        let text = String::from_utf8_lossy(text);
        Name::new(&text[..text.floor_char_boundary(255)])
    }

    fn kind(&mut self) -> WorkKind {
        if self.take::<1>()[0].is_multiple_of(2) { WorkKind::Task } else { WorkKind::Run }
    }

    fn lane(&mut self) -> Lane {
        Lane { queue: self.name(), kind: self.kind(), name: self.name() }
    }

    fn work(&mut self) -> Work {
        match self.kind() {
            WorkKind::Task => Work::Task(TaskId(self.id())),
            WorkKind::Run => Work::Run(RunId(self.id())),
        }
    }

    fn due(&mut self) -> Due {
        match self.take::<1>()[0] % 3 {
            0 => Due::Ready(self.work()),
            1 => Due::Forget(self.work()),
            _ => Due::ForgetToken(TokenId(self.id())),
        }
    }

    fn memo(&mut self) -> MemoKey {
        let kinds = [StepKind::Task, StepKind::Workflow, StepKind::Inline];
        let kind = kinds[usize::from(self.take::<1>()[0] % 3)];
        let (run, name) = (RunId(self.id()), self.name());
        let cache_key = CacheKey::stored(self.name().as_bytes().to_vec().into());
        MemoKey { run, step: StepKey { kind, name, cache_key } }
    }
}
