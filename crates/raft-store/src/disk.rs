//! What is expected of the disk, and how it is: enough room for what must still be written, and an answer in time.
//!
//! [`Judge`] decides from what was seen; who looks, and when, is `disk_watch`. What groups do when it hangs is `hung`.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coda_protocol::ids::Millis;
use coda_protocol::operate::DiskReport;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::sync_stats::SyncStats;

/// Kept free unless the options say otherwise: room for what the node must write to get rid of what it has, such as
/// compactions, and for the log of others that goes on.
pub const RESERVE_BYTES_MAX: u64 = 512 << 20;
/// Of a small file system, this much of it is enough.
pub const RESERVE_PERCENT: u64 = 5;
/// Once full, a disk is good again only with this much of the reserve free above it: else every deletion lets in a few
/// writes, and refuses the next.
pub const RESERVE_HYSTERESIS_PERCENT: u64 = 25;
/// With less than this part of the reserve free, a node takes no entries from leaders either.
pub const DIRE_PART: u64 = 2;
/// A write or sync that takes longer hangs, unless the options say otherwise.
pub const HANG_AFTER: Duration = Duration::from_secs(2);
/// A disk that hung is good again once nothing has waited for it, for this long, longer than a part of what it may take.
pub const RECOVERED_AFTER: Duration = Duration::from_secs(1);
/// Which part: a disk that answers just in time has not recovered.
pub const RECOVERED_PART: u32 = 4;
/// Between two looks at the disk, unless the options say otherwise.
pub const CHECK_EVERY: Duration = Duration::from_millis(500);

/// A process that looks later than it wanted to, by this part of what hangs, has stood still; but not by less than this.
pub const STOOD_STILL_PART: u32 = 2;
pub const STOOD_STILL_MIN: Duration = Duration::from_millis(250);

/// What is expected of the disk.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Writes are to be refused while less than this is free. By default [`RESERVE_BYTES_MAX`], or [`RESERVE_PERCENT`] of
    /// the file system where that is less.
    pub reserve_bytes: Option<u64>,
    /// A write or sync that takes longer hangs.
    pub hang_after: Duration,
    /// Between two looks at the disk.
    pub check_every: Duration,
    /// Who knows how much is free.
    pub probe: Arc<dyn DiskProbe>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self { reserve_bytes: None, hang_after: HANG_AFTER, check_every: CHECK_EVERY, probe: Arc::new(FileSystem) }
    }
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// What this process may still use.
    pub free_bytes: u64,
}

/// Tells how much is free where a folder lies. Blocks, for as long as the disk does.
pub trait DiskProbe: Debug + Send + Sync + 'static {
    /// # Errors
    /// When the file system does not say.
    fn space(&self, dir: &Path) -> io::Result<Space>;

    /// What all files in a folder and those within it take. What vanishes meanwhile is not there.
    fn data_bytes(&self, dir: &Path) -> u64 {
        folder_bytes(dir)
    }
}

/// Asks the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

impl DiskProbe for FileSystem {
    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { total_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }
}

/// How a node's disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskState {
    #[default]
    Good,
    /// Less is free than is kept in reserve, or was, and little more is by now.
    Full { free_bytes: u64, reserve_bytes: u64 },
    /// It has been asked for something, and does not answer.
    Hung { since: Instant },
}

impl DiskState {
    /// Whether clients' writes are to be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether not even others' entries may be taken: leaders refuse writes for their own disks only.
    #[must_use]
    pub fn is_dire(&self) -> bool {
        matches!(self, Self::Full { free_bytes, reserve_bytes } if *free_bytes < reserve_bytes / DIRE_PART)
    }
}

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub now: Instant,
    /// As of the last time that the file system said so.
    pub space: Option<Space>,
    /// Since when the disk has owed an answer, if it owes one.
    pub waiting_since: Option<Instant>,
}

/// Decides how the disk is.
///
/// A process that has stood still, stopped by somebody or without a turn, has not looked for longer than it wanted to. Its
/// disk may have answered long ago, and nobody was there to hear it: what it owes then counts from the next look.
pub(crate) struct Judge {
    reserve_bytes: Option<u64>,
    hang_after: Duration,
    stood_still_after: Duration,
    full: bool,
    hung: Option<Hung>,
    looked: Option<Instant>,
    stood_still_until: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Hung {
    since: Instant,
    /// When something last waited for too long.
    last: Instant,
}

impl Judge {
    pub fn new(options: &DiskOptions) -> Self {
        let DiskOptions { reserve_bytes, hang_after, check_every, .. } = *options;
        Self {
            reserve_bytes,
            hang_after,
            stood_still_after: check_every + (hang_after / STOOD_STILL_PART).max(STOOD_STILL_MIN),
            full: false,
            hung: None,
            looked: None,
            stood_still_until: None,
        }
    }

    pub fn on(&mut self, seen: Seen) -> DiskState {
        let full = self.fills(seen.space);
        let seen = self.excuse(seen);
        match (self.hangs(&seen), full) {
            // Whoever hangs has more to say about its free space later.
            (Some(since), _) => DiskState::Hung { since },
            (None, Some(full)) => full,
            (None, None) => DiskState::Good,
        }
    }

    fn fills(&mut self, space: Option<Space>) -> Option<DiskState> {
        let space = space?;
        let reserve_bytes = reserve_bytes(self.reserve_bytes, space);
        let hysteresis = if self.full { reserve_bytes / 100 * RESERVE_HYSTERESIS_PERCENT } else { 0 };
        self.full = space.free_bytes < reserve_bytes.saturating_add(hysteresis);
        self.full.then_some(DiskState::Full { free_bytes: space.free_bytes, reserve_bytes })
    }

    fn excuse(&mut self, seen: Seen) -> Seen {
        let before = self.looked.replace(seen.now);
        if before.is_some_and(|before| seen.now.saturating_duration_since(before) >= self.stood_still_after) {
            self.stood_still_until = Some(seen.now);
            // Nor has it heard that the disk is well again.
            self.hung = self.hung.map(|hung| Hung { last: seen.now, ..hung });
        }
        let owed_since = |since: Instant| self.stood_still_until.map_or(since, |until| since.max(until));
        Seen { waiting_since: seen.waiting_since.map(owed_since), ..seen }
    }

    fn hangs(&mut self, seen: &Seen) -> Option<Instant> {
        let waits_longer =
            |than: Duration| seen.waiting_since.filter(|since| seen.now.saturating_duration_since(*since) >= than);
        self.hung = match self.hung {
            None => waits_longer(self.hang_after).map(|since| Hung { since, last: seen.now }),
            Some(hung) if waits_longer(self.hang_after / RECOVERED_PART).is_some() => {
                Some(Hung { last: seen.now, ..hung })
            }
            Some(hung) => Some(hung).filter(|hung| seen.now.saturating_duration_since(hung.last) < RECOVERED_AFTER),
        };
        self.hung.map(|hung| hung.since)
    }

    /// When to look again: after the usual time, or when what is waited for hangs.
    pub fn next_look(&self, seen: &Seen, check_every: Duration) -> Duration {
        let due = seen.waiting_since.map(|since| self.hang_after.saturating_sub(seen.now.duration_since(since)));
        due.filter(|due| !due.is_zero()).map_or(check_every, |due| due.min(check_every))
    }
}

/// What is to be kept free.
pub(crate) fn reserve_bytes(wanted: Option<u64>, space: Space) -> u64 {
    wanted.unwrap_or_else(|| RESERVE_BYTES_MAX.min(space.total_bytes / 100 * RESERVE_PERCENT))
}

/// What a node knows of its disk. Holds no database: the watch may outlive that.
pub(crate) struct Disk {
    dir: PathBuf,
    options: DiskOptions,
    syncs: Arc<SyncStats>,
    state: watch::Sender<DiskState>,
    looked: Mutex<Looked>,
}

/// What was read from the file system last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    pub space: Option<Space>,
    /// It did not say.
    pub failed: bool,
    pub data_bytes: u64,
}

impl Disk {
    pub fn new(dir: &Path, options: DiskOptions) -> Self {
        Self {
            dir: dir.to_owned(),
            options,
            syncs: Arc::new(SyncStats::new()),
            state: watch::Sender::new(DiskState::Good),
            looked: Mutex::new(Looked::default()),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    pub fn syncs(&self) -> &Arc<SyncStats> {
        &self.syncs
    }

    pub fn looked(&self) -> Looked {
        *self.looked.lock()
    }

    pub fn set_looked(&self, looked: Looked) {
        *self.looked.lock() = looked;
    }

    pub fn state(&self) -> watch::Receiver<DiskState> {
        self.state.subscribe()
    }

    /// Publishes how the disk is, and tells how it was, if that has changed.
    pub fn publish(&self, now: DiskState) -> Option<DiskState> {
        let mut before = None;
        self.state.send_if_modified(|state| {
            before = (*state != now).then(|| std::mem::replace(state, now));
            before.is_some()
        });
        before
    }

    pub fn report(&self) -> DiskReport {
        let Looked { space, data_bytes, .. } = self.looked();
        let Space { total_bytes, free_bytes } = space.unwrap_or_default();
        let state = *self.state.borrow();
        let syncs = self.syncs.summary();
        let late = |since: Instant| Some(since.elapsed()).filter(|late| *late >= self.options.hang_after);
        let sync_hangs = match state {
            DiskState::Hung { since } => Some(since.elapsed()),
            DiskState::Good | DiskState::Full { .. } => self.syncs.under_way().and_then(late),
        };
        DiskReport {
            total_bytes,
            free_bytes,
            reserve_bytes: space.map_or(0, |space| reserve_bytes(self.options.reserve_bytes, space)),
            data_bytes,
            refuses_writes: matches!(state, DiskState::Full { .. }),
            syncs: syncs.count,
            sync_p50_us: syncs.p50_us,
            sync_p99_us: syncs.p99_us,
            sync_max_us: syncs.max_us,
            sync_hangs: sync_hangs.map(|late| Millis(late.as_millis() as u64)),
        }
    }
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().filter_map(|entry| {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() { Some(folder_bytes(&entry.path())) } else { Some(entry.metadata().ok()?.len()) }
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        judge: Judge,
        start: Instant,
    }

    impl World {
        fn new(options: &DiskOptions) -> Self {
            Self { judge: Judge::new(options), start: Instant::now() }
        }

        fn free(&mut self, free_bytes: u64) -> DiskState {
            let space = Some(Space { total_bytes: 100_000, free_bytes });
            self.judge.on(Seen { now: self.start, space, waiting_since: None })
        }

        /// At a time, with something having waited for so long.
        fn waits(&mut self, at: Duration, waited: Option<Duration>) -> DiskState {
            let now = self.start + at;
            self.judge.on(Seen { now, space: None, waiting_since: waited.map(|waited| now - waited) })
        }
    }

    #[test]
    fn a_full_disk_is_good_again_only_well_above_the_reserve() {
        let mut w = World::new(&DiskOptions { reserve_bytes: Some(1_000), ..DiskOptions::default() });
        let full = |free_bytes| DiskState::Full { free_bytes, reserve_bytes: 1_000 };
        assert_eq!(w.free(1_000), DiskState::Good);
        assert_eq!(w.free(999), full(999));
        assert_eq!(w.free(1_249), full(1_249), "a little more is not enough");
        assert_eq!(w.free(1_250), DiskState::Good);
        assert_eq!(w.free(1_001), DiskState::Good, "and good for as long as the reserve is there");
        let mut w = World::new(&DiskOptions { reserve_bytes: Some(0), ..DiskOptions::default() });
        assert_eq!(w.free(0), DiskState::Good, "no reserve is wanted");
        let mut w = World::new(&DiskOptions::default());
        assert_eq!(w.free(4_999), DiskState::Full { free_bytes: 4_999, reserve_bytes: 5_000 }, "a part of a small one");
        assert_eq!(reserve_bytes(None, Space { total_bytes: 1 << 50, free_bytes: 0 }), RESERVE_BYTES_MAX);
    }

    #[test]
    fn a_hung_disk_is_good_again_once_it_has_answered_quickly_for_a_while() {
        let mut w = World::new(&DiskOptions::default());
        let since = w.start;
        assert_eq!(w.waits(SECOND, Some(SECOND)), DiskState::Good);
        assert_eq!(w.waits(2 * SECOND, Some(2 * SECOND)), DiskState::Hung { since });
        assert_eq!(w.waits(9 * SECOND, Some(9 * SECOND)), DiskState::Hung { since });
        // It answers, and takes long for the next one.
        assert_eq!(w.waits(9 * SECOND + SECOND / 2, Some(SECOND / 2)), DiskState::Hung { since });
        assert_eq!(w.waits(10 * SECOND, None), DiskState::Hung { since });
        assert_eq!(w.waits(11 * SECOND, Some(SECOND / 10)), DiskState::Good);
        assert_eq!(w.waits(14 * SECOND, Some(SECOND)), DiskState::Good);
    }

    #[test]
    fn a_process_that_stood_still_does_not_blame_its_disk() {
        let mut w = World::new(&DiskOptions::default());
        assert_eq!(w.waits(SECOND, Some(SECOND / 10)), DiskState::Good);
        let still = 7 * SECOND;
        assert_eq!(w.waits(still, Some(still - SECOND)), DiskState::Good, "nobody was there to hear it");
        assert_eq!(w.waits(still + SECOND, Some(still)), DiskState::Good);
        let since = w.start + still;
        assert_eq!(w.waits(still + 2 * SECOND, Some(still + SECOND)), DiskState::Hung { since }, "but it does hang");
        assert_eq!(w.waits(20 * SECOND, None), DiskState::Hung { since }, "until it has answered for a while");
        assert_eq!(w.waits(21 * SECOND, None), DiskState::Good);
    }

    #[test]
    fn what_will_hang_is_looked_at_when_it_does() {
        let w = World::new(&DiskOptions::default());
        let next = |waited: Option<Duration>| {
            let now = w.start + 10 * SECOND;
            let seen = Seen { now, space: None, waiting_since: waited.map(|waited| now - waited) };
            w.judge.next_look(&seen, CHECK_EVERY)
        };
        assert_eq!(next(None), CHECK_EVERY);
        assert_eq!(next(Some(SECOND)), CHECK_EVERY);
        assert_eq!(next(Some(2 * SECOND - SECOND / 10)), SECOND / 10);
        assert_eq!(next(Some(3 * SECOND)), CHECK_EVERY, "it hangs already");
    }

    #[test]
    fn the_operating_system_knows_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let space = FileSystem.space(dir.path()).unwrap();
        assert!(space.total_bytes >= space.free_bytes && space.total_bytes > 0, "{space:?}");
        assert!(FileSystem.space(&dir.path().join("missing")).is_err());
        fs::create_dir(dir.path().join("within")).unwrap();
        fs::write(dir.path().join("a"), [0; 10]).unwrap();
        fs::write(dir.path().join("within/b"), [0; 7]).unwrap();
        assert_eq!(folder_bytes(dir.path()), 17);
    }
}
