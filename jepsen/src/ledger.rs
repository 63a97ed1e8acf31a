//! What bodies of steps and readers of their results have written down, in this process and in others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// A body that begins so long after its step's result was read was started though the cluster knew the result. Before, the
/// lease may have been on its way.
pub const LATE: Duration = Duration::from_secs(1);

/// One step of one run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepId {
    pub run: u64,
    pub step: String,
}

/// What a step returned, and which execution of its body made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Made {
    pub value: u64,
    /// Different for each execution of each process.
    pub by: String,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Ledger {
    pages: Arc<Mutex<BTreeMap<StepId, Page>>>,
    executions: Arc<AtomicU64>,
}

/// All about one step.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// When a body began, and which execution that was.
    pub begun: Vec<(Moment, String)>,
    /// When a reader had the result, and what it was.
    pub read: Vec<(Moment, Made)>,
}

/// As programs in other languages write it.
#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
enum Line {
    Begin { at: u64, run: u64, step: String, by: String },
    Read { at: u64, run: u64, step: String, value: u64, by: String },
}

impl Ledger {
    /// A body begins; its name, which nobody else has.
    pub fn begin(&self, run: u64, step: &str) -> String {
        let by = format!("rust-{}", self.executions.fetch_add(1, Ordering::Relaxed));
        self.page(run, step, |page| page.begun.push((Moment::now(), by.clone())));
        by
    }

    /// Somebody has the step's result.
    pub fn read(&self, run: u64, step: &str, made: Made) {
        self.page(run, step, |page| page.read.push((Moment::now(), made)));
    }

    /// Adds what a program has written into a file, line by line. A kill may have left half a line at the end.
    pub fn add(&self, path: &Path) -> anyhow::Result<()> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))? {
                Line::Begin { at, run, step, by } => self.page(run, &step, |page| page.begun.push((Moment(at), by))),
                Line::Read { at, run, step, value, by } => {
                    self.page(run, &step, |page| page.read.push((Moment(at), Made { value, by })));
                }
            }
        }
        Ok(())
    }

    pub fn pages(&self) -> BTreeMap<StepId, Page> {
        self.pages.lock().clone()
    }

    fn page(&self, run: u64, step: &str, write: impl FnOnce(&mut Page)) {
        write(self.pages.lock().entry(StepId { run, step: step.to_owned() }).or_default());
    }
}

impl Page {
    /// What is wrong with it, if anything.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let Some((first, made)) = self.read.iter().min_by_key(|(at, _)| *at) else { return problems };
        if let Some((_, other)) = self.read.iter().find(|(_, other)| other != made) {
            problems.push(format!("readers see two results: {made:?} and {other:?}"));
        }
        if !self.begun.iter().any(|(_, by)| *by == made.by) {
            problems.push(format!("the result is of an execution that nobody has begun: {made:?}"));
        }
        let late = self.begun.iter().filter(|(at, _)| at.since(*first) > LATE);
        problems.extend(late.map(|(at, by)| {
            format!("{by} began {} ms after the result of {} was read", at.since(*first).as_millis(), made.by)
        }));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(by: &str) -> Made {
        Made { value: 7, by: by.to_owned() }
    }

    #[test]
    fn a_step_that_was_done_twice_and_recorded_once_is_fine() {
        let begun = vec![(Moment(1), "a".to_owned()), (Moment(2), "b".to_owned())];
        let page = Page { begun, read: vec![(Moment(3), made("b")), (Moment(9), made("b"))] };
        assert_eq!(page.problems(), Vec::<String>::new());
    }

    #[test]
    fn two_results_an_unknown_execution_and_a_late_one_are_found() {
        let begun = vec![(Moment(1), "a".to_owned()), (Moment(2_000_000), "b".to_owned())];
        let page = Page { begun, read: vec![(Moment(3), made("a")), (Moment(9), made("c"))] };
        let problems = page.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("two results") && problems[1].starts_with("b began 1999 ms"), "{problems:?}");
        let page = Page { begun: Vec::new(), read: vec![(Moment(3), made("a"))] };
        assert!(page.problems()[0].contains("nobody has begun"));
    }
}
