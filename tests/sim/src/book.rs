//! What clients, readers and the bodies of steps write down while a run lasts, and what is wrong with it. What comes out of
//! every step is known from what goes in; who has made it is told apart by a name that no other execution has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::{GroupId, Position};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shims;
use crate::trace::Trace;

/// A body that begins so long after its step's result was read was started though the cluster knew the result. Before, the
/// lease may have been on its way.
const LATE: Duration = Duration::from_secs(20);
/// Values stay below this.
const MODULUS: u64 = 1_000_003;

/// What a step returned, and which execution of its body made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Made {
    pub value: u64,
    pub by: u64,
}

/// What a run returns: each step as its workflow function saw it.
pub type Seen = BTreeMap<String, Made>;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A run with an inline step, tasks side by side, and another inline step.
    Ledger { sides: u8, delay_ms: u64 },
    /// A run with child runs, each of which has one task.
    Family { children: u8 },
    /// A task of its own, whose first attempts fail.
    Task { delay_ms: u64, fails: u32 },
    /// A task that always fails, after so many retries for good.
    Hopeless { retries: u32 },
}

impl Kind {
    /// What its steps are called.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        match self {
            Self::Ledger { sides, .. } => {
                let sides = (0..*sides).map(|side| format!("side-{side}"));
                ["first".to_owned()].into_iter().chain(sides).chain(["last".to_owned()]).collect()
            }
            Self::Family { children } => (0..*children).map(|child| format!("child-{child}")).collect(),
            Self::Task { .. } => vec!["task".into()],
            Self::Hopeless { .. } => Vec::new(),
        }
    }
}

/// What a step makes of its input.
#[must_use]
pub fn value(number: u64, step: &str) -> u64 {
    let step: u64 = step.bytes().map(u64::from).sum();
    (number * 31 + step * 7) % MODULUS
}

/// How something ended, as a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Seen(Seen),
    Failed(String),
}

/// One piece of work, as its client knows it.
#[derive(Clone, Debug)]
pub struct Work {
    pub id: [u8; 16],
    pub kind: Kind,
    pub asked: Duration,
    pub acknowledged: Option<Duration>,
    /// Where it was acknowledged.
    pub position: Option<Position>,
    pub ended: Option<(Duration, End)>,
}

/// All about one step.
#[derive(Clone, Debug, Default)]
struct Page {
    /// When a body began, and which execution that was.
    begun: Vec<(Duration, u64)>,
    /// When somebody had the result, and what it was.
    read: Vec<(Duration, Made)>,
}

/// Clones are the same book.
#[derive(Clone)]
pub struct Book(Arc<Mutex<Inner>>);

struct Inner {
    trace: Trace,
    works: BTreeMap<u64, Work>,
    pages: BTreeMap<(u64, String), Page>,
    /// By group, the latest position of any answer.
    told: BTreeMap<GroupId, Position>,
    executions: u64,
    findings: Vec<String>,
}

/// How much there was of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub asked: u64,
    pub acknowledged: u64,
    pub ended: u64,
    pub executions: u64,
    pub repeated: u64,
}

impl Book {
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            trace,
            works: BTreeMap::new(),
            pages: BTreeMap::new(),
            told: BTreeMap::new(),
            executions: 0,
            findings: Vec::new(),
        })))
    }

    pub fn asked(&self, number: u64, id: [u8; 16], kind: Kind) {
        let work = Work { id, kind, asked: shims::now(), acknowledged: None, position: None, ended: None };
        let mut inner = self.0.lock();
        inner.trace.event(shims::now(), format_args!("asked {number} {:?}", work.kind));
        inner.works.insert(number, work);
    }

    pub fn acknowledged(&self, number: u64, position: Option<Position>) {
        let mut inner = self.0.lock();
        inner.trace.event(shims::now(), format_args!("acknowledged {number}"));
        if let Some(work) = inner.works.get_mut(&number) {
            work.acknowledged = Some(shims::now());
            work.position = position;
        }
        drop(inner);
        if let Some(position) = position {
            self.told(position);
        }
    }

    /// Somebody had an answer that stands here.
    pub fn told(&self, position: Position) {
        let mut inner = self.0.lock();
        let last = inner.told.entry(GroupId(position.group)).or_insert(position);
        *last = position.max(*last);
    }

    /// Of a group, the latest position that anybody was told so far.
    #[must_use]
    pub fn last_told(&self, group: GroupId) -> Option<Position> {
        self.0.lock().told.get(&group).copied()
    }

    /// A client was told how it ended. The first time, or once more: then it has to be the same.
    pub fn ended(&self, number: u64, end: End) {
        let mut inner = self.0.lock();
        let now = shims::now();
        inner.trace.event(now, format_args!("ended {number} {end:?}"));
        let Some(work) = inner.works.get_mut(&number) else { return };
        match &work.ended {
            None => work.ended = Some((now, end.clone())),
            Some((_, before)) if *before == end => {}
            Some((_, before)) => {
                let before = before.clone();
                inner.findings.push(format!("one_end_per_work: {number} ended as {end:?}, and before as {before:?}"));
            }
        }
        if let End::Seen(seen) = end {
            for (step, made) in seen {
                inner.pages.entry((number, step)).or_default().read.push((now, made));
            }
        }
    }

    /// A body begins; its name, and how many have begun before for this step.
    #[must_use]
    pub fn begin(&self, number: u64, step: &str) -> (u64, u32) {
        let mut inner = self.0.lock();
        inner.executions += 1;
        let by = inner.executions;
        inner.trace.event(shims::now(), format_args!("begin {number} {step} by {by}"));
        let page = inner.pages.entry((number, step.to_owned())).or_default();
        page.begun.push((shims::now(), by));
        (by, page.begun.len() as u32 - 1)
    }

    /// A workflow function has a step's result.
    pub fn read(&self, number: u64, step: &str, made: &Made) {
        let mut inner = self.0.lock();
        inner.pages.entry((number, step.to_owned())).or_default().read.push((shims::now(), made.clone()));
    }

    pub fn find(&self, what: impl Into<String>) {
        self.0.lock().findings.push(what.into());
    }

    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.0.lock().findings.clone()
    }

    /// One of the last that were acknowledged, in this group if it is asked for one; 0 is the last.
    #[must_use]
    pub fn latest_acknowledged(&self, group: Option<GroupId>, back: usize) -> Option<(u64, Work)> {
        let inner = self.0.lock();
        let in_group = |work: &Work| {
            group.is_none() || work.position.is_some_and(|position| Some(GroupId(position.group)) == group)
        };
        let known = inner.works.iter().filter(|(_, work)| work.acknowledged.is_some() && in_group(work));
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|(_, work)| work.ended.as_ref().map_or(work.acknowledged, |(at, _)| Some(*at)));
        known.iter().rev().nth(back).map(|(number, work)| (**number, (*work).clone()))
    }

    /// What has not ended.
    #[must_use]
    pub fn open(&self) -> Vec<(u64, Work)> {
        let inner = self.0.lock();
        let open = inner.works.iter().filter(|(_, work)| work.ended.is_none());
        open.map(|(number, work)| (*number, work.clone())).collect()
    }

    #[must_use]
    pub fn works(&self) -> Vec<(u64, Work)> {
        self.0.lock().works.iter().map(|(number, work)| (*number, work.clone())).collect()
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        let inner = self.0.lock();
        let count = |which: fn(&Work) -> bool| inner.works.values().filter(|work| which(work)).count() as u64;
        Totals {
            asked: inner.works.len() as u64,
            acknowledged: count(|work| work.acknowledged.is_some()),
            ended: count(|work| work.ended.is_some()),
            executions: inner.executions,
            repeated: inner.pages.values().map(|page| page.begun.len().saturating_sub(1) as u64).sum(),
        }
    }

    /// Everything that is wrong in it. Whether clocks were right is for whoever asks to know: delays are by the clock.
    #[must_use]
    pub fn problems(&self, clocks_were_right: bool) -> Vec<String> {
        let inner = self.0.lock();
        let mut problems = inner.findings.clone();
        for (number, work) in &inner.works {
            problems.extend(inner.work_problems(*number, work, clocks_were_right));
        }
        for ((number, step), page) in &inner.pages {
            problems.extend(page.problems().into_iter().map(|problem| format!("{problem} (work {number}, {step})")));
        }
        problems
    }
}

impl Inner {
    fn work_problems(&self, number: u64, work: &Work, clocks_were_right: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let begun = |step: &str| self.pages.get(&(number, step.to_owned())).map_or(&[][..], |page| &page.begun);
        if let Kind::Ledger { delay_ms, .. } | Kind::Task { delay_ms, .. } = work.kind
            && clocks_were_right
        {
            let due = work.asked + Duration::from_millis(delay_ms);
            let early =
                work.kind.steps().into_iter().flat_map(|step| begun(&step).to_vec()).filter(|(at, _)| *at < due);
            problems.extend(
                early.map(|(at, _)| format!("timers_never_early: {number} was due at {due:?} and began at {at:?}")),
            );
        }
        let Some((_, end)) = &work.ended else { return problems };
        match (&work.kind, end) {
            (Kind::Hopeless { retries }, End::Failed(_)) => {
                let tried = begun("hopeless").len();
                if tried <= *retries as usize {
                    problems.push(format!("retries_follow_policy: {number} has failed after {tried} attempts, {retries} retries were allowed"));
                }
            }
            (Kind::Ledger { .. } | Kind::Family { .. } | Kind::Task { .. }, End::Seen(seen)) => {
                let right = |step: &String| seen.get(step).is_some_and(|made| made.value == value(number, step));
                let steps = work.kind.steps();
                if steps.len() != seen.len() || !steps.iter().all(right) {
                    problems.push(format!("nothing_is_invented: {number} {:?} ended as {seen:?}", work.kind));
                }
            }
            (kind, end) => problems.push(format!("nothing_is_invented: {number} {kind:?} ended as {end:?}")),
        }
        problems
    }
}

impl Page {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let Some((first, made)) = self.read.iter().min_by_key(|(at, _)| *at) else { return problems };
        if let Some((_, other)) = self.read.iter().find(|(_, other)| other != made) {
            problems.push(format!("one_value_per_key: readers see two results: {made:?} and {other:?}"));
        }
        if !self.begun.iter().any(|(_, by)| *by == made.by) {
            problems
                .push(format!("nothing_is_invented: the result is of an execution that nobody has begun: {made:?}"));
        }
        let late = self.begun.iter().filter(|(at, _)| at.saturating_sub(*first) > LATE);
        problems.extend(late.map(|(at, by)| {
            format!("known_results_are_not_made_again: {by} began at {at:?}, the result was known at {first:?}")
        }));
        problems
    }
}
