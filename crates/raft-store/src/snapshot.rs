//! A group's state in one file: sorted rows in checksummed blocks, the same bytes on every node for equal state.
//!
//! ```text
//! "CODASNAP" | u32 version | u32 header length | header | u32 crc of all before
//! block*:  u32 payload length (> 0) | u32 crc of payload | payload = (u32 key length | u32 value length | key | value)*
//! footer:  u32 0 | u64 blocks | u64 rows | u64 payload bytes | u64 digest | u32 crc of the footer
//! ```
//! Numbers are little endian. The header is `codec` bytes of [`Header`].

use std::io::{BufReader, BufWriter, Read as _, Write};
use std::ops::ControlFlow;
use std::path::Path;

use coda_engine::kv::Read;
use coda_protocol::codec;
use coda_protocol::ids::GroupId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::StoreError;
use crate::files::{FileRead, FileWrite, Files};
use crate::rows::{LogPoint, MembershipRow};
use crate::view::{StateView, engine_range};

const MAGIC: &[u8; 8] = b"CODASNAP";
const VERSION: u32 = 1;
/// A block is closed once it holds this many bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// Larger lengths are corrupt: no row comes near.
const BLOCK_BYTES_MAX: usize = 256 << 20;
const HEADER_BYTES_MAX: usize = 16 << 20;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub group: u32,
    pub applied: Option<LogPoint>,
    pub membership: MembershipRow,
}

/// A checksum of rows in order, to compare replicas by.
#[derive(Default)]
pub(crate) struct Digest(Xxh3);

impl Digest {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0.update(&(key.len() as u32).to_le_bytes());
        self.0.update(&(value.len() as u32).to_le_bytes());
        self.0.update(key);
        self.0.update(value);
    }

    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// The digest of everything the engine wrote for a group.
pub(crate) fn digest(view: &dyn Read, group: GroupId) -> u64 {
    let (from, to) = engine_range(group);
    let mut digest = Digest::default();
    view.scan(&from, &to, &mut |key, value| {
        digest.add(key, value);
        ControlFlow::Continue(())
    });
    digest.finish()
}

/// Writes a group's state to a file. It is on its way to a peer and promised to nobody, so it is not synced: all of it at
/// once would hold up every sync of the log.
pub(crate) fn write(
    view: &StateView<'_>,
    group: GroupId,
    files: &dyn Files,
    file: &Path,
) -> Result<Header, StoreError> {
    const DOING: &str = "writing a snapshot";
    let header = Header { group: group.0, applied: view.applied(group)?, membership: view.membership(group)? };
    let target = files.create(file).map_err(StoreError::io(DOING))?;
    let mut out =
        Writer { out: BufWriter::with_capacity(BLOCK_BYTES, target), block: Vec::new(), stats: Stats::default() };
    out.header(&header).map_err(StoreError::io(DOING))?;
    let (from, to) = engine_range(group);
    let mut result = Ok(());
    view.scan(&from, &to, &mut |key, value| {
        result = out.row(key, value);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    result.and_then(|()| out.finish()).map_err(StoreError::io(DOING))?;
    Ok(header)
}

/// Writes these rows, whatever they are, in whole blocks of so many.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn write_rows(header: &Header, rows: &[(Vec<u8>, Vec<u8>)], per_block: usize, file: &Path) {
    let target: Box<dyn FileWrite> = Box::new(std::fs::File::create(file).expect("a file"));
    let mut out = Writer { out: BufWriter::new(target), block: Vec::new(), stats: Stats::default() };
    out.header(header).expect("a header");
    for part in rows.chunks(per_block) {
        part.iter().try_for_each(|(key, value)| out.row(key, value)).expect("rows");
        if !out.block.is_empty() {
            out.close_block().expect("a block");
        }
    }
    out.finish().expect("a footer");
}

#[derive(Default)]
struct Stats {
    blocks: u64,
    rows: u64,
    bytes: u64,
    digest: Digest,
}

impl Stats {
    fn footer(&self) -> [u8; 36] {
        let mut out = [0; 36];
        let numbers = [self.blocks, self.rows, self.bytes, self.digest.finish()];
        for (place, number) in out[4..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out
    }
}

struct Writer {
    out: BufWriter<Box<dyn FileWrite>>,
    block: Vec<u8>,
    stats: Stats,
}

impl Writer {
    fn header(&mut self, header: &Header) -> std::io::Result<()> {
        let body = codec::encode(header);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        let crc = crc32fast::hash(&bytes);
        self.out.write_all(&bytes)?;
        self.out.write_all(&crc.to_le_bytes())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.stats.rows += 1;
        self.stats.digest.add(key, value);
        if self.block.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> std::io::Result<()> {
        self.out.write_all(&(self.block.len() as u32).to_le_bytes())?;
        self.out.write_all(&crc32fast::hash(&self.block).to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.stats.blocks += 1;
        self.stats.bytes += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        let footer = self.stats.footer();
        self.out.write_all(&footer)?;
        self.out.write_all(&crc32fast::hash(&footer).to_le_bytes())?;
        self.out.into_inner()?.flush()
    }
}

/// Reads a snapshot, checking everything on the way: the footer is reached only if every block was right.
pub(crate) struct Reader<'a> {
    file: &'a Path,
    /// No length in it can be right that is larger.
    file_bytes: u64,
    input: BufReader<Box<dyn FileRead>>,
    pub header: Header,
    stats: Stats,
    last_key: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// `CODA4107` naming what is wrong, `CODA4106` when it cannot be read.
    pub fn open(files: &dyn Files, file: &'a Path) -> Result<Self, StoreError> {
        let input = files.open(file).map_err(StoreError::io("opening a snapshot"))?;
        let file_bytes = input.size().map_err(StoreError::io("opening a snapshot"))?;
        let mut input = BufReader::with_capacity(BLOCK_BYTES, input);
        let corrupt = |why: &str| corrupt(file, "header", why);
        let mut bytes = vec![0; 16];
        input.read_exact(&mut bytes).map_err(|_| corrupt("it is cut short"))?;
        if &bytes[..8] != MAGIC {
            return Err(corrupt("not a Coda snapshot"));
        }
        let version = u32_at(&bytes, 8);
        if version != VERSION {
            return Err(corrupt(&format!("unknown version {version}; this binary understands {VERSION}")));
        }
        let length = u32_at(&bytes, 12) as usize;
        if length > HEADER_BYTES_MAX || length as u64 > file_bytes {
            return Err(corrupt("impossible length"));
        }
        bytes.resize(16 + length + 4, 0);
        input.read_exact(&mut bytes[16..]).map_err(|_| corrupt("it is cut short"))?;
        if crc32fast::hash(&bytes[..16 + length]) != u32_at(&bytes, 16 + length) {
            return Err(corrupt("wrong checksum"));
        }
        let header = codec::decode("snapshot header", &bytes[16..16 + length]).map_err(|error| corrupt(&error.why))?;
        Ok(Self { file, file_bytes, input, header, stats: Stats::default(), last_key: Vec::new() })
    }

    /// Calls `row` with every row; checks the footer at the end.
    ///
    /// # Errors
    /// `CODA4107` naming the bad block, or what `row` returned.
    pub fn for_each(
        mut self,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<Header, StoreError> {
        let mut payload = Vec::new();
        while self.next_block(&mut payload)? {
            self.rows_of(&payload, &mut row)?;
        }
        Ok(self.header)
    }

    fn next_block(&mut self, payload: &mut Vec<u8>) -> Result<bool, StoreError> {
        let at = format!("block {}", self.stats.blocks);
        let mut head = [0; 4];
        self.input.read_exact(&mut head).map_err(|_| corrupt(self.file, &at, "the file is cut short"))?;
        let length = u32::from_le_bytes(head) as usize;
        if length == 0 {
            return self.check_footer().map(|()| false);
        }
        if length > BLOCK_BYTES_MAX || length as u64 > self.file_bytes {
            return Err(corrupt(self.file, &at, "impossible length"));
        }
        self.input.read_exact(&mut head).map_err(|_| corrupt(self.file, &at, "the file is cut short"))?;
        payload.resize(length, 0);
        self.input.read_exact(payload).map_err(|_| corrupt(self.file, &at, "the file is cut short"))?;
        if crc32fast::hash(payload) != u32::from_le_bytes(head) {
            return Err(corrupt(self.file, &at, "wrong checksum"));
        }
        self.stats.blocks += 1;
        self.stats.bytes += length as u64;
        Ok(true)
    }

    fn rows_of(
        &mut self,
        mut payload: &[u8],
        row: &mut impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let at = format!("block {}", self.stats.blocks - 1);
        let (from, to) = engine_range(GroupId(self.header.group));
        while !payload.is_empty() {
            let lengths = payload.split_at_checked(8).and_then(|(lengths, rest)| {
                let (key, rest) = rest.split_at_checked(u32_at(lengths, 0) as usize)?;
                let (value, rest) = rest.split_at_checked(u32_at(lengths, 4) as usize)?;
                Some((key, value, rest))
            });
            let (key, value, rest) = lengths.ok_or_else(|| corrupt(self.file, &at, "a row is cut short"))?;
            let in_order = self.last_key.as_slice() < key && *from <= *key && *key < *to;
            if !in_order {
                return Err(corrupt(self.file, &at, "rows are out of order or of another group"));
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
            self.stats.rows += 1;
            self.stats.digest.add(key, value);
            row(key, value)?;
            payload = rest;
        }
        Ok(())
    }

    fn check_footer(&mut self) -> Result<(), StoreError> {
        let mut footer = [0; 40];
        self.input.read_exact(&mut footer[4..]).map_err(|_| corrupt(self.file, "footer", "it is cut short"))?;
        if crc32fast::hash(&footer[..36]) != u32_at(&footer, 36) {
            return Err(corrupt(self.file, "footer", "wrong checksum"));
        }
        if footer[..36] != self.stats.footer() {
            return Err(corrupt(self.file, "footer", "blocks are missing"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ => Err(corrupt(self.file, "footer", "bytes behind the end")),
        }
    }
}

fn corrupt(file: &Path, at: &str, why: &str) -> StoreError {
    StoreError::CorruptSnapshot { file: file.to_owned(), at: at.into(), why: why.into() }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
