//! Rules about Rust sources: size, leftovers, clocks, and the page that a crate opens with.

use crate::lexer::{code_only, without_tests};
use crate::{File, Problem};

pub const FILE_LINES_MAX: usize = 600;
pub const ARCHITECTURE_LINES_MAX: usize = 300;

/// The one file that asks the operating system for the time. Everything else is handed a `Clock`.
pub const CLOCK_FILE: &str = "crates/broker/src/clock.rs";
/// They time the disk, to decide which thread writes, who leads, and what an operator is told: never what is written.
const DISK_WATCH_FILES: &[&str] = &[
    "crates/raft-store/src/committer.rs",
    "crates/raft-store/src/stopwatch.rs",
    "crates/raft-store/src/sync_stats.rs",
    "crates/raft-store/src/disk_watch.rs",
];

/// They run on a user's machine, outside the replicated world, and no simulation replaces their clock.
const OUTSIDE_THE_CLUSTER: &[&str] = &["crates/client/", "crates/cli/"];

pub fn is_short_enough(file: &File) -> Option<Problem> {
    let lines = file.text.lines().count();
    (lines > FILE_LINES_MAX).then(|| {
        Problem::new(
            &file.path,
            format!("{lines} lines, {FILE_LINES_MAX} are allowed"),
            "it probably has two subjects: give each its own file, named after it",
        )
    })
}

pub fn architecture_is_short_enough(file: &File) -> Option<Problem> {
    let lines = file.text.lines().count();
    (lines > ARCHITECTURE_LINES_MAX).then(|| {
        Problem::new(
            &file.path,
            format!("{lines} lines, {ARCHITECTURE_LINES_MAX} are allowed"),
            "a newcomer reads it in one sitting: move detail to docs/ and leave a link",
        )
    })
}

pub fn opens_with_module_docs(file: &File) -> Option<Problem> {
    (!file.text.starts_with("//!")).then(|| {
        Problem::new(
            format!("{}:1", file.path),
            "does not start with `//!`",
            "say in the first lines what this crate is, what it alone knows, and what is absent on purpose",
        )
    })
}

/// `todo!`, `unimplemented!` and `dbg!` are for the minute between two keystrokes.
pub fn has_no_leftovers(file: &File) -> Vec<Problem> {
    let code = code_only(&file.text);
    let advice = [
        ("todo!", "write it, or return the Reject or Error that says it is not supported"),
        ("unimplemented!", "write it, or return the Reject or Error that says it is not supported"),
        ("dbg!", "remove it, or make it a `tracing` event with fields"),
    ];
    let mut problems = Vec::new();
    for (name, to_do) in advice {
        problems.extend(
            lines_with(&code, name).map(|line| Problem::new(at(file, line), format!("`{name}` is left over"), to_do)),
        );
    }
    problems
}

/// Time enters the cluster in one place, as data; otherwise replicas disagree and simulations do not repeat.
pub fn reads_no_clock(file: &File) -> Vec<Problem> {
    if may_read_the_clock(&file.path) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let code = without_tests(&code);
    let mut problems = Vec::new();
    for name in ["SystemTime::now", "Instant::now"] {
        problems.extend(lines_with(code, name).map(|line| {
            Problem::new(
                at(file, line),
                format!("`{name}` is called outside {CLOCK_FILE}"),
                "take a `Clock` as a value; in the engine and the store, take the time from the log entry",
            )
        }));
    }
    problems
}

fn may_read_the_clock(path: &str) -> bool {
    let is_test = ["/tests/", "/benches/", "/examples/"].iter().any(|part| path.contains(part))
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs");
    is_test
        || path == CLOCK_FILE
        || DISK_WATCH_FILES.contains(&path)
        || OUTSIDE_THE_CLUSTER.iter().any(|folder| path.starts_with(folder))
}

fn at(file: &File, line: usize) -> String {
    format!("{}:{line}", file.path)
}

/// Numbers of the lines in which `name` stands as a whole word.
fn lines_with<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let whole = move |line: &str| {
        line.match_indices(name).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + name.len()..]);
            !before.ends_with(is_word) && (name.ends_with('!') || !after.starts_with(is_word))
        })
    };
    code.lines().enumerate().filter(move |(_, line)| whole(line)).map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn places(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.place.as_str()).collect()
    }

    #[test]
    fn a_leftover_in_code_is_found_and_one_in_a_comment_or_string_is_not() {
        let text = "fn a() { todo!() }\n// todo!()\nlet s = \"dbg!(x)\";\nmy_dbg!(x);\ndbg!(x);\n";
        let problems = has_no_leftovers(&file("crates/engine/src/a.rs", text));
        assert_eq!(places(&problems), ["crates/engine/src/a.rs:1", "crates/engine/src/a.rs:5"]);
    }

    #[test]
    fn only_the_clock_file_the_client_the_cli_and_tests_may_read_the_clock() {
        let text = "let t = std::time::Instant::now();\n#[cfg(test)]\nmod tests {\n    fn t() { Instant::now(); }\n}\n";
        assert_eq!(places(&reads_no_clock(&file("crates/broker/src/node.rs", text))), ["crates/broker/src/node.rs:1"]);
        for path in [CLOCK_FILE, "crates/client/src/retry.rs", "crates/cli/src/dev.rs", "crates/engine/tests/model.rs"]
        {
            assert!(reads_no_clock(&file(path, text)).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_file_may_have_as_many_lines_as_the_limit_and_not_one_more() {
        assert!(is_short_enough(&file("a.rs", &"x\n".repeat(FILE_LINES_MAX))).is_none());
        assert!(is_short_enough(&file("a.rs", &"x\n".repeat(FILE_LINES_MAX + 1))).is_some());
        assert!(architecture_is_short_enough(&file("A.md", &"x\n".repeat(ARCHITECTURE_LINES_MAX + 1))).is_some());
    }

    #[test]
    fn a_crate_opens_with_its_own_page() {
        assert!(opens_with_module_docs(&file("lib.rs", "//! The engine.\n")).is_none());
        assert!(opens_with_module_docs(&file("lib.rs", "mod a;\n//! Late.\n")).is_some());
    }
}
