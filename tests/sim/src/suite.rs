//! Many seeds, side by side, and what they came to.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coda_protocol::planted::Bug;
use parking_lot::Mutex;

use crate::child::Order;
use crate::plan::FAULTS;
use crate::run::Verdict;

/// In so many seeds everything has to happen.
const SEEDS_THAT_COVER: u64 = 300;
const PROGRESS_EVERY: Duration = Duration::from_secs(20);

/// How to run them.
pub struct Suite {
    pub seeds: RangeInclusive<u64>,
    pub jobs: usize,
    pub planted: Option<Bug>,
    /// Each seed is run twice, and both have to be the same in everything.
    pub check_determinism: bool,
    /// Nothing more is begun after so many failures.
    pub failures_max: usize,
}

/// What all seeds came to.
#[derive(Default)]
pub struct Outcome {
    pub seeds: u64,
    pub failures: Vec<(Order, Vec<String>)>,
    pub lived: Duration,
    /// By when they have lived: real time is `took`.
    pub took: Duration,
    pub faults: BTreeMap<String, u64>,
    pub asked: u64,
    pub ended: u64,
    pub executions: u64,
    pub repeated: u64,
    pub datagrams: u64,
    pub states: u64,
    pub replays: u64,
    pub terms: u64,
    pub batches_lost: (u64, u64),
    pub syncs_refused: u64,
    pub snapshots_installed: u64,
}

impl Suite {
    #[must_use]
    pub fn run(&self) -> Outcome {
        let next = AtomicU64::new(*self.seeds.start());
        let stop = AtomicBool::new(false);
        let outcome = Mutex::new(Outcome::default());
        let (began, spoke) = (Instant::now(), Mutex::new(Instant::now()));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed > *self.seeds.end() {
                            return;
                        }
                        let order = Order { planted: self.planted, ..Order::of(seed) };
                        let (verdict, problems) = self.one(&order);
                        let mut outcome = outcome.lock();
                        outcome.add(verdict);
                        if !problems.is_empty() {
                            println!("seed {seed} FAILS: {}", problems[0]);
                            outcome.failures.push((order, problems));
                            stop.fetch_or(outcome.failures.len() >= self.failures_max, Ordering::Relaxed);
                        }
                        let mut spoke = spoke.lock();
                        if spoke.elapsed() >= PROGRESS_EVERY {
                            *spoke = Instant::now();
                            println!("{} seeds in {} s", outcome.seeds, began.elapsed().as_secs());
                        }
                    }
                });
            }
        });
        let mut outcome = outcome.into_inner();
        outcome.took = began.elapsed();
        outcome
    }

    fn one(&self, order: &Order) -> (Option<Verdict>, Vec<String>) {
        let verdict = match order.run() {
            Ok(verdict) => verdict,
            Err(why) => return (None, vec![format!("process: {why}")]),
        };
        let mut problems = verdict.problems.clone();
        if self.check_determinism {
            match order.run() {
                Ok(again) if again.hash == verdict.hash => {}
                Ok(again) => problems.push(format!("determinism: {:016x}, then {:016x}", verdict.hash, again.hash)),
                Err(why) => problems.push(format!("process: {why}")),
            }
        }
        (Some(verdict), problems)
    }
}

impl Outcome {
    fn add(&mut self, verdict: Option<Verdict>) {
        self.seeds += 1;
        let Some(verdict) = verdict else { return };
        self.lived += verdict.lived;
        for (name, count) in verdict.faults {
            *self.faults.entry(name).or_default() += u64::from(count);
        }
        self.asked += verdict.totals.asked;
        self.ended += verdict.totals.ended;
        self.executions += verdict.totals.executions;
        self.repeated += verdict.totals.repeated;
        self.datagrams += verdict.network.delivered;
        self.states += verdict.states;
        self.replays += verdict.replays;
        self.terms += verdict.terms;
        self.batches_lost.0 += verdict.batches_lost.0;
        self.batches_lost.1 += verdict.batches_lost.1;
        self.syncs_refused += verdict.syncs_refused;
        self.snapshots_installed += verdict.snapshots_installed;
    }

    pub fn print(&self) {
        let minutes = self.took.as_secs_f64() / 60.0;
        println!(
            "{} seeds, {} failed; {:.1} minutes of work for {:.2} hours of a cluster's life, {:.0} seeds a minute",
            self.seeds,
            self.failures.len(),
            minutes,
            self.lived.as_secs_f64() / 3_600.0,
            self.seeds as f64 / minutes
        );
        println!(
            "{} pieces of work, {} ended; {} bodies, {} of them again; {} datagrams; {} leaders; {} states looked at, {} of \
             them beside the whole log",
            self.asked,
            self.ended,
            self.executions,
            self.repeated,
            self.datagrams,
            self.terms,
            self.states,
            self.replays
        );
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("faults: {}", faults.join(", "));
        let (logged, unflushed) = self.batches_lost;
        let (refused, installed) = (self.syncs_refused, self.snapshots_installed);
        println!(
            "power cuts took {logged} batches of logs and {unflushed} of states; disks refused {refused} times; \
             {installed} snapshots were installed"
        );
    }

    /// What should have happened in so many seeds, and has not: a run in which faults do not bite says nothing.
    #[must_use]
    pub fn holes(&self) -> Vec<String> {
        if self.seeds < SEEDS_THAT_COVER {
            return Vec::new();
        }
        let absent = FAULTS.iter().filter(|name| !self.faults.contains_key(**name));
        let mut holes: Vec<String> = absent.map(|name| format!("no {name} has happened")).collect();
        let (logged, unflushed) = self.batches_lost;
        for (what, count) in [
            ("a body was executed again", self.repeated),
            ("a power cut took what was not synced", logged),
            ("a power cut took what was not flushed", unflushed),
            ("a disk refused a write", self.syncs_refused),
            ("a snapshot was installed", self.snapshots_installed),
            ("a state was compared with the whole log", self.replays),
        ] {
            if count == 0 {
                holes.push(format!("never: {what}"));
            }
        }
        holes
    }
}
