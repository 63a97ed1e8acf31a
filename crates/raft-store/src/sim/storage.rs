//! A simulated disk as a database.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use coda_engine::kv::Visit;

use super::disk::Life;
use super::tables::{Map, Op, Rows as Families};
use crate::storage::{Batch, Durability, Family, Refused, Rows, Storage};

impl Storage for Life {
    fn now(&self) -> Box<dyn Rows + '_> {
        Box::new(Now(self))
    }

    fn moment(&self) -> Box<dyn Rows + '_> {
        let tables = self.tables().lock();
        Box::new(Moment { rows: tables.now.clone(), rotten: tables.rotten.clone() })
    }

    fn batch(&self) -> Box<dyn Batch + '_> {
        Box::new(SimBatch { life: self, ops: Vec::new(), bytes: 0 })
    }

    fn sync(&self) -> Result<(), Refused> {
        let mood = self.count_sync();
        self.tables().lock().sync(mood)
    }

    fn flush(&self) -> Result<(), Refused> {
        let mut tables = self.tables().lock();
        let bytes = tables.unflushed_bytes();
        let mood = self.mood(bytes);
        tables.flush(mood)
    }

    fn log_bytes(&self, from: &[u8], to: &[u8]) -> u64 {
        self.tables().lock().log_bytes(from, to)
    }

    fn quiesce(&self) {
        self.end();
    }
}

/// What a block with the wrong checksum says.
fn rotten(family: Family, key: &[u8]) -> Refused {
    Refused(format!("Corruption: block checksum mismatch in {family:?} near {key:02x?}"))
}

type RottenKeys = BTreeSet<(Family, Vec<u8>)>;

fn check(is_rotten: &RottenKeys, family: Family, key: &[u8]) -> Result<(), Refused> {
    if !is_rotten.is_empty() && is_rotten.contains(&(family, key.to_vec())) {
        return Err(rotten(family, key));
    }
    Ok(())
}

struct Now<'a>(&'a Life);

impl Now<'_> {
    /// Whoever visits may read, too: the rows are not locked meanwhile.
    fn family(&self, family: Family) -> (Arc<Map>, RottenKeys) {
        let tables = self.0.tables().lock();
        (tables.now.get(family).clone(), tables.rotten.clone())
    }
}

impl Rows for Now<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Refused> {
        let tables = self.0.tables().lock();
        check(&tables.rotten, family, key)?;
        Ok(tables.now.get(family).get(key).cloned())
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Refused> {
        let (map, rotten) = self.family(family);
        scan(&map, &rotten, family, (from, to), visit)
    }

    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, Refused> {
        let (map, rotten) = self.family(family);
        last(&map, &rotten, family, from, to)
    }
}

struct Moment {
    rows: Families,
    rotten: RottenKeys,
}

impl Rows for Moment {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Refused> {
        check(&self.rotten, family, key)?;
        Ok(self.rows.get(family).get(key).cloned())
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Refused> {
        scan(self.rows.get(family), &self.rotten, family, (from, to), visit)
    }

    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, Refused> {
        last(self.rows.get(family), &self.rotten, family, from, to)
    }
}

fn range<'a>(map: &'a Map, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Bytes)> {
    map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
}

fn scan(
    map: &Map,
    rotten: &RottenKeys,
    family: Family,
    (from, to): (&[u8], &[u8]),
    visit: Visit<'_>,
) -> Result<(), Refused> {
    if from >= to {
        return Ok(());
    }
    for (key, value) in range(map, from, to) {
        check(rotten, family, key)?;
        if visit(key, value) == ControlFlow::Break(()) {
            break;
        }
    }
    Ok(())
}

fn last(
    map: &Map,
    rotten: &RottenKeys,
    family: Family,
    from: &[u8],
    to: &[u8],
) -> Result<Option<(Vec<u8>, Bytes)>, Refused> {
    if from >= to {
        return Ok(None);
    }
    let Some((key, value)) = range(map, from, to).next_back() else { return Ok(None) };
    check(rotten, family, key)?;
    Ok(Some((key.clone(), value.clone())))
}

struct SimBatch<'a> {
    life: &'a Life,
    ops: Vec<Op>,
    bytes: usize,
}

impl SimBatch<'_> {
    fn push(&mut self, op: Op) {
        self.bytes += op.bytes();
        self.ops.push(op);
    }
}

impl Batch for SimBatch<'_> {
    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.push(Op::Put(family, key.to_vec(), Bytes::copy_from_slice(value)));
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.push(Op::Delete(family, key.to_vec()));
    }

    fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.push(Op::DeleteRange(family, from.to_vec(), to.to_vec()));
    }

    fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn write(self: Box<Self>, durability: Durability) -> Result<(), Refused> {
        let logged = if durability == Durability::Unlogged { 0 } else { self.bytes };
        let mood = self.life.mood(logged as u64);
        self.life.tables().lock().write(self.ops, durability, mood)?;
        self.life.flush_some();
        Ok(())
    }
}
