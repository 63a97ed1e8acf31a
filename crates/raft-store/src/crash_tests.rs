//! Crashes at any moment: whatever was acknowledged is there, and the state is what the log says.
//!
//! The power fails: images of the folder are taken under load, with the WAL cut anywhere behind what had been synced.
//! The process is killed: this test binary runs itself and is shot. A failing test prints its seed; `CODA_SEED` sets it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coda_engine::apply::apply;
use coda_engine::entry::Entry;
use coda_engine::kv::MemKv;
use coda_protocol::codec;
use coda_protocol::ids::NodeId;
use openraft::EntryPayload;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::{GROUP, Node, RandomEntries, rows_of, submit};
use crate::group::{Group, GroupOptions};
use crate::log::LogStore;
use crate::rows::decode_record;
use crate::store::StoreOptions;

/// Nodes that live one after the other, each with a history short enough to be replayed for every image of it.
const LIVES: u64 = 5;
const IMAGES_PER_LIFE: u64 = 8;
const KILLS: u64 = 32;

/// Entries by index, as their proposers were told.
type History = BTreeMap<u64, Arc<Entry>>;

fn seed() -> u64 {
    let seed = std::env::var("CODA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("CODA_SEED={seed}");
    seed
}

/// Proposes until the group stops.
async fn load(group: Group, seed: u64, acknowledged: impl Fn(u64, Entry)) {
    let mut random = RandomEntries::new(seed);
    loop {
        let entry = random.next_entry();
        let Ok(committed) = group.propose(entry.clone()).await else { return };
        acknowledged(committed.position.index, entry);
        random.learn(&committed.applied);
    }
}

/// The state must be what all entries in order lead to: those acknowledged, then whatever else is in the log.
fn check(node: &Node, acknowledged: &History, what: &str) {
    let mut entries = acknowledged.clone();
    let log = node.store.log().read(GROUP, 0..u64::MAX, usize::MAX).unwrap();
    let first = log.first().expect("the log of a leader is not empty").0;
    for (index, record) in &log {
        let in_log = match decode_record(GROUP.0, *index, record).unwrap().payload {
            EntryPayload::Normal(proposal) => Some(proposal.entry().clone()),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        if let Some(acknowledged) = acknowledged.get(index) {
            assert_eq!(in_log.as_ref(), Some(&**acknowledged), "{what}: entry {index} is another one");
        }
        entries.extend(in_log.map(|entry| (*index, Arc::new(entry))));
    }
    let last = log.last().expect("not empty").0;
    let lost: Vec<_> = acknowledged.range(last + 1..).map(|(index, _)| *index).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}, the log ends at {last}");
    let indexes = log.iter().map(|(index, _)| *index);
    assert!(indexes.eq(first..=last), "{what}: the log has a hole");

    let mut memory = MemKv::default();
    for (index, entry) in entries {
        apply(&mut memory, GROUP, index, &entry);
    }
    let (rows, applied) = node.group.read(|view, applied| (rows_of(view, GROUP), applied));
    assert_eq!(applied, last, "{what}: not everything is applied");
    assert!(rows == rows_of(&memory, GROUP), "{what}: the state is not what the log says");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_failure_everything_acknowledged_is_there() {
    let seed = seed();
    for life in 0..LIVES {
        one_life(seed.wrapping_add(100 * life)).await;
    }
}

async fn one_life(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let options = GroupOptions { checkpoint_log_bytes: 1 << 20, ..GroupOptions::new(GROUP, NodeId(1)) };
    let node = Node::with(dir.path(), StoreOptions::default(), options.clone()).await;
    let acknowledged = Arc::new(Mutex::new(History::new()));
    for proposer in 0..4 {
        let (group, acknowledged) = (node.group.clone(), acknowledged.clone());
        let store = move |index, entry| drop(acknowledged.lock().insert(index, Arc::new(entry)));
        tokio::spawn(load(group, seed.wrapping_add(proposer), store));
    }
    for number in 0..IMAGES_PER_LIFE {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
        if random.random_bool(0.3) {
            node.group.checkpoint();
        }
        // What is acknowledged by now is behind what the WAL holds by now.
        let before = acknowledged.lock().clone();
        let synced = wal_sizes(&dir.path().join("db"));
        tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
        let image = tempfile::tempdir().unwrap();
        take_image(&node, image.path(), &synced, &mut random);
        let after = acknowledged.lock().clone();

        let what = format!("seed {seed}, image {number}");
        let restarted = Node::with(image.path(), StoreOptions::default(), options.clone()).await;
        // Entries that the log does not hold any more were acknowledged by the time they were let go.
        let purged = restarted.group.status().purged.map_or(0, |purged| purged + 1);
        let mut known = before;
        known.extend(after.range(..purged).map(|(index, entry)| (*index, entry.clone())));
        check(&restarted, &known, &what);
        restarted.group.propose(submit(0..1)).await.unwrap();
        restarted.stop().await;
    }
    node.stop().await;
}

fn wal_sizes(db: &Path) -> BTreeMap<String, u64> {
    let logs = fs::read_dir(db).unwrap().map(Result::unwrap).filter_map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        let size = entry.metadata().ok()?.len();
        name.ends_with(".log").then_some((name, size))
    });
    logs.collect()
}

/// Copies the folder as a power failure would leave it: no memtables, and of the WAL any prefix not shorter than
/// what was synced.
fn take_image(node: &Node, image: &Path, synced: &BTreeMap<String, u64>, random: &mut StdRng) {
    let raw = node.store.db().storage().rocks().expect("no other storage has such files");
    raw.disable_file_deletions().unwrap();
    let from = node.store.dir().join("db");
    // A flush or compaction in the middle would mix two moments: try again.
    loop {
        let _ = fs::remove_dir_all(image.join("db"));
        fs::create_dir_all(image.join("db")).unwrap();
        let before = manifest(&from);
        let copied = fs::read_dir(&from).unwrap().try_for_each(|entry| copy(&entry?.path(), &image.join("db")));
        if copied.is_ok() && manifest(&from) == before {
            break;
        }
    }
    raw.enable_file_deletions().unwrap();
    // Earlier files are complete: RocksDB has synced them, and says so in the manifest.
    if let Some((name, size)) = wal_sizes(&image.join("db")).pop_last() {
        let kept = random.random_range(synced.get(&name).copied().unwrap_or(0).min(size)..=size);
        let wal = OpenOptions::new().write(true).open(image.join("db").join(name)).unwrap();
        wal.set_len(kept).unwrap();
    }
}

fn copy(file: &Path, to: &Path) -> std::io::Result<()> {
    let to = to.join(file.file_name().unwrap());
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("sst" | "blob") => fs::hard_link(file, to),
        _ if file.ends_with("LOCK") => Ok(()),
        _ => fs::copy(file, to).map(drop),
    }
}

fn manifest(db: &Path) -> (String, u64, usize) {
    let current = fs::read_to_string(db.join("CURRENT")).unwrap();
    let size = fs::metadata(db.join(current.trim())).unwrap().len();
    (current, size, wal_sizes(db).len())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_everything_acknowledged_is_there() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = History::new();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash_tests::the_process_that_is_killed", "--exact", "--nocapture", "--ignored"])
            .env("CODA_CRASH_DIR", dir.path())
            .env("CODA_SEED", (seed.wrapping_mul(31).wrapping_add(round)).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.ends_with("up"))).expect("comes up").unwrap();
        let moment = Duration::from_millis(random.random_range(1..120));
        let killer = std::thread::spawn(move || {
            wait(moment);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        // A line cut off by the kill was an acknowledgement that nobody received.
        acknowledged.extend(lines.map_while(|line| parse(&line.ok()?)));
        killer.join().unwrap();

        let node = Node::start(dir.path()).await;
        check(&node, &acknowledged, &format!("seed {seed}, round {round}"));
        node.stop().await;
    }
    assert!(acknowledged.len() as u64 > KILLS, "there was no load");
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn wait(moment: Duration) {
    std::thread::sleep(moment);
}

fn parse(line: &str) -> Option<(u64, Arc<Entry>)> {
    let (index, bytes) = line.strip_prefix("ack ")?.strip_suffix(" .")?.split_once(' ')?;
    let byte = |at| u8::from_str_radix(bytes.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..bytes.len()).step_by(2).map(byte).collect();
    Some((index.parse().ok()?, Arc::new(codec::decode("entry", &bytes?).ok()?)))
}

/// Not a test: what `after_a_kill_everything_acknowledged_is_there` runs and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn the_process_that_is_killed() {
    let Ok(dir) = std::env::var("CODA_CRASH_DIR") else { return };
    let seed = seed();
    let node = Node::start(Path::new(&dir)).await;
    println!("up");
    let proposers = (0..4).map(|proposer| {
        load(node.group.clone(), seed.wrapping_add(proposer), |index, entry| {
            let hex: String = codec::encode(&entry).iter().map(|byte| format!("{byte:02x}")).collect();
            let mut out = std::io::stdout().lock();
            out.write_all(format!("ack {index} {hex} .\n").as_bytes()).unwrap();
        })
    });
    futures::future::join_all(proposers).await;
}
