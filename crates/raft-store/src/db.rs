//! RocksDB as we use it: three column families, bounded memory, and the state's own WAL switched off.
//!
//! The Raft log is the state's WAL. The applied position is written in the same batch and the same column family as
//! the state, so that whatever flush survives a crash, both survive together.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, LogLevel, LruCacheOptions, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::error::StoreError;

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

/// An open RocksDB and its folder.
pub struct Db {
    db: DB,
    dir: PathBuf,
}

impl Db {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("db");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(2);
        options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        // A torn tail of the WAL is what a crash leaves. Whole WAL files that go missing are noticed.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_open_files(512);
        options.set_bytes_per_sync(MIB as u64);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 * MIB);
        options.set_log_level(LogLevel::Warn);

        check_families(&options, dir, &path)?;
        let cache = block_cache();
        let families = [
            ColumnFamilyDescriptor::new("default", Options::default()),
            ColumnFamilyDescriptor::new(LOG, log_options(&cache)),
            ColumnFamilyDescriptor::new(STATE, state_options(&cache)),
            ColumnFamilyDescriptor::new(META, meta_options(&cache)),
        ];
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(|error| open_error(dir, error))?;
        Ok(Self { db, dir: dir.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn snapshot_dir(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    pub(crate) fn raw(&self) -> &DB {
        &self.db
    }

    pub(crate) fn log(&self) -> &ColumnFamily {
        self.family(LOG)
    }

    pub(crate) fn state(&self) -> &ColumnFamily {
        self.family(STATE)
    }

    pub(crate) fn meta(&self) -> &ColumnFamily {
        self.family(META)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("opened with all column families")
    }

    pub(crate) fn get_meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.meta(), key).map_err(StoreError::rocks("reading meta"))
    }

    pub(crate) fn put_meta_synced(&self, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.put_cf_opt(self.meta(), key, row, &options).map_err(StoreError::rocks("writing meta"))
    }

    pub(crate) fn delete_meta_synced(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.delete_cf_opt(self.meta(), key, &options).map_err(StoreError::rocks("writing meta"))
    }

    /// Writes to the state without the WAL: durable with the next flush, or again from the log.
    pub(crate) fn write_state(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        // The overlay's writes come in key order: each insert starts where the one before it ended.
        options.set_memtable_insert_hint_per_batch(true);
        self.db.write_opt(batch, &options).map_err(StoreError::rocks("writing state"))
    }

    /// Makes everything applied so far durable. Blocks.
    pub(crate) fn flush_state(&self) -> Result<(), StoreError> {
        self.db.flush_cf(self.state()).map_err(StoreError::rocks("flushing state"))
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        for family in [LOG, STATE, META] {
            let mut rows = self.db.raw_iterator_cf_opt(self.family(family), ReadOptions::default());
            rows.seek_to_first();
            rows.status().map_err(StoreError::rocks("opening"))?;
            if rows.valid() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A folder with families that we do not know comes from the future.
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
