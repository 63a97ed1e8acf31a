//! The simulation itself: the same seed twice is the same, a planted bug is found, and what was found once stays found.

use std::collections::BTreeSet;
use std::process::Command;

use coda_sim::plan::Plan;
use coda_sim::run::Verdict;

fn seed(arguments: &[&str]) -> Verdict {
    let output = Command::new(env!("CARGO_BIN_EXE_coda-sim")).arg("seed").args(arguments).arg("--json").output();
    let output = output.expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().next_back().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(line).expect("a verdict")
}

/// The first seed whose plan is like this.
fn first(like: impl Fn(&Plan) -> bool) -> String {
    (1..).find(|seed| like(&Plan::of(*seed))).expect("there are many").to_string()
}

#[test]
fn one_seed_is_one_history_and_another_is_another() {
    let kinds = |plan: &Plan| plan.faults.iter().map(|planned| planned.fault.name()).collect::<BTreeSet<_>>();
    let many = first(|plan| kinds(plan).len() >= 8);
    let (one, again) = (seed(&[&many]), seed(&[&many]));
    assert_eq!(one.problems, Vec::<String>::new(), "seed {many}");
    assert_eq!((one.hash, one.events, one.totals), (again.hash, again.events, again.totals), "seed {many}");
    assert!(one.totals.ended > 0, "{one:?}");
    assert_ne!(seed(&[&many, "--only"]).hash, one.hash, "without faults it is another");
}

#[test]
fn a_planted_bug_is_found() {
    let fails = first(|plan| plan.load.mix[3] >= 3 && plan.faults.is_empty());
    let verdict = seed(&[&fails, "--planted=retry-dropped"]);
    let found = verdict.problems.iter().any(|problem| problem.starts_with("retries_follow_policy: "));
    assert!(found, "seed {fails}: {:?}", verdict.problems);
}
