//! Disks that lie: a bit that is another one, a file that is shorter, a file that is gone. Whatever it hits, the node either
//! has everything that it ever confirmed, or says what is damaged and does not go on. Damaged folders are opened by a process of
//! their own: this test binary runs itself, since a node that cannot read its state stops its process. A failing test
//! prints its seed; `CODA_SEED` sets it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::{GROUP, Node, RandomEntries, rows_of, submit_bytes};
use crate::group::{Group, GroupOptions};
use crate::log::LogStore;
use crate::peers::NoPeers;
use crate::snapshot::Digest;
use crate::store::{NodeStore, StoreOptions};
use crate::witness::Witness;

/// How long what is left may take to be applied again.
const PATIENCE_MS: u64 = 10_000;
/// Damages of each kind to each kind of file.
const TRIES: usize = 6;

fn seed() -> u64 {
    let seed = std::env::var("CODA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("CODA_SEED={seed}");
    seed
}

/// What a node holds: its state at an index, and its log up to there, as far as it is not purged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    applied: u64,
    state: u64,
    log: BTreeMap<u64, u64>,
}

impl Held {
    /// # Errors
    /// What is damaged.
    fn by(node: &Node) -> Result<Self, String> {
        let (rows, applied) = node.group.read(|view, applied| (rows_of(view, GROUP), applied));
        let mut state = Digest::default();
        rows.iter().for_each(|(key, row)| state.add(key, row));
        let log = node.store.log().read(GROUP, 0..u64::MAX, usize::MAX).map_err(|error| error.to_string())?;
        let digest = |record: &[u8]| {
            let mut digest = Digest::default();
            digest.add(b"", record);
            digest.finish()
        };
        let log = log.iter().map(|(index, record)| (*index, digest(record))).collect();
        Ok(Self { applied, state: state.finish(), log })
    }

    fn line(&self) -> String {
        let log: Vec<String> = self.log.iter().map(|(index, digest)| format!("{index}={digest:x}")).collect();
        format!("holds: {} {:x} {}", self.applied, self.state, log.join(" "))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (applied, state) = (words.next()?.parse().ok()?, u64::from_str_radix(words.next()?, 16).ok()?);
        let pair = |word: &str| {
            let (index, digest) = word.split_once('=')?;
            Some((index.parse().ok()?, u64::from_str_radix(digest, 16).ok()?))
        };
        Some(Self { applied, state, log: words.map(pair).collect::<Option<_>>()? })
    }

    /// Whether all of it is there. What leading again adds to the log is not the state's, and what was purged is in it.
    fn is_in(&self, other: &Self) -> bool {
        let same = self.log.iter().all(|(index, digest)| other.log.get(index).is_none_or(|found| found == digest));
        let last = self.log.keys().next_back();
        self.state == other.state && self.applied <= other.applied && same && last <= other.log.keys().next_back()
    }
}

async fn load(node: &Node, random: &mut RandomEntries, entries: usize) {
    for _ in 0..entries {
        let entry = random.next_entry();
        let committed = node.group.propose(entry).await.unwrap();
        random.learn(&committed.applied);
    }
}

/// A folder with a history: files of every kind, and some of the log still in RocksDB's own.
async fn history(dir: &Path, seed: u64) -> Node {
    let mut random = RandomEntries::new(seed);
    for _ in 0..3 {
        let node = Node::start(dir).await;
        load(&node, &mut random, 60).await;
        node.group.propose(submit_bytes(1_000_000..1_000_004, 200_000)).await.unwrap();
        node.stop().await;
    }
    let node = Node::start(dir).await;
    load(&node, &mut random, 60).await;
    node
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if !path.ends_with("LOCK") {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// By kind: what comes before the number in a name, or the ending behind it.
fn files(dir: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let paths = fs::read_dir(dir.join("db")).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.chain([dir.join("witness")]) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = match name.split_once(['-', '.']) {
            Some((number, ending)) if number.bytes().all(|byte| byte.is_ascii_digit()) => ending.to_owned(),
            Some((kind, _)) => kind.to_owned(),
            None => name.clone(),
        };
        if !["LOG", "LOCK"].contains(&kind.as_str()) && fs::metadata(&path).unwrap().len() > 0 {
            kinds.entry(kind).or_default().push(path);
        }
    }
    kinds
}

#[derive(Debug)]
enum Damage {
    Flip { at: u64, bit: u8 },
    Cut { at: u64 },
    Gone,
}

impl Damage {
    /// Below `bytes`.
    fn random(random: &mut StdRng, n: usize, bytes: u64) -> Self {
        match n % 6 {
            5 => Self::Gone,
            4 => Self::Cut { at: random.random_range(0..bytes) },
            _ => Self::Flip { at: random.random_range(0..bytes), bit: random.random_range(0..8) },
        }
    }

    fn does_to(&self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        match self {
            Self::Flip { at, bit } => bytes[*at as usize] ^= 1 << bit,
            Self::Cut { at } => bytes.truncate(*at as usize),
            Self::Gone => return fs::remove_file(file).unwrap(),
        }
        fs::write(file, bytes).unwrap();
    }
}

/// What a process says of a folder: what it holds, or the code of what it says is wrong.
fn opened(dir: &Path, whole: &Held) -> Result<Held, String> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["corruption_tests::the_process_that_opens_it", "--exact", "--nocapture", "--ignored"])
        .env("CODA_DAMAGED_DIR", dir)
        .env("CODA_APPLIED", whole.applied.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    let line = |mark: &str| said.lines().find_map(|line| line.split_once(mark)).map(|(_, rest)| rest.to_owned());
    match (line("holds: "), line("CODA4")) {
        (Some(held), _) if child.status.success() => Ok(Held::parse(&held).expect("our own line")),
        (None, Some(rest)) => Err(format!("CODA4{rest}")),
        _ => panic!("neither whole nor refused: {said}"),
    }
}

/// How much at the end of a file may be gone, because that is what a crash may leave.
type Spared<'a> = &'a dyn Fn(&Path) -> u64;

/// Every kind of file, each damaged in turn.
fn damage_all(seed: u64, good: &Path, whole: &Held, spared: Spared<'_>) -> BTreeMap<String, (usize, usize)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut results = BTreeMap::new();
    for (kind, paths) in files(good) {
        for n in 0..TRIES {
            let path = &paths[random.random_range(0..paths.len())];
            let bytes = len(path) - spared(path);
            if bytes == 0 {
                continue;
            }
            let damage = Damage::random(&mut random, n, bytes);
            if spared(path) > 0 && matches!(damage, Damage::Cut { .. }) {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            copy(good, dir.path());
            damage.does_to(&dir.path().join(path.strip_prefix(good).unwrap()));
            let what = format!("seed {seed}: {damage:?} of {}", path.file_name().unwrap().to_string_lossy());
            let (harmless, refused): &mut (usize, usize) = results.entry(kind.clone()).or_default();
            match opened(dir.path(), whole) {
                Ok(holds) => {
                    assert!(whole.is_in(&holds), "{what}: went on with {holds:?} instead of {whole:?}");
                    *harmless += 1;
                }
                Err(error) => {
                    println!("{what}: {error}");
                    *refused += 1;
                }
            }
        }
    }
    println!("harmless and refused, by kind: {results:?}");
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_node_that_was_stopped_is_harmless_or_refused() {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let node = history(dir.path(), seed).await;
    let whole = Held::by(&node).unwrap();
    node.stop().await;
    let dir = dir.path().to_owned();
    let results = damage_all(seed, &dir, &whole, &|_| 0);
    assert!(results["sst"].1 > 0 && results["CURRENT"].1 > 0, "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_node_that_was_killed_is_harmless_or_refused() {
    let seed = seed();
    let (dir, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = history(dir.path(), seed).await;
    let sizes: BTreeMap<_, _> = files(dir.path())
        .remove("log")
        .unwrap_or_default()
        .into_iter()
        .map(|path| (path.clone(), len(&path)))
        .collect();
    // The last record: nobody can tell its damage from a crash while it was written, nor a file that was cut short.
    node.group.propose(submit_bytes(2_000_000..2_000_001, 2_000)).await.unwrap();
    let whole = Held::by(&node).unwrap();
    let raw = node.store.db().storage().rocks().unwrap();
    raw.disable_file_deletions().unwrap();
    copy(dir.path(), image.path());
    let (from, to) = (dir.path().to_owned(), image.path().to_owned());
    let spare = move |path: &Path| {
        let known = sizes.get(&from.join(path.strip_prefix(&to).unwrap())).copied();
        known.map_or(0, |known| len(path).saturating_sub(known))
    };
    let results = damage_all(seed, image.path(), &whole, &spare);
    assert!(results["log"].1 > 0, "the log of RocksDB was not refused: {results:?}");
    raw.enable_file_deletions().unwrap();
    node.stop().await;
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_was_put_back_to_an_earlier_day_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = history(dir.path(), 1).await;
    node.stop().await;
    let earlier = tempfile::tempdir().unwrap();
    copy(&dir.path().join("db"), earlier.path());
    let node = Node::start(dir.path()).await;
    load(&node, &mut RandomEntries::new(2), 10).await;
    node.stop().await;
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    copy(earlier.path(), &dir.path().join("db"));
    let error = NodeStore::open(dir.path(), StoreOptions::default()).err().expect("refused").to_string();
    assert!(error.starts_with("CODA4340") && error.contains(".log is missing"), "{error}");
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = NodeStore::open(dir.path(), StoreOptions::default()).err().expect("refused").to_string();
    assert!(error.starts_with("CODA4340") && error.contains("CURRENT is missing"), "{error}");
}

#[test]
fn storage_that_ends_before_it_had_come_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    NodeStore::open(dir.path(), StoreOptions::default()).unwrap().close().unwrap();
    let witness = Witness::read(dir.path()).unwrap().expect("it was stopped cleanly");
    Witness { sequence: witness.sequence + 1, ..witness }.write(dir.path()).unwrap();
    let error = NodeStore::open(dir.path(), StoreOptions::default()).err().expect("refused").to_string();
    assert!(error.starts_with("CODA4340") && error.contains("it had come to write"), "{error}");
    witness.write(dir.path()).unwrap();
    NodeStore::open(dir.path(), StoreOptions::default()).unwrap().close().unwrap();
}

/// Not a test: what the tests above run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn the_process_that_opens_it() {
    let Ok(dir) = std::env::var("CODA_DAMAGED_DIR") else { return };
    let store = match NodeStore::open(&dir, StoreOptions::default()) {
        Ok(store) => store,
        Err(error) => return println!("{error}"),
    };
    let group = match Group::start(store.clone(), GroupOptions::new(GROUP, NodeId(1)), Arc::new(NoPeers)).await {
        Ok(group) => group,
        Err(error) => return println!("{error}"),
    };
    if let Err(error) = group.initialize_single().await {
        return println!("{error}");
    }
    let node = Node { store, group };
    let wanted: u64 = std::env::var("CODA_APPLIED").unwrap().parse().unwrap();
    // What was not made durable is applied again from the log.
    for _ in 0..PATIENCE_MS {
        if let Some(why) = node.group.report().failure {
            return println!("{why}");
        }
        if node.group.read(|_, applied| applied) >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    match Held::by(&node) {
        Ok(held) => println!("{}", held.line()),
        Err(error) => println!("{error}"),
    }
}
