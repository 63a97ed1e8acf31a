//! Rows in memory, and which of them a crash leaves: what RocksDB promises, and no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use crate::storage::{Durability, Family, Refused};

pub type Map = BTreeMap<Vec<u8>, Bytes>;

/// What a flipped bit has hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// A record of the Raft log.
    Log,
    /// A row of the state.
    State,
    /// A file of a snapshot.
    Snapshot,
}

#[derive(Clone, Debug)]
pub enum Op {
    Put(Family, Vec<u8>, Bytes),
    Delete(Family, Vec<u8>),
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

impl Op {
    pub fn family(&self) -> Family {
        match self {
            Self::Put(family, ..) | Self::Delete(family, _) | Self::DeleteRange(family, ..) => *family,
        }
    }

    fn replaces(&self, family: Family, key: &[u8]) -> bool {
        family == self.family()
            && match self {
                Self::Put(_, new, _) | Self::Delete(_, new) => new == key,
                Self::DeleteRange(_, from, to) => (from.as_slice()..to.as_slice()).contains(&key),
            }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Put(_, key, value) => key.len() + value.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteRange(_, from, to) => from.len() + to.len(),
        }
    }
}

/// The families. A moment of one is a clone of its `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    maps: [Arc<Map>; 3],
}

impl Rows {
    pub fn get(&self, family: Family) -> &Arc<Map> {
        &self.maps[family as usize]
    }

    fn apply(&mut self, op: &Op) {
        let map = Arc::make_mut(&mut self.maps[op.family() as usize]);
        match op {
            Op::Put(_, key, value) => drop(map.insert(key.clone(), value.clone())),
            Op::Delete(_, key) => drop(map.remove(key)),
            Op::DeleteRange(_, from, to) => {
                if from >= to {
                    return;
                }
                let range = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
                let keys: Vec<_> = map.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
                for key in keys {
                    map.remove(&key);
                }
            }
        }
    }
}

/// What is done to a disk at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mood {
    /// Whatever must reach the disk fails.
    pub fails: bool,
    /// Nothing more fits.
    pub full: bool,
}

/// An open database, or one that lies there closed.
#[derive(Debug, Default)]
pub struct Tables {
    /// As everybody sees them.
    pub now: Rows,
    /// As they would be after a crash if nothing else had reached the disk: the log and what the node says of itself as of
    /// the last sync, the state as of the last flush.
    durable: Rows,
    /// Batches in the WAL since its last sync.
    logged: VecDeque<Vec<Op>>,
    /// Batches of the state since its last flush.
    unflushed: VecDeque<Vec<Op>>,
    /// Rows whose block has the wrong checksum.
    pub rotten: BTreeSet<(Family, Vec<u8>)>,
    /// Why nothing is written any more. RocksDB, too, gives up on a disk that has refused something, until it is opened
    /// again.
    failed: Option<&'static str>,
    /// The node is no more: what is left of it may read, and nothing else.
    pub dead: bool,
}

const DEAD: &str = "the power is off";
const FULL: &str = "No space left on device";
const EIO: &str = "Input/output error";

/// What a crash took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    pub logged: usize,
    pub unflushed: usize,
}

impl Tables {
    fn check(&self) -> Result<(), Refused> {
        let refused = if self.dead { Some(DEAD) } else { self.failed };
        refused.map_or(Ok(()), |why| Err(Refused(why.into())))
    }

    fn fail(&mut self, why: &'static str) -> Result<(), Refused> {
        self.failed = Some(why);
        Err(Refused(why.into()))
    }

    pub fn write(&mut self, batch: Vec<Op>, durability: Durability, mood: Mood) -> Result<(), Refused> {
        self.check()?;
        let is_state = |op: &Op| op.family() == Family::State;
        let (all, none) = (batch.iter().all(is_state), !batch.iter().any(is_state));
        match durability {
            Durability::Logged | Durability::Synced => assert!(none, "the state is not logged"),
            Durability::Unlogged => assert!(all, "only the state may go unlogged"),
        }
        // What goes unlogged needs no room before it is flushed.
        if mood.full && durability != Durability::Unlogged {
            return self.fail(FULL);
        }
        for op in &batch {
            self.now.apply(op);
        }
        match durability {
            Durability::Unlogged => self.unflushed.push_back(batch),
            Durability::Logged | Durability::Synced => self.logged.push_back(batch),
        }
        if durability == Durability::Synced { self.sync(mood) } else { Ok(()) }
    }

    pub fn sync(&mut self, mood: Mood) -> Result<(), Refused> {
        self.check()?;
        if mood.fails {
            return self.fail(EIO);
        }
        let batches = std::mem::take(&mut self.logged);
        self.settle(batches);
        Ok(())
    }

    pub fn flush(&mut self, mood: Mood) -> Result<(), Refused> {
        self.check()?;
        if mood.full {
            return self.fail(FULL);
        }
        if mood.fails {
            return self.fail(EIO);
        }
        let batches = std::mem::take(&mut self.unflushed);
        self.settle(batches);
        Ok(())
    }

    /// RocksDB flushes by itself, whenever it likes, what was written first.
    pub fn flush_some(&mut self, random: &mut StdRng) {
        let some = random.random_range(0..=self.unflushed.len());
        let batches = self.unflushed.drain(..some).collect();
        self.settle(batches);
    }

    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    pub fn unflushed_bytes(&self) -> u64 {
        self.unflushed.iter().flatten().map(|op| op.bytes() as u64).sum()
    }

    fn settle(&mut self, batches: VecDeque<Vec<Op>>) {
        for op in batches.into_iter().flatten() {
            self.rotten.retain(|(family, key)| !op.replaces(*family, key));
            self.durable.apply(&op);
        }
    }

    /// What the next one to open it finds, and what is lost. The process alone has ended, or the power has failed.
    pub fn after(&mut self, power_failed: bool, random: &mut StdRng) -> (Self, Lost) {
        self.dead = true;
        let mut next = Self { durable: self.durable.clone(), rotten: self.rotten.clone(), ..Self::default() };
        // A file whose sync has failed is in no known state.
        let torn = power_failed || self.failed.is_some();
        let logged = if torn { some(self.logged.len(), random) } else { self.logged.len() };
        let unflushed = some(self.unflushed.len(), random);
        next.settle(self.logged.iter().take(logged).cloned().collect());
        next.settle(self.unflushed.iter().take(unflushed).cloned().collect());
        // Opening it writes to files whatever the WAL holds.
        next.now = next.durable.clone();
        (next, Lost { logged: self.logged.len() - logged, unflushed: self.unflushed.len() - unflushed })
    }

    /// Flips a bit of a row that lies on the disk.
    pub fn rot(&mut self, family: Family, random: &mut StdRng) -> bool {
        let map = self.durable.get(family);
        if map.is_empty() {
            return false;
        }
        let at = random.random_range(0..map.len());
        let key = map.keys().nth(at).expect("less than its length").clone();
        self.rotten.insert((family, key));
        true
    }

    pub fn log_bytes(&self, from: &[u8], to: &[u8]) -> u64 {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.now.get(Family::Log).range::<[u8], _>(range);
        rows.map(|(key, row)| (key.len() + row.len()) as u64).sum()
    }

    pub fn bytes(&self) -> u64 {
        let maps = [Family::Log, Family::State, Family::Meta].map(|family| self.now.get(family));
        maps.iter().flat_map(|map| map.iter()).map(|(key, row)| (key.len() + row.len()) as u64).sum()
    }
}

/// How many of them have reached the disk: often none, often all.
pub fn some(all: usize, random: &mut StdRng) -> usize {
    match random.random_range(0..4) {
        0 => 0,
        1 => all,
        _ => random.random_range(0..=all),
    }
}
