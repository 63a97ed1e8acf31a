//! Error codes: what the code says and what `docs/errors.md` explains are the same set.

use std::collections::BTreeSet;

use crate::{File, Problem};

const PAGE: &str = "docs/errors.md";

/// Every code that a source file names must have a row on the page, and every row a code.
pub fn are_explained(sources: &[File], page: &File) -> Vec<Problem> {
    let named: BTreeSet<String> = sources.iter().flat_map(|file| codes(&file.text)).collect();
    let rows = page.text.lines().filter_map(|line| line.strip_prefix("| CODA"));
    let explained: BTreeSet<String> = rows.map(|row| format!("CODA{}", &row[..4])).collect();
    let missing = named
        .difference(&explained)
        .map(|code| Problem::new(PAGE, format!("has no row for {code}"), "say what it means and what to do about it"));
    let stale = explained.difference(&named).map(|code| {
        Problem::new(PAGE, format!("explains {code}, which no source names"), "remove the row; codes are never reused")
    });
    missing.chain(stale).collect()
}

/// The codes in a text: `CODA` and four digits that no further digit follows.
fn codes(text: &str) -> impl Iterator<Item = String> + '_ {
    text.match_indices("CODA").filter_map(|(at, _)| {
        let rest = &text[at + 4..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits == 4).then(|| format!("CODA{}", &rest[..4]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_code_without_a_row_and_a_row_without_a_code_are_problems() {
        let sources = [file("a.rs", "\"CODA2001\" CODA_ADDRESS CODA12345")];
        assert!(are_explained(&sources, &file(PAGE, "| CODA2001 | x | y |")).is_empty());
        assert_eq!(are_explained(&sources, &file(PAGE, "| CODA2002 | x | y |")).len(), 2);
    }
}
