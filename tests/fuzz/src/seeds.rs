//! What fuzzing starts from: one good input of every kind. The bytes are those that hold the wire and the log in place
//! (`tests/compat` of the protocol and of the engine), so there is one of every variant, also of one that is added later.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use coda_broker::peers::{CallHead, CallKind, PeerFrame, PeerHello};
use coda_protocol::ids::{ClusterId, GroupId, NodeId, StorageId};

use crate::codec::{ANSWER, CLUSTER_REPLY, CLUSTER_REQUEST, COMMAND, ENTRY, MAP, PUSH, REQUEST};

/// Good inputs for a target.
///
/// # Panics
/// If a fixture is not where it should be.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let seeds = match target {
        "frame" => frames(),
        "codec" => bodies(),
        "peer" => peers(),
        "command" => scripts(),
        "keys" => keys(),
        "raft" => coda_raft_store::fuzz::messages(),
        "records" => records(),
        "snapshot" => snapshots(),
        "certificate" => vec![CERTIFICATE.to_vec()],
        other => panic!("there is no target {other}"),
    };
    assert!(!seeds.is_empty(), "nothing to begin {target} with");
    seeds
}

/// What was found by fuzzing and is kept in `fuzz/corpus`: an input a line, in hex. See `fuzz/run.sh`.
///
/// # Panics
/// If the file is not there, or holds something else.
#[must_use]
pub fn kept(target: &str) -> Vec<Vec<u8>> {
    let text = read(&root().join(format!("fuzz/corpus/{target}.hex")));
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(unhex).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/fuzz lies in the checkout")
}

/// The fixtures of one file of a crate.
fn fixtures(of: &str, file: &str) -> Vec<Vec<u8>> {
    let text = read(&root().join("crates").join(of).join("tests/compat/v1").join(file));
    text.lines().filter_map(|line| line.split_once(": ")).map(|(_, hex)| unhex(hex)).collect()
}

fn tagged(bodies: impl IntoIterator<Item = (u8, Vec<u8>)>) -> Vec<Vec<u8>> {
    bodies.into_iter().map(|(tag, body)| [&[tag], &body[..]].concat()).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let frames = fixtures("protocol", "frames.hex");
    let mut seeds: Vec<Vec<u8>> = frames.iter().map(|frame| [&[7], &frame[..]].concat()).collect();
    seeds.push([&[13], &frames.concat()[..]].concat());
    seeds
}

fn bodies() -> Vec<Vec<u8>> {
    let all = [
        ("protocol", "requests.hex", REQUEST),
        ("protocol", "pushes.hex", PUSH),
        ("protocol", "answers.hex", ANSWER),
        ("engine", "entries.hex", ENTRY),
        ("engine", "commands.hex", COMMAND),
        ("protocol", "cluster_requests.hex", CLUSTER_REQUEST),
        ("protocol", "cluster_replies.hex", CLUSTER_REPLY),
        ("protocol", "cluster_maps.hex", MAP),
    ];
    let mut seeds =
        tagged(all.iter().flat_map(|(of, file, tag)| fixtures(of, file).into_iter().map(|one| (*tag, one))));
    // A refusal is the second variant of a result, a reply the first one; both behind a position of three bytes.
    let answer = |variant: &[u8], body: &[u8]| [&[ANSWER, 1, 2, 3], variant, body].concat();
    seeds.extend(fixtures("protocol", "replies.hex").iter().map(|reply| answer(&[0], reply)));
    seeds.extend(fixtures("protocol", "rejects.hex").iter().map(|reject| answer(&[1, 0], reject)));
    seeds.extend(fixtures("protocol", "unavailable.hex").iter().map(|why| answer(&[1, 1], why)));
    seeds.extend(
        ["node-1.example:7402", "[::1]:7400", "10.0.0.1:1", "queue"].map(|text| [b"\x0b", text.as_bytes()].concat()),
    );
    seeds.push(format!("\x0bcoda-join-{}-{}", "a1".repeat(16), "07".repeat(32)).into_bytes());
    seeds
}

fn peers() -> Vec<Vec<u8>> {
    let hello = PeerHello {
        cluster: ClusterId([1; 16]),
        node: NodeId(2),
        incarnation: 3,
        storage: StorageId([4; 16]),
        address: "node-2:7402".into(),
        program: "coda/0".into(),
    };
    let head = CallHead { group: GroupId(9), kind: CallKind::SingleAppend, timeout: Duration::from_millis(400) };
    let frames = [
        PeerFrame::Hello { versions: (1, 1), hello: hello.clone() },
        PeerFrame::Welcome { version: 1, hello },
        PeerFrame::Call { id: 7, head, body: b"vote"[..].into() },
        PeerFrame::Answer { id: u64::MAX, body: b"granted"[..].into() },
        PeerFrame::Failed { id: 8, why: "CODA4143 no".into() },
        PeerFrame::Appends { group: GroupId(u32::MAX) },
        PeerFrame::Snapshot { group: GroupId(1), file_bytes: 1 << 40, head: b"head"[..].into() },
        PeerFrame::Ask { body: b"who?"[..].into() },
    ];
    let frames: Vec<Vec<u8>> = frames.iter().map(|frame| frame.to_bytes().to_vec()).collect();
    let mut seeds = tagged(frames.iter().map(|frame| (2, [&[5], &frame[..]].concat())));
    seeds.push([&[2, 9], &frames.concat()[..]].concat());
    // Questions: to propose each command in a group, to decide each request, and those that only name a group.
    seeds.extend(tagged(fixtures("engine", "commands.hex").iter().map(|one| (0, [&[0, 1], &one[..]].concat()))));
    seeds.extend(tagged(fixtures("protocol", "cluster_requests.hex").iter().map(|one| (0, [&[4], &one[..]].concat()))));
    let of_group: [&[u8]; 8] = [&[1, 1, 0], &[2, 1, 1, b'a'], &[3, 1], &[5], &[6, 1, 9], &[7, 1, 2], &[8, 1], &[9, 1]];
    seeds.extend(tagged(of_group.map(|ask| (0, ask.to_vec()))));
    let reply = |one: &Vec<u8>| (1, [&[0, 0, 1, 2, 3], &one[..]].concat());
    seeds.extend(tagged(fixtures("protocol", "replies.hex").iter().map(reply)));
    seeds.extend(tagged(fixtures("protocol", "rejects.hex").iter().map(|one| (1, [&[1, 0], &one[..]].concat()))));
    seeds
}

/// The first byte says which group it is. Instruction 12 takes an encoded command, 13 an encoded request; the rest of a
/// script means something whatever it is.
fn scripts() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let groups = [0, 1];
    for (i, command) in fixtures("engine", "commands.hex").iter().enumerate() {
        seeds.extend(groups.map(|group| script(&[group, 1, 1, 12], command, i)));
    }
    for (i, request) in fixtures("protocol", "requests.hex").iter().enumerate() {
        seeds.extend(groups.map(|group| script(&[group, 1, 1, 13, 0], request, i)));
    }
    for (i, request) in fixtures("protocol", "cluster_requests.hex").iter().enumerate() {
        // As the variant of a request that it is.
        let variant = fixtures("protocol", "requests.hex").iter().map(|one| one[0]).max().expect("requests") - 1;
        seeds.push(script(&[0, 1, 1, 13, 0], &[&[variant], &request[..]].concat(), i));
    }
    seeds
}

fn script(start: &[u8], encoded: &[u8], i: usize) -> Vec<u8> {
    let encoded = &encoded[..encoded.len().min(255)];
    let mut script = [start, &[encoded.len() as u8], encoded].concat();
    script.extend((0..200).map(|n: u32| (n * 37 + i as u32 * 11) as u8));
    script
}

/// What tests of the engine store, without group and table, as bytes of each kind; and numbers that make two of each.
fn keys() -> Vec<Vec<u8>> {
    let files =
        ["ready.hex", "delayed.hex", "memo.hex", "lease.hex", "due.hex", "lane.hex", "run.hex", "task.hex", "node.hex"];
    let stored = files.iter().flat_map(|file| fixtures("engine", file)).filter(|row| row.len() > 5);
    let mut seeds = Vec::new();
    for key in stored {
        seeds.extend((0..13).map(|kind| [&[2 * kind], &key[5..]].concat()));
    }
    for kind in 0..13 {
        let from = (0..96_u8).map(|n| if n % 8 == 0 { n } else { n.wrapping_mul(37) });
        seeds.push([2 * kind + 1].into_iter().chain(from).collect());
    }
    seeds
}

fn records() -> Vec<Vec<u8>> {
    let record = |kind: u8, body: &[u8]| [&[0, 1, kind, 3, 0, 0, 0, 0, 0, 0, 0], body].concat();
    let mut seeds: Vec<Vec<u8>> = fixtures("engine", "entries.hex").iter().map(|entry| record(1, entry)).collect();
    seeds.push(record(0, b""));
    // Of one voter and a learner.
    seeds.push(record(2, b"\0\x01\x01\x01\x02\x01\x03a:1\x02\x03b:2"));
    // Behind which row it is: the version, then a vote, a position, a membership, a node, starts of a storage.
    let rows: [&[u8]; 5] =
        [&[0, 1, 3, 1, 1], &[1, 1, 3, 7], b"\x02\x01\0\x01\x01\x01\x01\x01\x03a:1", &[3, 1, 5], &[4; 19]];
    seeds.extend(tagged(rows.map(|row| (1, row.to_vec()))));
    let last = seeds.last_mut().expect("just added");
    (last[2], last[19]) = (1, 5);
    seeds
}

fn snapshots() -> Vec<Vec<u8>> {
    let mut rows = vec![1, 0, 40, 3, 1];
    for n in 0..30_u8 {
        let length = 4 + n % 9;
        rows.push(length);
        rows.extend((0..length + length / 4).map(|i| if i == 0 { 9 } else { n.wrapping_mul(7).wrapping_add(i) }));
    }
    let kinds: BTreeMap<u8, Vec<u8>> = (1..4).map(|kind| (kind, [&[kind], &rows[1..]].concat())).collect();
    let mut seeds: Vec<Vec<u8>> = kinds.into_values().collect();
    seeds.push(b"\0CODASNAP\x01\0\0\0\x05\0\0\0\x05\0\0\0\0\x12\x34\x56\x78".to_vec());
    seeds
}

/// A node's certificate, as `coda-admin cert node` makes it.
const CERTIFICATE: &[u8] = include_bytes!("../certificate.der");
