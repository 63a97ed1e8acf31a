//! What a simulated disk promises: each rule of a crash, and that it is otherwise RocksDB.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Life, Rot, SimDisk};
use crate::disk::DiskProbe;
use crate::error::StoreError;
use crate::files::Files;
use crate::rocks::Rocks;
use crate::storage::{Durability, END, Family, Refused, Rows, Storage};

/// A rule of chance is looked at for so many disks.
const DISKS: u64 = 200;
const BATCHES: u8 = 8;

fn open(disk: &SimDisk) -> Life {
    disk.open(Path::new("node")).unwrap()
}

/// A batch of two rows, of one number.
fn write(storage: &dyn Storage, family: Family, number: u8, durability: Durability) -> Result<(), Refused> {
    let mut batch = storage.batch();
    batch.put(family, &[number, 1], &[number]);
    batch.put(family, &[number, 2], &[number]);
    batch.write(durability)
}

/// Which numbers are there; a batch is there as a whole.
fn numbers(storage: &dyn Storage, family: Family) -> Vec<u8> {
    let mut keys = Vec::new();
    let mut note = |key: &[u8], _: &[u8]| {
        keys.push((key[0], key[1]));
        ControlFlow::Continue(())
    };
    storage.now().scan(family, &[], END, &mut note).unwrap();
    assert!(keys.chunks(2).all(|pair| matches!(pair, [(a, 1), (b, 2)] if a == b)), "{keys:?}");
    keys.into_iter().filter(|(_, row)| *row == 1).map(|(number, _)| number).collect()
}

/// Runs a life on each of many disks, and tells what the next one finds of a family.
fn found(family: Family, life: impl Fn(&SimDisk, &Life)) -> BTreeSet<Vec<u8>> {
    let one = |seed| {
        let disk = SimDisk::new(seed);
        life(&disk, &open(&disk));
        numbers(&open(&disk), family)
    };
    (0..DISKS).map(one).collect()
}

/// The first `least..=BATCHES` numbers, each as often as it likes.
fn prefixes(least: u8) -> BTreeSet<Vec<u8>> {
    (least..=BATCHES).map(|end| (0..end).collect()).collect()
}

#[test]
fn what_was_synced_survives_a_crash_and_of_the_rest_any_first_part() {
    for family in [Family::Log, Family::Meta] {
        let after = found(family, |disk, life| {
            for number in 0..BATCHES {
                write(life, family, number, Durability::Logged).unwrap();
                if number == 2 {
                    life.sync().unwrap();
                }
            }
            disk.crash();
        });
        assert_eq!(after, prefixes(3));
    }
}

#[test]
fn a_synced_write_takes_what_was_logged_before_with_it() {
    let after = found(Family::Log, |disk, life| {
        write(life, Family::Log, 0, Durability::Logged).unwrap();
        write(life, Family::Meta, 0, Durability::Synced).unwrap();
        disk.crash();
    });
    assert_eq!(after, BTreeSet::from([vec![0]]));
}

#[test]
fn the_state_survives_as_of_its_last_flush_and_of_the_rest_any_first_part() {
    let after = found(Family::State, |disk, life| {
        for number in 0..BATCHES {
            write(life, Family::State, number, Durability::Unlogged).unwrap();
            if number == 4 {
                life.flush().unwrap();
            }
        }
        // The log is another matter.
        life.sync().unwrap();
        disk.crash();
    });
    assert_eq!(after, prefixes(5));
}

#[test]
fn a_process_that_is_killed_loses_the_memtables_of_the_state_alone() {
    let life = |disk: &SimDisk, life: &Life| {
        for number in 0..BATCHES {
            write(life, Family::Log, number, Durability::Logged).unwrap();
            write(life, Family::State, number, Durability::Unlogged).unwrap();
        }
        disk.kill();
    };
    assert_eq!(found(Family::Log, life), BTreeSet::from([(0..BATCHES).collect()]));
    assert_eq!(found(Family::State, life), prefixes(0));
}

#[test]
fn who_was_there_at_the_crash_reads_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let zombie = open(&disk);
    write(&zombie, Family::Log, 0, Durability::Synced).unwrap();
    write(&zombie, Family::Log, 1, Durability::Logged).unwrap();
    let before = numbers(&zombie, Family::Log);
    disk.crash();
    let next = open(&disk);
    for family in [Family::Log, Family::State] {
        let durability = if family == Family::State { Durability::Unlogged } else { Durability::Logged };
        assert!(write(&zombie, family, 7, durability).is_err());
    }
    assert!(zombie.sync().is_err() && zombie.flush().is_err() && zombie.create(Path::new("a")).is_err());
    zombie.quiesce();
    assert_eq!(numbers(&zombie, Family::Log), before);
    assert!(!numbers(&next, Family::Log).contains(&7));
    write(&next, Family::Log, 8, Durability::Synced).unwrap();
}

#[test]
fn a_folder_is_used_once_at_a_time_and_can_be_closed_or_wiped() {
    let disk = SimDisk::new(1);
    let life = open(&disk);
    assert!(matches!(disk.open(Path::new("node")), Err(StoreError::InUse { .. })));
    write(&life, Family::Log, 0, Durability::Logged).unwrap();
    life.quiesce();
    let next = open(&disk);
    assert_eq!(numbers(&next, Family::Log), [0]);
    disk.wipe();
    assert!(numbers(&open(&disk), Family::Log).is_empty() && disk.counts().opened == 3);
}

#[test]
fn a_sync_that_fails_ends_all_writing_and_proves_nothing() {
    let after = found(Family::Log, |disk, life| {
        write(life, Family::Log, 0, Durability::Synced).unwrap();
        write(life, Family::Log, 1, Durability::Logged).unwrap();
        disk.change(|faults| faults.fails = true);
        assert_eq!(life.sync(), Err(Refused("Input/output error".into())));
        disk.change(|faults| faults.fails = false);
        assert!(life.sync().is_err() && life.flush().is_err());
        assert!(write(life, Family::Log, 2, Durability::Logged).is_err());
        assert!(write(life, Family::State, 2, Durability::Unlogged).is_err());
        // Even if nothing else happens to it.
        disk.kill();
    });
    assert_eq!(after, BTreeSet::from([vec![0], vec![0, 1]]));
}

#[test]
fn a_full_disk_takes_what_fits_and_refuses_the_rest_for_good() {
    let disk = SimDisk::new(1);
    let life = open(&disk);
    disk.change(|faults| faults.room = Some(10));
    assert_eq!(disk.space(Path::new("node")).unwrap().free_bytes, 10);
    write(&life, Family::Log, 0, Durability::Synced).unwrap();
    write(&life, Family::State, 0, Durability::Unlogged).unwrap();
    let full = Err(Refused("No space left on device".into()));
    assert_eq!(write(&life, Family::Log, 1, Durability::Logged), full);
    disk.change(|faults| faults.room = None);
    assert!(life.flush().is_err() && life.sync().is_err());
    disk.crash();
    assert_eq!(numbers(&open(&disk), Family::Log), [0], "opened again, with room, it goes on");
}

#[test]
fn a_flipped_bit_is_read_as_a_refusal_and_replaced_by_the_next_write() {
    let disk = SimDisk::new(1);
    let life = open(&disk);
    assert!(!disk.flip_bit(Rot::Log) && !disk.flip_bit(Rot::Snapshot));
    write(&life, Family::Log, 0, Durability::Synced).unwrap();
    assert!(disk.flip_bit(Rot::Log));
    let rows = life.now();
    let refused = rows.scan(Family::Log, &[], END, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(refused.0.contains("checksum mismatch"), "{refused}");
    assert!([1, 2].iter().any(|row| rows.get(Family::Log, &[0, *row]).is_err()));
    assert!(rows.get(Family::Meta, &[0, 1]).unwrap().is_none());
    write(&life, Family::Log, 0, Durability::Synced).unwrap();
    assert_eq!(numbers(&life, Family::Log), [0]);
}

fn read(life: &Life, path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    life.open(path).ok()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn of_files_a_crash_leaves_what_was_synced_and_names_in_the_order_of_their_changes() {
    let (dir, [a, b]) = (PathBuf::from("dir"), ["dir/a", "dir/b"].map(PathBuf::from));
    let after: BTreeSet<_> = (0..DISKS)
        .map(|seed| {
            let disk = SimDisk::new(seed);
            let life = open(&disk);
            let mut file = life.create(&a).unwrap();
            file.write_all(b"12").unwrap();
            file.sync().unwrap();
            file.write_all(b"34").unwrap();
            life.sync_path(&dir).unwrap();
            life.rename(&a, &b).unwrap();
            assert_eq!((life.list(&dir).unwrap(), read(&life, &b)), (vec![b.clone()], Some(b"1234".to_vec())));
            disk.crash();
            let life = open(&disk);
            (read(&life, &a), read(&life, &b))
        })
        .collect();
    let contents = [&b"12"[..], b"123", b"1234"].map(|bytes| Some(bytes.to_vec()));
    let expected = contents.into_iter().flat_map(|bytes| [(bytes.clone(), None), (None, bytes)]);
    assert_eq!(after, expected.collect(), "under one of its names, whole or in part");
}

#[tokio::test(start_paused = true)]
async fn it_takes_its_time_and_a_hung_one_takes_all_of_it() {
    let disk = SimDisk::new(1);
    let life = open(&disk);
    let began = tokio::time::Instant::now();
    life.answer().await;
    let took = began.elapsed();
    assert!(took >= disk.faults().sync_min && took <= 2 * disk.faults().sync_max, "{took:?}");
    disk.change(|faults| faults.hangs = true);
    let waits = tokio::spawn({
        let life = life.clone();
        async move { life.answer().await }
    });
    tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
    assert!(!waits.is_finished() && !life.is_instant());
    disk.change(|faults| faults.hangs = false);
    waits.await.unwrap();
    disk.change(|faults| faults.hangs = true);
    let waits = tokio::spawn(async move { life.answer().await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    disk.crash();
    waits.await.unwrap();
}

fn key(random: &mut StdRng) -> Vec<u8> {
    // Few, so that they meet; some are beginnings of others.
    (0..random.random_range(1..3)).map(|_| random.random_range(0..6)).collect()
}

type Pair = (Vec<u8>, Bytes);
type Pairs = Vec<Pair>;
/// What a look at a family found: a row, a range, and the last of that.
type Found = (Option<Bytes>, Pairs, Option<Pair>);

fn pairs(rows: &dyn Rows, family: Family, from: &[u8], to: &[u8], most: usize) -> Pairs {
    let mut pairs = Vec::new();
    let mut note = |key: &[u8], value: &[u8]| {
        pairs.push((key.to_vec(), Bytes::copy_from_slice(value)));
        if pairs.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    rows.scan(family, from, to, &mut note).unwrap();
    pairs
}

const FAMILIES: [Family; 3] = [Family::Log, Family::State, Family::Meta];

fn change(storage: &dyn Storage, random: &mut StdRng) {
    let state = random.random_bool(0.5);
    let mut batch = storage.batch();
    for _ in 0..random.random_range(0..6) {
        let family = match state {
            true => Family::State,
            false => FAMILIES[2 * random.random_range(0..2)],
        };
        let (mut from, mut to) = (key(random), key(random));
        match random.random_range(0..6) {
            0 => batch.delete(family, &from),
            1 => {
                if from > to {
                    std::mem::swap(&mut from, &mut to);
                }
                batch.delete_range(family, &from, &to);
            }
            _ => batch.put(family, &from, &random.random::<u64>().to_be_bytes()),
        }
    }
    let durability = match random.random_range(0..4) {
        _ if state => Durability::Unlogged,
        0 => Durability::Synced,
        _ => Durability::Logged,
    };
    batch.write(durability).unwrap();
    match random.random_range(0..12) {
        0 => storage.sync().unwrap(),
        1 => storage.flush().unwrap(),
        _ => {}
    }
}

/// Reads of all kinds; they must agree.
fn look(rows: &dyn Rows, random: &mut StdRng) -> Vec<Found> {
    let look = |family| {
        let (mut from, mut to) = (key(random), key(random));
        if from > to {
            std::mem::swap(&mut from, &mut to);
        }
        let most = random.random_range(1..9);
        let got = rows.get(family, &from).unwrap();
        (got, pairs(rows, family, &from, &to, most), rows.last(family, &from, &to).unwrap())
    };
    FAMILIES.map(look).into()
}

#[test]
fn whatever_is_done_to_it_reads_as_rocksdb_does() {
    let seed: u64 = std::env::var("CODA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("CODA_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(seed);
    let mut both: [Box<dyn Storage>; 2] = [Box::new(Rocks::open(dir.path()).unwrap()), Box::new(open(&disk))];
    for _ in 0..20 {
        let seeds: [u64; 2] = random.random();
        let seen = both.each_ref().map(|storage| {
            let mut random = StdRng::seed_from_u64(seeds[0]);
            let mut seen = Vec::new();
            for _ in 0..20 {
                change(&**storage, &mut random);
                seen.push(look(&*storage.now(), &mut random));
            }
            // A moment stays as it is.
            let moment = storage.moment();
            let before = look(&*moment, &mut StdRng::seed_from_u64(seeds[1]));
            (0..5).for_each(|_| change(&**storage, &mut random));
            assert_eq!(look(&*moment, &mut StdRng::seed_from_u64(seeds[1])), before);
            drop(moment);
            storage.sync().unwrap();
            storage.flush().unwrap();
            storage.quiesce();
            seen
        });
        assert_eq!(seen[0], seen[1]);
        drop(both);
        both = [Box::new(Rocks::open(dir.path()).unwrap()), Box::new(open(&disk))];
        for family in FAMILIES {
            let all = both.each_ref().map(|storage| pairs(&*storage.now(), family, &[], END, usize::MAX));
            assert_eq!(all[0], all[1], "after a restart");
        }
    }
}
