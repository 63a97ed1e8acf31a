//! Fixtures of bytes: `label: hex`, one a line. They may gain lines; a line that changes breaks every peer and every log
//! of an earlier version. Written only with `UPDATE_EXPECT=1`.
#![expect(clippy::disallowed_methods, reason = "fixtures are files, and an environment variable rewrites them")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};
use std::path::PathBuf;

use coda_protocol::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Values whose bytes are the codec's.
pub fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(file: &str, values: &[(&str, T)]) {
    let read = |bytes: &[u8]| codec::decode::<T>("fixture", bytes).expect("a fixture can be decoded");
    check_with(file, values, codec::encode, read);
}

/// Every value encodes to its fixture, and every fixture decodes to its value.
pub fn check_with<T: PartialEq + Debug>(
    file: &str,
    values: &[(&str, T)],
    write: impl Fn(&T) -> Vec<u8>,
    read: impl Fn(&[u8]) -> T,
) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/compat/v1").join(file);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let lines: String = values.iter().map(|(label, value)| format!("{label}: {}\n", hex(&write(value)))).collect();
        std::fs::write(&path, lines).expect("the fixture can be written");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fixtures: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(": ")).collect();
    let labels: BTreeMap<&str, ()> = values.iter().map(|(label, _)| (*label, ())).collect();
    assert_eq!(labels.len(), values.len(), "{file}: two values share a label");
    for (label, value) in values {
        let fixture = fixtures.get(label).unwrap_or_else(|| panic!("{file}: {label} has no fixture; UPDATE_EXPECT=1"));
        assert_eq!(hex(&write(value)), *fixture, "{file}: {label} has other bytes than released versions");
        assert_eq!(read(&unhex(fixture)), *value, "{file}: {label}");
    }
    let unknown: Vec<_> = fixtures.keys().filter(|label| !labels.contains_key(*label)).collect();
    assert!(unknown.is_empty(), "{file}: nothing decodes {unknown:?} any more");
}

/// All variants of an enum are there: their positions lead their bytes, and a position too high is refused with the
/// number of variants. A variant that is added without a value here is found by that.
pub fn all_variants<T: Serialize + DeserializeOwned + Debug>(values: &[(&str, T)]) {
    let refused = codec::decode::<T>("variant", &[250]).expect_err("no enum has so many variants").why;
    let count = refused.rsplit_once("i < ").expect("serde says how many variants there are").1;
    let count: u8 = count.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
    let tags: BTreeSet<u8> = values.iter().map(|(_, value)| codec::encode(value)[0]).collect();
    assert!(tags.iter().copied().eq(0..count), "of {count} variants these have a value: {tags:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a string");
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}
