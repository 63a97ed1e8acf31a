//! The storage that the engine sees: an ordered map of bytes, its in-memory twin, and an overlay that collects writes.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

/// Called with each key and value of a scan, in key order.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reads. An implementation that cannot read its storage panics: right of the log there is no other answer.
pub trait Read {
    fn get(&self, key: &[u8]) -> Option<Bytes>;
    /// Visits all pairs with `from <= key < to` until told to stop.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>);
}

/// Reads and writes.
pub trait Kv: Read {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);
    /// As [`Kv::put`] for a key that is not there, which lets a later delete in the same batch cost nothing.
    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>);
    fn delete(&mut self, key: Vec<u8>);
}

/// All state in memory: for tests, simulation and the test kits that users get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemKv {
    pub map: BTreeMap<Vec<u8>, Bytes>,
}

impl Read for MemKv {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.map.get(key).cloned()
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to {
            return;
        }
        for (key, value) in self.map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}

impl Kv for MemKv {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.map.insert(key, value.into());
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let before = self.map.insert(key, value.into());
        assert!(before.is_none(), "insert of a key that is there");
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.map.remove(&key);
    }
}

/// Writes on top of a base that stays as it is, to be flushed as one batch.
pub struct Overlay<'a, R: Read + ?Sized> {
    base: &'a R,
    writes: BTreeMap<Vec<u8>, Write>,
}

enum Write {
    Put(Bytes),
    /// Put, and known to be absent from the base.
    Fresh(Bytes),
    Deleted,
}

impl<'a, R: Read + ?Sized> Overlay<'a, R> {
    pub fn new(base: &'a R) -> Self {
        Self { base, writes: BTreeMap::new() }
    }

    /// The collected writes in key order; `None` deletes.
    pub fn into_writes(self) -> impl Iterator<Item = (Vec<u8>, Option<Bytes>)> {
        self.writes.into_iter().map(|(key, write)| match write {
            Write::Put(value) | Write::Fresh(value) => (key, Some(value)),
            Write::Deleted => (key, None),
        })
    }
}

impl<R: Read + ?Sized> Read for Overlay<'_, R> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.writes.get(key) {
            Some(Write::Put(value) | Write::Fresh(value)) => Some(value.clone()),
            Some(Write::Deleted) => None,
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) {
        if from >= to {
            return;
        }
        let mut ours = self.writes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut stopped = false;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((our_key, write)) = ours.next_if(|(our_key, _)| our_key.as_slice() < key) {
                if let Write::Put(value) | Write::Fresh(value) = write
                    && visit(our_key, value).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match ours.next_if(|(our_key, _)| our_key.as_slice() == key) {
                Some((_, Write::Put(value) | Write::Fresh(value))) => visit(key, value),
                Some((_, Write::Deleted)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            stopped = flow.is_break();
            flow
        });
        if stopped {
            return;
        }
        for (key, write) in ours {
            if let Write::Put(value) | Write::Fresh(value) = write
                && visit(key, value).is_break()
            {
                return;
            }
        }
    }
}

impl<R: Read + ?Sized> Kv for Overlay<'_, R> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let value = value.into();
        let write = match self.writes.get(&key) {
            Some(Write::Fresh(_)) => Write::Fresh(value),
            Some(Write::Put(_) | Write::Deleted) | None => Write::Put(value),
        };
        self.writes.insert(key, write);
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        debug_assert!(self.get(&key).is_none(), "insert of a key that is there");
        let value = value.into();
        let write = if self.writes.contains_key(&key) { Write::Put(value) } else { Write::Fresh(value) };
        self.writes.insert(key, write);
    }

    fn delete(&mut self, key: Vec<u8>) {
        if let Some(Write::Fresh(_)) = self.writes.get(&key) {
            self.writes.remove(&key);
        } else {
            self.writes.insert(key, Write::Deleted);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(kv: &impl Read, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut out = Vec::new();
        kv.scan(from, to, &mut |k, v| {
            out.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        });
        out
    }

    proptest! {
        #[test]
        fn an_overlay_reads_and_flushes_like_the_map_it_stands_for(
            base in proptest::collection::btree_map(0u8..12, any::<u8>(), 0..8),
            ops in proptest::collection::vec((0u8..3, 0u8..12, any::<u8>()), 0..24),
            from in 0u8..12, to in 0u8..12,
        ) {
            let mut model = MemKv::default();
            base.iter().for_each(|(k, v)| model.put(vec![*k], vec![*v]));
            let mut below = model.clone();
            let mut overlay = Overlay::new(&below);
            for (op, k, v) in ops {
                match op {
                    0 => { model.put(vec![k], vec![v]); overlay.put(vec![k], vec![v]); }
                    1 => { model.delete(vec![k]); overlay.delete(vec![k]); }
                    _ if model.get(&[k]).is_none() => { model.insert(vec![k], vec![v]); overlay.insert(vec![k], vec![v]); }
                    _ => {}
                }
                prop_assert_eq!(model.get(&[k]), overlay.get(&[k]));
            }
            prop_assert_eq!(all(&model, &[from], &[to]), all(&overlay, &[from], &[to]));
            let writes: Vec<_> = overlay.into_writes().collect();
            for (k, v) in writes {
                match v { Some(v) => below.put(k, v.to_vec()), None => below.delete(k) }
            }
            prop_assert_eq!(below, model);
        }
    }
}
