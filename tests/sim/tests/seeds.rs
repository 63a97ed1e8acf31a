//! The simulation itself: the same seed twice is the same, a planted bug is found, and what was found once stays found.

use std::process::Command;

use coda_sim::run::Verdict;

fn seed(arguments: &[&str]) -> Verdict {
    let output = Command::new(env!("CARGO_BIN_EXE_coda-sim")).arg("seed").args(arguments).arg("--json").output();
    let output = output.expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().next_back().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(line).expect("a verdict")
}

/// Power cuts, kills, pauses, a partition, a failed sync and a full disk.
const MANY_FAULTS: &str = "1";

#[test]
fn one_seed_is_one_history_and_another_is_another() {
    let (one, again) = (seed(&[MANY_FAULTS]), seed(&[MANY_FAULTS]));
    assert_eq!(one.problems, Vec::<String>::new());
    assert_eq!((one.hash, one.events, one.totals), (again.hash, again.events, again.totals));
    assert!(one.totals.ended > 0 && one.faults.len() > 5, "{one:?}");
    assert_ne!(seed(&["2"]).hash, one.hash);
}

#[test]
fn a_planted_bug_is_found() {
    let verdict = seed(&["2", "--planted=retry-dropped"]);
    assert!(
        verdict.problems.iter().any(|problem| problem.starts_with("retries_follow_policy: ")),
        "{:?}",
        verdict.problems
    );
}
