//! Whether a group's copies are equal.

use std::collections::{BTreeMap, BTreeSet};

use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::operate::ReplicaDigest;
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::args::Format;
use crate::errors::printable;
use crate::output::{Grid, Screen, bad, document, good, warned};

/// A group, and the checksums of its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub group: GroupId,
    pub digests: Vec<ReplicaDigest>,
    pub verdict: Verdict,
}

/// What checksums say of a group's copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Equal,
    /// Two copies have applied the same entries and are not the same.
    Differ,
    /// Nothing is known to be wrong, but not all of them could be compared.
    Unknown(String),
}

impl Checked {
    pub fn new(group: GroupId, digests: Vec<ReplicaDigest>) -> Self {
        let verdict = judge(&digests);
        Self { group, digests, verdict }
    }
}

fn judge(digests: &[ReplicaDigest]) -> Verdict {
    let mut at_index: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (index, digest) in digests.iter().filter_map(|copy| copy.digest.as_ref().ok()) {
        at_index.entry(*index).or_default().insert(*digest);
    }
    if at_index.values().any(|checksums| checksums.len() > 1) {
        return Verdict::Differ;
    }
    let silent = digests.iter().find_map(|copy| Some((copy.node, copy.digest.as_ref().err()?)));
    match silent {
        Some((node, why)) => Verdict::Unknown(format!("node {node}: {}", printable(why))),
        None if at_index.is_empty() => Verdict::Unknown("no node has a copy".to_owned()),
        None if at_index.len() > 1 => Verdict::Unknown("its copies have not applied the same entries yet".to_owned()),
        None => Verdict::Equal,
    }
}

pub fn list(checked: &[Checked], screen: &Screen) -> String {
    if screen.format == Format::Json {
        return document(&json!({ "groups": checked.iter().map(checked_json).collect::<Vec<_>>() }));
    }
    let mut grid = Grid::new(screen, ["GROUP", "RESULT", "NODE", "INDEX", "CHECKSUM"]);
    for one in checked {
        let result = || match &one.verdict {
            Verdict::Equal if one.digests.len() == 1 => Cell::new("one copy only"),
            Verdict::Equal => good("equal"),
            Verdict::Differ => bad("differs"),
            Verdict::Unknown(_) => warned("unknown"),
        };
        if one.digests.is_empty() {
            grid.row([Cell::new(one.group), result(), Cell::new("-"), Cell::new("-"), Cell::new("-")]);
        }
        for copy in &one.digests {
            let (index, digest) = match &copy.digest {
                Ok((index, digest)) => (Cell::new(index), Cell::new(format!("{digest:016x}"))),
                Err(why) => (Cell::new("-"), warned(printable(why))),
            };
            grid.row([Cell::new(one.group), result(), Cell::new(copy.node), index, digest]);
        }
    }
    let mut out = grid.numbers([3]).render();
    for one in checked {
        if let Verdict::Unknown(why) = &one.verdict {
            out.push_str(&format!("\ngroup {} could not be compared: {why}\n", one.group));
        }
    }
    out
}

fn checked_json(checked: &Checked) -> Value {
    let (result, why) = match &checked.verdict {
        Verdict::Equal => ("equal", None),
        Verdict::Differ => ("differs", None),
        Verdict::Unknown(why) => ("unknown", Some(why)),
    };
    let copy_json = |copy: &ReplicaDigest| {
        let NodeId(node) = copy.node;
        let (index, digest) = match &copy.digest {
            Ok((index, digest)) => (Some(*index), Some(format!("{digest:016x}"))),
            Err(_) => (None, None),
        };
        json!({ "node": node, "index": index, "checksum": digest, "no_answer": copy.digest.as_ref().err() })
    };
    json!({
        "group": checked.group.0,
        "result": result,
        "why": why,
        "copies": checked.digests.iter().map(copy_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(digests: &[Result<(u64, u64), &str>]) -> Verdict {
        let copy = |(node, digest): (usize, &Result<(u64, u64), &str>)| ReplicaDigest {
            node: NodeId(node as u64 + 1),
            digest: digest.map_err(Into::into),
        };
        judge(&digests.iter().enumerate().map(copy).collect::<Vec<_>>())
    }

    #[test]
    fn copies_are_compared_where_they_have_applied_the_same() {
        assert_eq!(copies(&[Ok((7, 1)), Ok((7, 1)), Ok((7, 1))]), Verdict::Equal);
        assert_eq!(copies(&[Ok((7, 1))]), Verdict::Equal);
        assert_eq!(copies(&[Ok((7, 1)), Ok((7, 2)), Ok((7, 1))]), Verdict::Differ);
        assert_eq!(copies(&[Ok((7, 1)), Ok((8, 2)), Ok((7, 3))]), Verdict::Differ, "two of them are at one index");
        assert!(matches!(copies(&[Ok((7, 1)), Ok((8, 2))]), Verdict::Unknown(_)));
        assert_eq!(copies(&[Ok((7, 1)), Err("busy"), Ok((7, 1))]), Verdict::Unknown("node 2: busy".into()));
        assert_eq!(copies(&[Ok((7, 1)), Err("busy"), Ok((7, 2))]), Verdict::Differ, "that is certain already");
        assert!(matches!(copies(&[]), Verdict::Unknown(_)));
    }
}
