//! What is refused, and how: files from the future, damaged files, records nobody understands, rules that panic.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use coda_protocol::ids::NodeId;
use rocksdb::{DB, Options};

use crate::common::{GROUP, Node, submit, submit_bytes, tasks_of};
use crate::db::write_state;
use crate::group::{Group, GroupOptions, ProposeError};
use crate::log::LogStore;
use crate::peers::NoPeers;
use crate::storage::{Durability, Family};
use crate::store::{NodeStore, StoreOptions};

fn open_error(dir: &Path) -> String {
    NodeStore::open(dir, StoreOptions::default()).err().expect("refused").to_string()
}

fn new_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    NodeStore::open(dir.path(), StoreOptions::default()).unwrap().close().unwrap();
    dir
}

#[test]
fn a_format_from_the_future_is_refused() {
    let dir = new_folder();
    let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
    let key = [&u32::MAX.to_be_bytes()[..], b"format"].concat();
    store.db().put_meta_synced(&key, &9u32.to_be_bytes()).unwrap();
    store.close().unwrap();
    let error = open_error(dir.path());
    assert!(
        error.starts_with("CODA4102") && error.ends_with("has format 9; this binary understands format 1"),
        "{error}"
    );
}

#[test]
fn column_families_from_the_future_are_refused() {
    let dir = new_folder();
    let mut db = DB::open_cf(&Options::default(), dir.path().join("db"), ["default", "log", "state", "meta"]).unwrap();
    db.create_cf("tiers", &Options::default()).unwrap();
    drop(db);
    let error = open_error(dir.path());
    assert!(error.starts_with("CODA4102") && error.contains("`tiers`"), "{error}");
}

#[test]
fn a_damaged_manifest_is_corruption() {
    let dir = new_folder();
    let current = fs::read_to_string(dir.path().join("db/CURRENT")).unwrap();
    let manifest = dir.path().join("db").join(current.trim());
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[20] ^= 0xff;
    fs::write(&manifest, bytes).unwrap();
    let error = open_error(dir.path());
    assert!(error.starts_with("CODA4103"), "{error}");
}

/// A crash cuts the WAL short, and changes nothing in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_wal_is_not_taken_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    for number in 0..300 {
        node.group.propose(submit_bytes(number..number + 1, 500)).await.unwrap();
    }
    for percent in [30, 60, 80] {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("db")).unwrap();
        for file in fs::read_dir(dir.path().join("db")).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), image.path().join("db").join(file.file_name())).unwrap();
        }
        let files = fs::read_dir(image.path().join("db")).unwrap().map(|file| file.unwrap().path());
        let wals = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let wal = wals.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut bytes = fs::read(&wal).unwrap();
        let at = bytes.len() * percent / 100;
        bytes[at] ^= 0x10;
        fs::write(&wal, bytes).unwrap();
        let error = open_error(image.path());
        assert!(error.starts_with("CODA4340"), "{error}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_understands_stops_the_group_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let index = node.group.propose(submit(0..1)).await.unwrap().position.index;
    node.group.shutdown().await;
    drop(node.group);
    // A later version wrote this one, and the state has not seen it yet.
    let key = [&GROUP.0.to_be_bytes()[..], &index.to_be_bytes()].concat();
    let mut record = node.store.log().read(GROUP, index..index + 1, usize::MAX).unwrap()[0].1.to_vec();
    record[0] = 9;
    let mut batch = node.store.db().batch();
    batch.put(Family::Log, &key, &record);
    batch.write(Durability::Logged).unwrap();
    let mut batch = node.store.db().batch();
    let (from, to) = crate::view::group_range(GROUP);
    batch.delete_range(Family::State, &from, &to);
    write_state(batch).unwrap();
    node.store.close().unwrap();

    let store = NodeStore::open(dir.path(), StoreOptions::default()).unwrap();
    let started = Group::start(store.clone(), GroupOptions::new(GROUP, NodeId(1)), Arc::new(NoPeers)).await;
    let error = started.err().expect("refused").to_string();
    assert!(error.contains(&format!("CODA4104 unreadable record {index} of group 1: unknown version 9")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_that_wait_hear_of_a_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let slow = StoreOptions { sync_delay: std::time::Duration::from_millis(200).into(), ..StoreOptions::default() };
    let node = Node::with(dir.path(), slow, GroupOptions::new(GROUP, NodeId(1))).await;
    let group = node.group.clone();
    let waits = tokio::spawn(async move { group.propose(submit(0..1)).await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    node.group.shutdown().await;
    let answer = waits.await.unwrap();
    assert!(matches!(answer, Ok(_) | Err(ProposeError::ShuttingDown)), "{answer:?}");
    assert_eq!(node.group.propose(submit(1..2)).await, Err(ProposeError::ShuttingDown));
    node.stop().await;
}

/// The kernel refuses the write, as it does for a full disk: this process may not make a file of more than 2 MiB, or 4,
/// as the shell counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_disk_refuses_fails_the_group_and_is_never_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["refusal_tests::the_process_whose_disk_is_full", "--exact", "--nocapture", "--ignored"])
        .env("CODA_FULL_DIR", dir.path())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout} {stderr}");
    let acknowledged = stdout.lines().find_map(|line| line.strip_prefix("acknowledged ")?.parse::<usize>().ok());
    let acknowledged = acknowledged.expect("it says how many");
    assert!(acknowledged > 100, "{acknowledged}");

    let node = Node::start(dir.path()).await;
    let found = node.group.read(|view, _| tasks_of(view));
    // The first one that was refused may have got into the log's file as a whole.
    assert!((acknowledged..=acknowledged + 1).contains(&found), "{acknowledged} were acknowledged, {found} are there");
    node.group.propose(submit(900_000..900_001)).await.expect("with room, it goes on");
    node.stop().await;
}

/// Not a test: what `a_write_that_the_disk_refuses_fails_the_group_and_is_never_acknowledged` runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn the_process_whose_disk_is_full() {
    let Some(dir) = std::env::var_os("CODA_FULL_DIR") else { return };
    let node = Node::start(Path::new(&dir)).await;
    let mut acknowledged = 0;
    let refused = loop {
        match node.group.propose(submit_bytes(acknowledged..acknowledged + 1, 8_000)).await {
            Ok(_) => acknowledged += 1,
            Err(refused) => break refused,
        }
    };
    println!("\nacknowledged {acknowledged}");
    assert!(matches!(&refused, ProposeError::Failed { why } if why.contains("CODA4106")), "{refused}");
    // For good, whoever asks.
    let again = node.group.propose(submit(0..1)).await;
    assert!(matches!(again, Err(ProposeError::Failed { .. })), "{again:?}");
    let mut leadership = node.group.leadership();
    let failed = leadership.wait_for(|now| now.failure.is_some()).await.unwrap().clone();
    assert!(!failed.is_me && failed.failure.is_some_and(|why| why.contains("CODA4106")));
    assert!(node.group.report().failure.is_some());
}

#[test]
fn a_panic_in_the_rules_stops_the_process_and_names_the_entry() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["refusal_tests::the_process_whose_rules_panic", "--exact", "--nocapture", "--ignored"])
        .env("CODA_PANIC_CHILD", "1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let found = stderr.lines().any(|line| {
        line.strip_prefix("CODA4110 applying entry ")
            .and_then(|rest| rest.split_once(" of group 1 panicked: "))
            .is_some_and(|(index, why)| index.parse::<u64>().is_ok() && !why.is_empty())
    });
    assert!(found, "{stderr}");
}

/// Not a test: what `a_panic_in_the_rules_stops_the_process_and_names_the_entry` runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn the_process_whose_rules_panic() {
    if std::env::var_os("CODA_PANIC_CHILD").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    // The engine takes its own rows at their word: a broken one is our bug, not an answer.
    let mut batch = node.store.db().batch();
    batch.put(Family::State, &[&GROUP.0.to_be_bytes()[..], &[1]].concat(), b"\x01");
    write_state(batch).unwrap();
    let _ = node.group.propose(submit(0..1)).await;
}
