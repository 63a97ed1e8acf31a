//! RocksDB as we use it: three column families, bounded memory, and the state's own WAL switched off.
//!
//! The Raft log is the state's WAL. The applied position is written in the same batch and the same column family as
//! the state, so that whatever flush survives a crash, both survive together.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use coda_engine::kv::Visit;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, LogLevel, LruCacheOptions, Options, Range, ReadOptions, Snapshot, WriteBatch,
    WriteOptions,
};

use crate::error::StoreError;
use crate::storage::{Batch, Durability, Family, Refused, Rows, Storage};
use crate::wal::{self, Damage};
use crate::witness::Witness;

/// A row of the family that nothing else is in.
const SEAL: &[u8] = b"sealed";
const LOG: &str = "log";
const STATE: &str = "state";
const META: &str = "meta";

const MIB: usize = 1 << 20;
const BLOCK_CACHE_BYTES: usize = 64 * MIB;
/// All write buffers of the node together; the largest part of its memory.
const WRITE_BUFFERS_BYTES: usize = 192 * MIB;
const LOG_WRITE_BUFFER_BYTES: usize = 64 * MIB;
const STATE_WRITE_BUFFER_BYTES: usize = 32 * MIB;
/// What a restart may have to read again, at most.
const WAL_BYTES_MAX: u64 = 256 * MIB as u64;
/// Larger values leave the LSM tree, so that compactions do not move them.
const BLOB_BYTES_MIN: u64 = 1_024;

/// An open RocksDB, and the options of everything that is done often: each would be an allocation.
pub(crate) struct Rocks {
    db: DB,
    /// The node's folder.
    dir: PathBuf,
    /// What was there at the start.
    opened: Witness,
    reads: ReadOptions,
    logged: WriteOptions,
    synced: WriteOptions,
    unlogged: WriteOptions,
}

impl Rocks {
    /// Opens or creates the database in a node's folder.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("db");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(2);
        options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        // A torn tail of the WAL is what a crash leaves, and all that it may be: see `wal`. Whole WAL files that go missing
        // are noticed.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_open_files(512);
        options.set_bytes_per_sync(MIB as u64);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 * MIB);
        options.set_log_level(LogLevel::Warn);

        let witness = Witness::read(dir)?;
        check_log(dir, &path, witness)?;
        check_families(&options, dir, &path)?;
        let cache = block_cache();
        let families = [
            ColumnFamilyDescriptor::new("default", Options::default()),
            ColumnFamilyDescriptor::new(LOG, log_options(&cache)),
            ColumnFamilyDescriptor::new(STATE, state_options(&cache)),
            ColumnFamilyDescriptor::new(META, meta_options(&cache)),
        ];
        // Those that are replayed now; RocksDB has made what was in them durable when it has opened.
        let judged = wal::newest(&path).map_err(StoreError::io("opening"))?;
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(|error| open_error(dir, error))?;
        let live = wal::newest(&path).map_err(StoreError::io("opening"))?;
        let opened = Witness { sequence: db.latest_sequence_number(), judged, live };
        if let Some(before) = witness.filter(|before| opened.sequence < before.sequence) {
            let why = format!("it had come to write {}, and ends at {}", before.sequence, opened.sequence);
            return Err(StoreError::Amnesia { dir: dir.to_owned(), why });
        }
        // What is written down to be there must be.
        fs::File::open(&path).and_then(|folder| folder.sync_all()).map_err(StoreError::io("opening"))?;
        opened.write(dir)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        // The overlay's writes come in key order: each insert starts where the one before it ended.
        unlogged.set_memtable_insert_hint_per_batch(true);
        let dir = dir.to_owned();
        Ok(Self { db, dir, opened, reads: ReadOptions::default(), logged: WriteOptions::default(), synced, unlogged })
    }

    /// Makes all that was written durable, and writes down how far it has come.
    fn seal(&self) -> Result<(), StoreError> {
        self.flush().and_then(|()| self.sync()).map_err(StoreError::refused("closing"))?;
        // A write that changes nothing has a number too, and neither a file nor the log may remember it: the last number is
        // that of a record.
        self.db.put_opt(SEAL, [], &self.synced).map_err(refused).map_err(StoreError::refused("closing"))?;
        Witness { sequence: self.db.latest_sequence_number(), ..self.opened }.write(&self.dir)
    }

    fn families(&self) -> Families<'_> {
        let family = |name| self.db.cf_handle(name).expect("opened with all column families");
        Families { log: family(LOG), state: family(STATE), meta: family(META) }
    }
}

#[derive(Clone, Copy)]
struct Families<'a> {
    log: &'a ColumnFamily,
    state: &'a ColumnFamily,
    meta: &'a ColumnFamily,
}

impl<'a> Families<'a> {
    fn get(&self, family: Family) -> &'a ColumnFamily {
        match family {
            Family::Log => self.log,
            Family::State => self.state,
            Family::Meta => self.meta,
        }
    }
}

fn refused(error: rocksdb::Error) -> Refused {
    Refused(error.into_string())
}

impl Storage for Rocks {
    fn now(&self) -> Box<dyn Rows + '_> {
        Box::new(RocksRows { rocks: self, families: self.families(), moment: None })
    }

    fn moment(&self) -> Box<dyn Rows + '_> {
        let snapshot = self.db.snapshot();
        let mut reads = ReadOptions::default();
        reads.set_snapshot(&snapshot);
        Box::new(RocksRows { rocks: self, families: self.families(), moment: Some(Moment { reads, snapshot }) })
    }

    fn batch(&self) -> Box<dyn Batch + '_> {
        Box::new(RocksBatch { rocks: self, families: self.families(), writes: WriteBatch::default() })
    }

    fn sync(&self) -> Result<(), Refused> {
        self.db.flush_wal(true).map_err(refused)
    }

    fn flush(&self) -> Result<(), Refused> {
        self.db.flush_cf(self.families().state).map_err(refused)
    }

    /// Asked at a start, when RocksDB has just written to files whatever it found in its WAL.
    fn log_bytes(&self, from: &[u8], to: &[u8]) -> u64 {
        self.db.get_approximate_sizes_cf(self.families().log, &[Range::new(from, to)]).into_iter().sum()
    }

    fn quiesce(&self) {
        // Without it, less is known to be there at the next start, and nothing else.
        if let Err(error) = self.seal() {
            tracing::warn!(code = error.code(), %error, "how far the storage has come is not written down");
        }
        self.db.cancel_all_background_work(true);
    }

    #[cfg(test)]
    fn rocks(&self) -> Option<&DB> {
        Some(&self.db)
    }
}

struct Moment<'a> {
    // Dropped first: it points to the other.
    reads: ReadOptions,
    snapshot: Snapshot<'a>,
}

struct RocksRows<'a> {
    rocks: &'a Rocks,
    families: Families<'a>,
    moment: Option<Moment<'a>>,
}

impl RocksRows<'_> {
    /// An iterator that never leaves the range, whatever tombstones lie beyond.
    fn iterator(&self, family: Family, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        if let Some(moment) = &self.moment {
            options.set_snapshot(&moment.snapshot);
        }
        self.rocks.db.raw_iterator_cf_opt(self.families.get(family), options)
    }
}

impl Rows for RocksRows<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Refused> {
        let reads = self.moment.as_ref().map_or(&self.rocks.reads, |moment| &moment.reads);
        let row = self.rocks.db.get_pinned_cf_opt(self.families.get(family), key, reads).map_err(refused)?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), Refused> {
        let mut rows = self.iterator(family, from, to);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(refused)
    }

    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, Refused> {
        let mut rows = self.iterator(family, from, to);
        rows.seek_to_last();
        rows.status().map_err(refused)?;
        Ok(rows.item().map(|(key, row)| (key.to_vec(), Bytes::copy_from_slice(row))))
    }
}

struct RocksBatch<'a> {
    rocks: &'a Rocks,
    families: Families<'a>,
    writes: WriteBatch,
}

impl Batch for RocksBatch<'_> {
    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.writes.put_cf(self.families.get(family), key, value);
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.writes.delete_cf(self.families.get(family), key);
    }

    fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.writes.delete_range_cf(self.families.get(family), from, to);
    }

    fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn bytes(&self) -> usize {
        self.writes.size_in_bytes()
    }

    fn write(self: Box<Self>, durability: Durability) -> Result<(), Refused> {
        let Rocks { db, logged, synced, unlogged, .. } = self.rocks;
        let options = match durability {
            Durability::Logged => logged,
            Durability::Synced => synced,
            Durability::Unlogged => unlogged,
        };
        db.write_opt(self.writes, options).map_err(refused)
    }
}

/// What RocksDB would pass over: a log that is damaged, and files that are gone, in whose place it would begin anew.
fn check_log(dir: &Path, path: &Path, witness: Option<Witness>) -> Result<(), StoreError> {
    let amnesia = |why: String| StoreError::Amnesia { dir: dir.to_owned(), why };
    if witness.is_some() && !fs::exists(path.join("CURRENT")).map_err(StoreError::io("opening"))? {
        return Err(amnesia(format!("{} is missing", path.join("CURRENT").display())));
    }
    let Witness { judged, live, .. } = witness.unwrap_or_default();
    let newest = wal::newest(path).map_err(StoreError::io("opening"))?;
    if newest < live {
        return Err(amnesia(format!("{} is missing", path.join(format!("{live:06}.log")).display())));
    }
    let checked = wal::check(path, judged).map_err(StoreError::io("opening"))?;
    checked.map_err(|Damage { file, at }| {
        let file = file.display();
        amnesia(format!("{file} is damaged at byte {at}, before what was written to it last"))
    })
}

fn check_families(options: &Options, dir: &Path, path: &Path) -> Result<(), StoreError> {
    if fs::exists(path.join("CURRENT")).map_err(StoreError::io("opening"))? {
        let families = DB::list_cf(options, path).map_err(|error| open_error(dir, error))?;
        let unknown = families.iter().find(|name| !["default", LOG, STATE, META].contains(&name.as_str()));
        if let Some(name) = unknown {
            return Err(StoreError::UnknownFormat {
                dir: dir.to_owned(),
                found: format!("with `{name}`"),
                expected: crate::store::FORMAT_VERSION,
            });
        }
    }
    Ok(())
}

fn open_error(dir: &Path, error: rocksdb::Error) -> StoreError {
    let kind = error.kind();
    let why = error.into_string();
    if why.contains("/LOCK: ") || why.contains("lock hold by current process") {
        return StoreError::InUse { dir: dir.to_owned() };
    }
    match kind {
        rocksdb::ErrorKind::Corruption => StoreError::Corrupt { dir: dir.to_owned(), why },
        _ => StoreError::Io { doing: "opening", why },
    }
}

fn block_cache() -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(BLOCK_CACHE_BYTES);
    // Few shards of a size that blobs fit into.
    options.set_num_shard_bits(2);
    Cache::new_lru_cache_opts(&options)
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In pieces: one filter of a large file would be larger than what a shard of the cache holds, and be read from disk
    // at every lookup.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_pin_top_level_index_and_filter(true);
    table.set_format_version(6);
    table.set_block_size(16 << 10);
    table
}

fn log_options(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(LOG_WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    // Most records are purged before they would reach the lower levels.
    options.set_compression_per_level(&[DBCompressionType::None, DBCompressionType::None, DBCompressionType::Lz4]);
    options.set_block_based_table_factory(&table_options(cache));
    options
}

fn state_options(cache: &Cache) -> Options {
    let mut table = table_options(cache);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    let mut options = Options::default();
    options.set_write_buffer_size(STATE_WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    options.set_blob_compression_type(DBCompressionType::Lz4);
    options.set_enable_blob_gc(true);
    options.set_blob_gc_force_threshold(0.5);
    // A queue deletes from the front of its index: files full of tombstones are compacted early.
    options.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_block_based_table_factory(&table);
    options
}

fn meta_options(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(2 * MIB);
    options.set_block_based_table_factory(&table_options(cache));
    options
}
