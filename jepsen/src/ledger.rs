//! What bodies of steps and readers of their results have written down, in this process and in others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use coda_checkers::Violation;
use coda_checkers::memo::{self, Look, Offer};
use coda_checkers::properties::ONE_VALUE_PER_KEY;
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
    pub fn problems(&self, step: &StepId) -> Vec<Violation> {
        let key = || format!("run {}, {}", step.run, step.step);
        let offers: Vec<_> =
            self.begun.iter().map(|(at, by)| Offer { key: key(), value: by.as_str(), at: at.0 }).collect();
        let reads: Vec<(u64, Made)> = self.read.iter().map(|(at, made)| (at.0, made.clone())).collect();
        let looks: Vec<_> = reads
            .iter()
            .map(|(at, made)| Look {
                key: key(),
                value: Some(made.by.as_str()),
                asked: *at,
                answered: *at,
                index: None,
            })
            .collect();
        let mut broken = memo::check(&offers, &looks, LATE.as_micros() as u64);
        let first = reads.first();
        if let Some((_, other)) =
            reads.iter().find(|(_, other)| first.is_some_and(|(_, made)| other.value != made.value))
        {
            let detail = format!("{}: readers see two results: {first:?} and {other:?}", key());
            broken.push(Violation::new(ONE_VALUE_PER_KEY, detail));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(by: &str) -> Made {
        Made { value: 7, by: by.to_owned() }
    }

    fn names(page: &Page) -> Vec<&'static str> {
        let step = StepId { run: 1, step: "first".into() };
        page.problems(&step).into_iter().map(|broken| broken.property.name()).collect()
    }

    #[test]
    fn a_step_that_was_done_twice_and_recorded_once_is_fine() {
        let begun = vec![(Moment(1), "a".to_owned()), (Moment(2), "b".to_owned())];
        let page = Page { begun, read: vec![(Moment(3), made("b")), (Moment(9), made("b"))] };
        assert_eq!(names(&page), [""; 0]);
    }

    #[test]
    fn two_results_an_unknown_execution_and_a_late_one_are_found() {
        let begun = vec![(Moment(1), "a".to_owned()), (Moment(2_000_000), "b".to_owned())];
        let page = Page { begun, read: vec![(Moment(3), made("a")), (Moment(9), made("c"))] };
        assert_eq!(names(&page), ["one_value_per_key", "nothing_is_invented", "known_results_are_not_made_again"]);
        let page = Page { begun: Vec::new(), read: vec![(Moment(3), made("a"))] };
        assert_eq!(names(&page), ["nothing_is_invented"]);
        let other = Made { value: 8, ..made("a") };
        let page =
            Page { begun: vec![(Moment(1), "a".to_owned())], read: vec![(Moment(3), made("a")), (Moment(4), other)] };
        assert_eq!(names(&page), ["one_value_per_key"]);
    }
}
