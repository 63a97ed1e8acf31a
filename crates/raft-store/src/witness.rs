//! How far a node's storage had come, kept apart from it: so that storage that has forgotten something is noticed.
//!
//! RocksDB numbers all that is written. The number it has come to is written down at each start, once everything up to it
//! has been made durable, and at each clean stop; it never falls. Storage that opens with a lower one has lost what was
//! acknowledged: a file was cut short or put back, or the list of files. A node like that must neither vote nor lead.
//!
//! One small file beside RocksDB's folder: `"CODAWITN" | u64 sequence | u64 judged | u64 live | u32 crc`, little endian.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::StoreError;

const FILE: &str = "witness";
const MAGIC: &[u8; 8] = b"CODAWITN";
const BYTES: usize = 8 + 3 * 8 + 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witness {
    /// What RocksDB had numbered last.
    pub sequence: u64,
    /// The newest file of RocksDB's log that was replayed, and is not needed any more.
    pub judged: u64,
    /// The one that was written to next: this or a later one is there.
    pub live: u64,
}

impl Witness {
    /// None before the first, and for one that is damaged itself: storage has checksums of its own.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("reading the witness")(error)),
        };
        let found = decode(&bytes);
        if found.is_none() {
            let file = path.display();
            tracing::warn!(%file, code = "CODA4342", "a file is damaged, and is made anew: check the node's disk");
        }
        Ok(found)
    }

    /// Whole or not at all, and on disk when it returns.
    pub fn write(self, dir: &Path) -> Result<(), StoreError> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.sequence, self.judged, self.live] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let (temporary, path) = (dir.join(format!("{FILE}.tmp")), dir.join(FILE));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(StoreError::io("writing the witness"))
    }
}

fn decode(bytes: &[u8]) -> Option<Witness> {
    let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
    let (body, crc) = bytes.split_at(BYTES - 4);
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let good = body.starts_with(MAGIC) && crc32fast::hash(body).to_le_bytes() == crc;
    good.then(|| Witness { sequence: number(8), judged: number(16), live: number(24) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_whatever_is_damaged_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Witness::read(dir.path()).unwrap(), None);
        let witness = Witness { sequence: 7 << 40, judged: 12, live: 13 };
        witness.write(dir.path()).unwrap();
        assert_eq!(Witness::read(dir.path()).unwrap(), Some(witness));
        let good = fs::read(dir.path().join(FILE)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(dir.path().join(FILE), &bad).unwrap();
            assert_eq!(Witness::read(dir.path()).unwrap(), None, "byte {at}");
            fs::write(dir.path().join(FILE), &good[..at]).unwrap();
            assert_eq!(Witness::read(dir.path()).unwrap(), None, "cut at {at}");
        }
    }
}
