//! A leader, clients and workers around one engine, driven by a seed.

mod deliver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coda_engine::apply::apply;
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Applied, Entry, Grant, Lane};
use coda_engine::kv::MemKv;
use coda_engine::recover::recover;
use coda_engine::tables::{DUE, LANE, LEASE, QUEUE};
use coda_engine::{invariants, query};
use coda_protocol::ids::{GroupId, LeaseId, Millis, Name, RunId, SessionId, TaskId, Timestamp, Work, WorkKind};
use coda_protocol::request::{StartRun, SubmitTask};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::oracle::Oracle;
use crate::program::{Input, policy};
use crate::worker::Worker;

pub const GROUP: GroupId = GroupId(3);
const QUEUES: [&str; 2] = ["q", "z"];

pub struct Sim {
    pub kv: MemKv,
    /// Everything that was applied, and what it came to: enough to do it again.
    pub log: Vec<(Entry, Applied)>,
    rng: StdRng,
    now: u64,
    oracle: Oracle,
    workers: Vec<Worker>,
    sessions: u8,
    // What the leader knows, from hints alone.
    lanes: BTreeSet<Lane>,
    wake: Option<Timestamp>,
    gone: BTreeSet<SessionId>,
    held: BTreeMap<SessionId, u32>,
    // Wishes on their way to the leader.
    waiting: Vec<(Command, Origin)>,
    /// For repeating what the network may repeat.
    sent: Vec<Command>,
    runs: Vec<RunId>,
    tasks: Vec<TaskId>,
    ids: u64,
    results: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The answer goes nowhere.
    Nobody,
    Worker(SessionId),
    Execution(SessionId, LeaseId),
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        let mut sim = Self {
            kv: MemKv::default(),
            log: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            oracle: Oracle::default(),
            workers: Vec::new(),
            sessions: 0,
            lanes: BTreeSet::new(),
            wake: None,
            gone: BTreeSet::new(),
            held: BTreeMap::new(),
            waiting: Vec::new(),
            sent: Vec::new(),
            runs: Vec::new(),
            tasks: Vec::new(),
            ids: 0,
            results: 0,
        };
        // The first can do everything, so that all work can be done in the end.
        let all = ["a", "b", "c", "v", "w"];
        for names in [&all[..], &all[..3], &all[2..]] {
            let session = sim.next_session();
            sim.workers.push(Worker::new(session, names.iter().map(Name::new).collect()));
        }
        sim
    }

    fn next_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId([self.sessions; 16])
    }

    /// Random deeds with faults, then calm until nothing is left to do.
    pub fn run(&mut self, deeds: usize) {
        for _ in 0..deeds {
            self.deed();
        }
        self.calm_down();
        self.forget();
    }

    fn deed(&mut self) {
        let worker = self.rng.random_range(0..self.workers.len());
        match self.rng.random_range(0..100) {
            0..=5 => self.submit(),
            6..=9 => self.start(),
            10..=44 => self.act(worker, false),
            45..=47 => self.vanish(worker),
            48..=51 => self.come_back(worker),
            52 => self.die(worker),
            53..=54 => self.repeat(),
            55 => {
                let queue = Name::new(QUEUES[self.rng.random_range(0..2)]);
                let pause = self.rng.random_bool(0.5);
                let command = if pause { Command::PauseQueue { queue } } else { Command::UnpauseQueue { queue } };
                self.waiting.push((command, Origin::Nobody));
            }
            56..=57 => self.end_gone(),
            58..=64 => self.now += self.rng.random_range(0..2_000),
            65 => self.fail_over(),
            _ => self.propose(),
        }
    }

    // Clients.

    fn id(&mut self) -> [u8; 16] {
        self.ids += 1;
        u128::from(self.ids).to_be_bytes()
    }

    fn delay(&mut self) -> Millis {
        Millis(if self.rng.random_bool(0.3) { self.rng.random_range(1..5_000) } else { 0 })
    }

    fn submit(&mut self) {
        let submit = SubmitTask {
            task: TaskId(self.id()),
            name: ["a", "b", "c"][self.rng.random_range(0..3)].into(),
            queue: QUEUES[self.rng.random_range(0..2)].into(),
            args: Input { seed: 0, depth: 0 }.payload(),
            priority: self.rng.random_range(3..6),
            policy: policy(&mut self.rng),
            delay: self.delay(),
        };
        self.tasks.push(submit.task);
        self.waiting.push((Command::SubmitTask(submit), Origin::Nobody));
    }

    fn start(&mut self) {
        let start = StartRun {
            run: RunId(self.id()),
            workflow: ["v", "w"][self.rng.random_range(0..2)].into(),
            queue: QUEUES[self.rng.random_range(0..2)].into(),
            input: Input { seed: self.rng.random(), depth: 0 }.payload(),
            priority: self.rng.random_range(3..6),
            policy: policy(&mut self.rng),
            delay: self.delay(),
        };
        self.runs.push(start.run);
        self.waiting.push((Command::StartRun(start), Origin::Nobody));
    }

    /// An old message arrives once more.
    fn repeat(&mut self) {
        if !self.sent.is_empty() {
            let command = self.sent[self.rng.random_range(0..self.sent.len())].clone();
            self.waiting.push((command, Origin::Nobody));
        }
    }

    // Workers.

    fn act(&mut self, i: usize, calm: bool) {
        let worker = &mut self.workers[i];
        if !worker.connected || worker.resuming {
            return;
        }
        let session = worker.session;
        let Some(command) = worker.act(&mut self.rng, &mut self.results, calm) else { return };
        let origin = match &command {
            Command::Spawn(spawn) => Origin::Execution(session, spawn.lease),
            Command::RecordStep(record) => Origin::Execution(session, record.lease),
            Command::CompleteRun(complete) => Origin::Execution(session, complete.lease),
            Command::ParkRun(park) => Origin::Execution(session, park.lease),
            _ => Origin::Worker(session),
        };
        self.waiting.push((command, origin));
    }

    fn vanish(&mut self, i: usize) {
        let worker = &mut self.workers[i];
        if worker.connected {
            worker.connected = false;
            worker.resuming = false;
            self.gone.insert(worker.session);
        }
    }

    fn come_back(&mut self, i: usize) {
        let worker = &mut self.workers[i];
        if worker.connected {
            return;
        }
        worker.connected = true;
        self.gone.remove(&worker.session);
        self.resume(i);
    }

    fn resume(&mut self, i: usize) {
        let worker = &mut self.workers[i];
        worker.resuming = true;
        // What waited for an answer on the old connection asks again.
        worker.runs.values_mut().for_each(|execution| execution.busy = false);
        let (session, held) = (worker.session, worker.held());
        self.waiting.retain(|(_, origin)| match origin {
            Origin::Worker(of) | Origin::Execution(of, _) => *of != session,
            Origin::Nobody => true,
        });
        self.waiting.push((Command::ResumeSession { session, held }, Origin::Worker(session)));
    }

    /// The process is gone with all it knew; another takes its place.
    fn die(&mut self, i: usize) {
        let session = self.next_session();
        let old = std::mem::replace(&mut self.workers[i], Worker::new(session, Vec::new()));
        self.workers[i].names = old.names;
        self.gone.insert(old.session);
    }

    // The leader.

    fn end_gone(&mut self) {
        let Some(session) = self.gone.pop_first() else { return };
        self.waiting.push((Command::EndSession { session }, Origin::Nobody));
    }

    /// Another leader: what was only in memory is gone, the rest is found again in state.
    fn fail_over(&mut self) {
        let kept = self.rng.random_range(0..=self.waiting.len());
        self.waiting.truncate(kept);
        self.take_over();
    }

    fn take_over(&mut self) {
        self.lanes.clear();
        self.wake = None;
        self.gone.clear();
        for effect in recover(&self.kv, GROUP) {
            match effect {
                Effect::SessionHolds(session) => drop(self.gone.insert(session)),
                hint => self.hint(&hint),
            }
        }
        for i in 0..self.workers.len() {
            if self.workers[i].connected {
                self.gone.remove(&self.workers[i].session);
                self.resume(i);
            }
        }
    }

    fn propose(&mut self) {
        let count = self.rng.random_range(0..=self.waiting.len().min(6));
        let batch: Vec<_> = self.waiting.drain(..count).collect();
        self.propose_batch(batch, true);
    }

    fn propose_batch(&mut self, batch: Vec<(Command, Origin)>, faults: bool) {
        let mut entry = Entry { now: Timestamp(self.now), ..Entry::default() };
        entry.commands = batch.iter().map(|(command, _)| command.clone()).collect();
        if self.wake.is_some_and(|wake| wake.0 <= self.now) {
            self.wake = None;
            entry.commands.push(Command::Tick);
        }
        self.grant(&mut entry);
        let index = self.log.len() as u64 + 1;
        self.oracle.time(self.now);
        entry.commands.iter().for_each(|command| self.oracle.sent(command));
        let applied = apply(&mut self.kv, GROUP, index, &entry);
        let broken = invariants::check_at(&self.kv, GROUP, index);
        assert!(broken.is_empty(), "index {index}, {entry:?}: {broken:#?}");
        self.judge(&entry, &applied);
        if faults && self.rng.random_bool(0.04) {
            // All that it had to say is lost, answers included.
            self.take_over();
        } else {
            self.deliver(&batch, &applied);
        }
        self.log.push((entry, applied));
        self.knows_enough();
    }

    /// Hints, or a recovery, tell the leader of every lane it could serve and of the next due time.
    fn knows_enough(&self) {
        for (lane, row) in LANE.all(&self.kv, GROUP) {
            let paused = QUEUE.get(&self.kv, GROUP, &lane.queue).is_some_and(|queue| queue.paused);
            let is_known = self.lanes.contains(&lane) || row.ready == 0 || paused;
            assert!(is_known, "the leader does not know of {lane:?} {row:?}");
        }
        let due = DUE.all(&self.kv, GROUP).first().map(|(key, ())| key.at);
        assert!(due.is_none_or(|due| self.wake.is_some_and(|wake| wake <= due)), "{due:?}, known is {:?}", self.wake);
    }

    fn grant(&mut self, entry: &mut Entry) {
        entry.lanes = std::mem::take(&mut self.lanes).into_iter().collect();
        for worker in self.workers.iter().filter(|worker| worker.connected && !worker.resuming) {
            let names = entry.name_sets.len() as u32;
            entry.name_sets.push(Arc::from(worker.names.clone()));
            for (kind, max, used) in
                [(WorkKind::Task, 3usize, worker.tasks.len()), (WorkKind::Run, 2, worker.runs.len())]
            {
                let slots = self.rng.random_range(0..=max).saturating_sub(used) as u32;
                let queues = QUEUES.into_iter().filter(|_| slots > 0);
                let grant = |queue: &str| Grant { session: worker.session, queue: queue.into(), kind, names, slots };
                entry.grants.extend(queues.map(grant));
            }
        }
        if entry.grants.is_empty() {
            // Lanes travel with slots only; they stay known.
            self.lanes = std::mem::take(&mut entry.lanes).into_iter().collect();
        }
    }

    fn judge(&mut self, entry: &Entry, applied: &Applied) {
        assert_eq!(applied.outcomes.len(), entry.commands.len());
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            self.oracle.answered(command, outcome);
            if let Command::CompleteRun(complete) = command
                && matches!(query::run_outcome(&self.kv, GROUP, complete.run), Ok(Some(_)))
                && outcome.is_ok()
            {
                self.oracle.run_ended(complete.run);
            }
        }
        applied.effects.iter().for_each(|effect| self.oracle.effect(effect));
        let granted: u32 = entry.grants.iter().zip(&applied.unused).map(|(grant, unused)| grant.slots - unused).sum();
        let leased = |effect: &&Effect| matches!(effect, Effect::TaskLeased { .. } | Effect::RunLeased { .. });
        assert_eq!(applied.effects.iter().filter(leased).count(), granted as usize);
        self.count_leases(entry, applied);
    }

    /// Whoever counts what was granted and what has ended knows what every session holds.
    fn count_leases(&mut self, entry: &Entry, applied: &Applied) {
        for (grant, unused) in entry.grants.iter().zip(&applied.unused) {
            *self.held.entry(grant.session).or_default() += grant.slots - unused;
        }
        for effect in &applied.effects {
            if let Effect::LeasesEnded { session, count } = effect {
                *self.held.get_mut(session).expect("it held some") -= count;
            }
        }
        self.held.retain(|_, held| *held > 0);
        assert_eq!(self.held, query::leases_held(&self.kv, GROUP));
    }

    // The end.

    fn is_done(&self) -> bool {
        let tasks = self.tasks.iter().all(|task| !matches!(query::task_outcome(&self.kv, GROUP, *task), Ok(None)));
        let runs = self.runs.iter().all(|run| !matches!(query::run_outcome(&self.kv, GROUP, *run), Ok(None)));
        tasks
            && runs
            && query::queues(&self.kv, GROUP, None)
                .queues
                .iter()
                .all(|queue| queue.ready + queue.leased + queue.delayed == 0)
    }

    /// Without further faults everything comes to its end, by hints alone.
    fn calm_down(&mut self) {
        let queues = QUEUES.map(|queue| (Command::UnpauseQueue { queue: queue.into() }, Origin::Nobody));
        self.waiting.extend(queues);
        (0..self.workers.len()).for_each(|i| self.come_back(i));
        for round in 0.. {
            assert!(round < 3_000, "stuck: {}", self.stuck());
            while !self.gone.is_empty() {
                self.end_gone();
            }
            (0..self.workers.len()).for_each(|i| (0..4).for_each(|_| self.act(i, true)));
            let entries = self.log.len();
            while !self.waiting.is_empty() || self.log.len() == entries {
                let count = self.waiting.len().min(8);
                let batch = self.waiting.drain(..count).collect();
                self.propose_batch(batch, false);
            }
            if self.is_done() {
                return;
            }
            self.now = if round % 5 == 4 { self.wake.map_or(self.now, |wake| wake.0.max(self.now)) } else { self.now };
        }
    }

    /// Who waits for what, for a failed test.
    fn stuck(&self) -> String {
        let leases = LEASE.all(&self.kv, GROUP);
        let workers = self.workers.iter().map(|worker| {
            let executions: Vec<_> = worker.runs.values().collect();
            format!("{:?} resuming {} {:?} {executions:#?}", worker.session, worker.resuming, worker.tasks.keys())
        });
        let workers: Vec<_> = workers.collect();
        format!("leases {leases:?}\nlanes {:?} wake {:?}\n{}", self.lanes, self.wake, workers.join("\n"))
    }

    /// After the retention time nothing is left.
    fn forget(&mut self) {
        for round in 0.. {
            let Some(wake) = self.wake else { break };
            assert!(round < 10_000, "retention never ends");
            // Many at once, so that ticks meet their bounds.
            self.now = self.now.max(wake.0) + self.rng.random_range(0..20_000);
            self.propose_batch(Vec::new(), false);
        }
        let left: BTreeMap<_, _> = self.kv.map.iter().filter(|(key, _)| key[4] != 1).collect();
        assert!(left.is_empty(), "rows outlive their retention: {left:?}");
    }
}

/// Work that a log ever leased, for a histogram of what histories hold.
pub fn leased(log: &[(Entry, Applied)]) -> BTreeSet<Work> {
    let work = |effect: &Effect| match effect {
        Effect::TaskLeased { lease, .. } => Some(Work::Task(lease.task)),
        Effect::RunLeased { lease, .. } => Some(Work::Run(lease.run)),
        _ => None,
    };
    log.iter().flat_map(|(_, applied)| applied.effects.iter().filter_map(work)).collect()
}
