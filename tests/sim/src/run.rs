//! One seed, from an empty world to a verdict. Two phases: while things go wrong, nothing that was promised may break; once
//! all is well again, everything has to come to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coda_client::{Admin, Client};
use coda_protocol::planted::{self, Bug};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot::error::TryRecvError;

use crate::book::Totals;
use crate::check::{LOOK_EVERY, Watch, copies_are_equal};
use crate::cluster::{calm, form};
use crate::faults::Faults;
use crate::log;
use crate::net::Counts;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::trace::Trace;
use crate::workload;

/// Futures of debug builds are large.
const STACK_BYTES: usize = 64 << 20;
/// A good network and idle nodes: a cluster is one soon.
const FORMS_WITHIN: Duration = Duration::from_secs(60);
/// From the last fault to the last result.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
/// One question of the operator's.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const CALM_WITHIN: Duration = Duration::from_secs(90);
const EQUAL_WITHIN: Duration = Duration::from_secs(20);
const READ_AGAIN_WITHIN: Duration = Duration::from_secs(20);

/// What a run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub seed: u64,
    /// Nothing may be wrong.
    pub problems: Vec<String>,
    pub hash: u64,
    pub events: u64,
    pub lived: Duration,
    pub totals: Totals,
    pub network: Counts,
    pub faults: BTreeMap<String, u32>,
    pub looks: u64,
    pub states: u64,
    /// Of them, against the whole log.
    pub replays: u64,
    pub terms: u64,
    /// Batches that power cuts took from logs, and from states that were not flushed.
    pub batches_lost: (u64, u64),
    pub syncs_refused: u64,
    pub snapshots_installed: u64,
}

/// Runs a plan, once in a process, with this bug if one is planted. On a thread of its own: what std and others keep per
/// thread, first of all the keys of hash maps, must not be older than the simulation. So nothing is done on it before that
/// begins.
///
/// # Panics
/// When the machine has no memory left for files.
#[must_use]
pub fn run(plan: Plan, bug: Option<Bug>, prints: bool) -> Verdict {
    log::collect_panics(prints);
    let dir = tempfile::Builder::new().prefix("coda-sim-").tempdir_in(memory()).expect("a folder in memory");
    let path = dir.path().to_owned();
    let thread = std::thread::Builder::new().name("simulation".into()).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || live(plan, bug, &path, prints)).expect("a thread");
    thread.join().expect("what panics in a simulation is a finding")
}

fn live(plan: Plan, bug: Option<Bug>, dir: &Path, prints: bool) -> Verdict {
    planted::plant(bug);
    let trace = Trace::new(prints);
    let seed = plan.seed;
    let mut play = Play {
        faults: Faults::new(&plan, Duration::MAX),
        stage: Stage::new(plan, dir, trace.clone()),
        watch: Watch::default(),
        problems: Vec::new(),
        next_look: Duration::ZERO,
    };
    play.all();
    let stage = &play.stage;
    let disks = stage.cluster.disks();
    Verdict {
        seed,
        problems: play.problems.clone(),
        hash: trace.hash(),
        events: trace.events(),
        lived: stage.world.now(),
        totals: stage.book.totals(),
        network: stage.world.net.counts(),
        faults: play.faults.counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        looks: play.watch.looks,
        states: play.watch.states,
        replays: play.watch.replays,
        terms: play.watch.terms,
        batches_lost: (disks.logged_lost, disks.unflushed_lost),
        syncs_refused: disks.refused,
        snapshots_installed: disks.installed,
    }
}

fn memory() -> &'static str {
    if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }
}

struct Play {
    stage: Stage,
    faults: Faults,
    watch: Watch,
    problems: Vec<String>,
    next_look: Duration,
}

impl Play {
    fn all(&mut self) {
        self.form();
        if !self.problems.is_empty() {
            return;
        }
        self.stage.world.net.set_quality(self.stage.plan.quality);
        self.faults = Faults::new(&self.stage.plan, self.stage.world.now());
        self.stage.begin();
        let end = self.stage.world.now() + self.stage.plan.trouble;
        while self.stage.world.now() < end && self.step() {
            let (faults, stage) = (&mut self.faults, &mut self.stage);
            faults.step(stage);
        }
        self.stage.finish();
        self.faults.stop(&mut self.stage);
        self.stage.heal();
        self.note("trouble is over");
        if !self.problems.is_empty() {
            return;
        }
        let open = |play: &Self| play.stage.book.open().is_empty();
        if !self.until(ENDS_WITHIN, open) {
            for (number, work) in self.stage.book.open() {
                self.problem(format!("accepted_work_ends: {number} has not ended: {work:?}"));
            }
            return;
        }
        self.note("all work has ended");
        self.calm();
        if self.problems.is_empty() {
            self.read_again();
        }
        if self.problems.is_empty() && !self.until_equal() {
            return;
        }
        let right = self.stage.plan.clocks_are_right();
        let problems = self.stage.book.problems(right);
        problems.into_iter().for_each(|problem| self.problem(problem));
    }

    fn form(&mut self) {
        let stage = &mut self.stage;
        let options = |node| stage.cluster.options(&stage.world, stage.operator, &[node]);
        let (first, others) = (options(1), (2..=stage.plan.nodes).map(options).collect());
        let what = form(first, others, stage.plan.replication_factor, stage.plan.groups);
        match self.wait(FORMS_WITHIN, what) {
            Some(Ok(())) => self.note("the cluster is one"),
            Some(Err(error)) => {
                self.problem(format!("well_again_in_time: the cluster cannot be formed: {} {error}", error.code()));
            }
            None => self.late("well_again_in_time: the cluster is not formed in time".into()),
        }
    }

    /// One tick, and whatever is to be checked after it; false once something is wrong.
    fn step(&mut self) -> bool {
        self.stage.world.step();
        self.stage.watch_nodes(&mut self.watch);
        if self.stage.world.now() >= self.next_look {
            self.next_look = self.stage.world.now() + LOOK_EVERY;
            let found = self.watch.look(&mut self.stage.world, &self.stage.cluster);
            found.into_iter().for_each(|problem| self.problem(problem));
            log::take_panics().into_iter().for_each(|panic| self.problem(format!("nodes_stay_up: panic of {panic}")));
            for stop in coda_raft_store::sim::stops() {
                self.problem(format!("nodes_stay_up: {stop}"));
            }
            self.stage.book.findings().into_iter().for_each(|problem| self.problem(problem));
        }
        self.problems.is_empty()
    }

    fn until(&mut self, within: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.stage.world.now() + within;
        while self.stage.world.now() < end && self.step() {
            if done(self) {
                return true;
            }
        }
        false
    }

    /// The operator does something, while everything else goes on; nothing if it takes too long.
    fn wait<T: Send + 'static>(
        &mut self,
        within: Duration,
        what: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut told = self.stage.world.begin(self.stage.operator, what);
        let end = self.stage.world.now() + within;
        while self.stage.world.now() < end && self.step() {
            match told.try_recv() {
                Ok(done) => return Some(done),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => return None,
            }
        }
        None
    }

    /// The operator sees that nothing is wrong.
    fn calm(&mut self) {
        let options = self.stage.options(self.stage.operator);
        let book = self.stage.book.clone();
        let wrong = Arc::new(Mutex::new(String::new()));
        let telling = wrong.clone();
        let what = async move {
            let client = workload::connect(options, &book).await;
            calm(&Admin::new(client.link().clone(), ANSWER_WITHIN), &telling).await;
            client.close().await;
        };
        if self.wait(CALM_WITHIN, what).is_none() {
            let wrong = wrong.lock().clone();
            self.late(format!("well_again_in_time: the cluster is not healthy again: {wrong}"));
        }
        self.note("the cluster is healthy");
    }

    /// A client that was not there before asks for every result.
    fn read_again(&mut self) {
        let options = self.stage.options(self.stage.operator);
        let book = self.stage.book.clone();
        let what = async move {
            let client: Client = workload::connect(options, &book).await;
            let ids = book.works().into_iter().map(|(number, work)| (number, work.kind, work.id)).collect::<Vec<_>>();
            workload::read_again(&client, &ids, &book).await;
            client.close().await;
        };
        if self.wait(READ_AGAIN_WITHIN, what).is_none() {
            self.late("reads_are_linearizable: not all results can be read again".into());
        }
    }

    /// All copies become equal, and are what the log leads to.
    fn until_equal(&mut self) -> bool {
        let end = self.stage.world.now() + EQUAL_WITHIN;
        loop {
            let equal = copies_are_equal(&mut self.stage.world, &self.stage.cluster);
            match equal {
                Ok(()) => break,
                Err(why) if self.stage.world.now() >= end => {
                    self.problem(format!("copies_are_equal: {why}"));
                    return false;
                }
                Err(_) if !self.step() => return false,
                Err(_) => {}
            }
        }
        (1..=self.stage.plan.nodes).for_each(|node| self.watch.look_anew(node));
        self.next_look = self.stage.world.now();
        self.step()
    }

    fn note(&self, what: &str) {
        self.stage.world.trace.event(self.stage.world.now(), what);
    }

    /// Something has not happened in time, unless time was up because of something else that is wrong.
    fn late(&mut self, what: String) {
        if self.problems.is_empty() {
            self.problem(what);
        }
    }

    fn problem(&mut self, what: String) {
        if self.problems.contains(&what) {
            return;
        }
        self.note(&format!("PROBLEM {what}"));
        self.problems.push(what);
    }
}
