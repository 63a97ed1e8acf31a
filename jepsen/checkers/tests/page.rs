//! The page of invariants and the code name the same properties.

use std::collections::BTreeSet;

use coda_checkers::properties;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/invariants.md");

/// The name of each row: what is in backticks first in it.
fn rows(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect()
}

#[test]
fn every_name_has_one_row_and_every_row_a_name() {
    let page = std::fs::read_to_string(PAGE).expect("the page is in the checkout");
    let histories = properties::ALL.iter().map(|property| property.name());
    let named: Vec<&str> = histories.chain(coda_engine::invariants::names()).collect();
    let known: BTreeSet<&str> = named.iter().copied().collect();
    assert_eq!(known.len(), named.len(), "a property of histories and an invariant of the engine share a name");
    let rows = rows(&page);
    let explained: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!(explained.len(), rows.len(), "a name has two rows");
    let missing: Vec<_> = known.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/invariants.md: say what these mean: {missing:?}");
    let stale: Vec<_> = explained.difference(&known).collect();
    assert!(stale.is_empty(), "docs/invariants.md: no code checks these: {stale:?}");
}
