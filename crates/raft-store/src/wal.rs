//! RocksDB's own log, looked at before RocksDB replays it: what a crash cut short is told from what was damaged later.
//!
//! RocksDB replays its log up to the first record that is not whole, and drops all that is behind it without a word. After
//! a crash that is right: the last record was being written, and nobody had been told of it. After damage it is amnesia:
//! what is behind the damage was synced, and entries in it were acknowledged, and votes cast.
//!
//! Ours tell which it is. Each record is synced before the next is written, so a crash leaves one record that is not whole,
//! and no whole one behind it. Whole means what RocksDB means: blocks of 32 KiB hold
//! `u32 masked CRC-32C | u16 length | u8 type | payload`, little endian, and large records are split over blocks.
//!
//! What this cannot tell is damage to the very last record of a node that did not stop cleanly: `witness` sees to those
//! that did.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// A batch of writes begins with its sequence number and its count.
const BATCH_BYTES_MIN: usize = 12;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Where the log is damaged.
#[derive(Debug)]
pub(crate) struct Damage {
    pub file: PathBuf,
    pub at: u64,
}

/// The highest number of a file of the log in RocksDB's folder.
pub(crate) fn newest(folder: &Path) -> io::Result<u64> {
    Ok(files(folder)?.last().map_or(0, |(number, _)| *number))
}

/// Looks at all files of the log with a number above `judged`: those up to it were replayed by an earlier start, and are
/// not needed any more.
pub(crate) fn check(folder: &Path, judged: u64) -> io::Result<Result<(), Damage>> {
    let mut scan = Scan::default();
    for (_, file) in files(folder)?.into_iter().filter(|(number, _)| *number > judged) {
        if let Err(damage) = scan.file(&file)? {
            return Ok(Err(damage));
        }
    }
    Ok(Ok(()))
}

/// By number, which is by age.
fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    at: u64,
}

/// What is known on the way through the files.
#[derive(Default)]
struct Scan {
    /// The first record that is not whole: nothing whole may follow it.
    broken: Option<Place>,
    /// A record that has begun and not ended.
    open: Option<Place>,
}

impl Scan {
    fn file(&mut self, path: &Path) -> io::Result<Result<(), Damage>> {
        let mut file = File::open(path)?;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let mut base = 0;
        loop {
            block.clear();
            let length = file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
            if length == 0 {
                break;
            }
            if let Err(damage) = self.block(&block, path, base) {
                return Ok(Err(damage));
            }
            base += length as u64;
        }
        // No record goes on in the next file.
        if let Some(open) = self.open.take() {
            self.broken.get_or_insert(open);
        }
        Ok(Ok(()))
    }

    fn block(&mut self, block: &[u8], path: &Path, base: u64) -> Result<(), Damage> {
        let mut at = 0;
        while at + HEADER_BYTES <= block.len() {
            let place = || Place { file: path.to_owned(), at: base + at as u64 };
            let Some((kind, length)) = whole(&block[at..]) else {
                self.broken(place());
                // Lengths in there mean nothing: whatever is whole behind it is looked for byte by byte.
                let Some(next) = (at + 1..block.len()).find(|next| begins(&block[*next..])) else { return Ok(()) };
                at = next;
                continue;
            };
            match kind {
                FULL | FIRST => {
                    if let Some(Place { file, at }) = self.broken.take().or(self.open.take()) {
                        return Err(Damage { file, at });
                    }
                    self.open = (kind == FIRST).then(place);
                }
                // What is left of a record whose beginning is not whole.
                MIDDLE | LAST if self.open.is_none() => self.broken(place()),
                LAST => self.open = None,
                _ => {}
            }
            at += HEADER_BYTES + length;
        }
        // The end of a full block is too short for another record; that of the file may be the beginning of one.
        if block.len() < BLOCK_BYTES && at < block.len() {
            self.broken(Place { file: path.to_owned(), at: base + at as u64 });
        }
        Ok(())
    }

    fn broken(&mut self, place: Place) {
        let first = self.open.take().unwrap_or(place);
        self.broken.get_or_insert(first);
    }
}

/// The kind and the length of the whole record that these bytes begin with.
fn whole(bytes: &[u8]) -> Option<(u8, usize)> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let (crc, length) = (u32::from_le_bytes([header[0], header[1], header[2], header[3]]), [header[4], header[5]]);
    let length = usize::from(u16::from_le_bytes(length));
    // What was never written is zeros.
    if header[6] == 0 && length == 0 {
        return None;
    }
    let checked = bytes.get(6..HEADER_BYTES + length)?;
    (masked(crc32c::crc32c(checked)) == crc).then_some((header[6], length))
}

/// Whether a record that is whole, or the whole first part of one, begins here.
fn begins(bytes: &[u8]) -> bool {
    // Most bytes are neither, and need no checksum.
    matches!(bytes.get(6), Some(&(FULL | FIRST))) && whole(bytes).is_some_and(|(_, length)| length >= BATCH_BYTES_MIN)
}

/// As RocksDB stores checksums.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of records of these lengths, as RocksDB writes them; where each begins, and where nobody reads.
    fn log(lengths: &[usize]) -> (Vec<u8>, Vec<usize>, Vec<usize>) {
        let (mut out, mut starts, mut padding) = (Vec::new(), Vec::new(), Vec::new());
        for (n, length) in lengths.iter().enumerate() {
            let payload: Vec<u8> = (0..*length).map(|i| (i * 7 + n) as u8).collect();
            let mut left = &payload[..];
            let mut begun = false;
            starts.push(out.len());
            loop {
                let room = BLOCK_BYTES - out.len() % BLOCK_BYTES;
                if room < HEADER_BYTES {
                    padding.extend(out.len()..out.len() + room);
                    out.extend(std::iter::repeat_n(0, room));
                    continue;
                }
                let (part, rest) = left.split_at(left.len().min(room - HEADER_BYTES));
                let kind = match (begun, rest.is_empty()) {
                    (false, true) => FULL,
                    (false, false) => FIRST,
                    (true, false) => MIDDLE,
                    (true, true) => LAST,
                };
                let checked = [&[kind], part].concat();
                out.extend_from_slice(&masked(crc32c::crc32c(&checked)).to_le_bytes());
                out.extend_from_slice(&(part.len() as u16).to_le_bytes());
                out.extend_from_slice(&checked);
                (left, begun) = (rest, true);
                if left.is_empty() {
                    break;
                }
            }
        }
        (out, starts, padding)
    }

    fn checked(files: &[&[u8]], judged: u64) -> Result<(), (String, u64)> {
        let dir = tempfile::tempdir().unwrap();
        for (i, bytes) in files.iter().enumerate() {
            fs::write(dir.path().join(format!("{:06}.log", i + 8)), bytes).unwrap();
        }
        let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
        check(dir.path(), judged).unwrap().map_err(|damage| (name(&damage.file), damage.at))
    }

    const LENGTHS: [usize; 6] = [40, 100_000, 12, 30_000, 70_000, 500];

    #[test]
    fn a_log_that_is_whole_is_and_so_is_none() {
        assert_eq!(checked(&[], 0), Ok(()));
        let (bytes, ..) = log(&LENGTHS);
        assert_eq!(checked(&[&bytes, &[], &bytes], 0), Ok(()));
    }

    #[test]
    fn however_the_last_record_was_cut_short_it_is_no_damage() {
        for lengths in [&LENGTHS[..], &LENGTHS[..2], &LENGTHS[..5]] {
            let (bytes, starts, _) = log(lengths);
            let last = *starts.last().unwrap();
            for cut in (last..bytes.len()).step_by(97) {
                assert_eq!(checked(&[&bytes[..cut]], 0), Ok(()), "{cut}");
                // Its pages come to the disk in any order, and some never.
                let mut torn = bytes.clone();
                torn[cut..].fill(0);
                assert_eq!(checked(&[&torn], 0), Ok(()), "zeros from {cut}");
                let mut torn = bytes.clone();
                torn[last..cut].fill(0);
                assert_eq!(checked(&[&torn], 0), Ok(()), "zeros up to {cut}");
            }
        }
    }

    #[test]
    fn wherever_another_record_is_damaged_it_is_named() {
        let (bytes, starts, padding) = log(&LENGTHS);
        let last = *starts.last().unwrap();
        for at in (0..last).step_by(61) {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let result = checked(&[&damaged], 0);
                assert!(padding.contains(&at) || result.is_err(), "byte {at} of {}: {result:?}", bytes.len());
                if let Err((file, found)) = result {
                    assert!(file == "000008.log" && found <= at as u64, "{found} for {at}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_cut_short_before_another_one_is_damaged_unless_it_was_judged_before() {
        let (bytes, ..) = log(&LENGTHS);
        let cut = &bytes[..bytes.len() - 1];
        let at = checked(&[cut, &bytes], 0).unwrap_err();
        assert_eq!(at.0, "000008.log");
        assert_eq!(checked(&[cut, &bytes], 8), Ok(()));
        assert_eq!(checked(&[cut, &[]], 0), Ok(()), "nothing was written behind it");
    }
}
