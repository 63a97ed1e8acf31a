//! The model test of the meta group: random histories of operators, nodes and planners, judged by invariants after each
//! entry and by an oracle that shares no rule with the engine. A failure prints its seed.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "the number of seeds comes from outside")]

mod oracle;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use coda_engine::apply::apply;
use coda_engine::cluster::command::{ClusterCommand as C, PlaceGroup};
use coda_engine::command::{Command, Outcome};
use coda_engine::effect::Effect;
use coda_engine::entry::{Applied, Entry};
use coda_engine::invariants;
use coda_engine::kv::{Kv, MemKv, Overlay};
use coda_engine::query::cluster as query;
use coda_engine::recover::recover;
use coda_protocol::cluster::{NodeState, Registration, SettingValue};
use coda_protocol::ids::{GroupId, Millis, NodeId, Timestamp};
use coda_protocol::rebalance::Step;
use coda_protocol::reply::Reply;
use oracle::Oracle;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::world::{META, digest, init, machine, token};

const DEEDS: usize = 150;

/// A machine with a disk: what it knows of itself.
#[derive(Clone)]
struct Machine {
    disk: u8,
    node: NodeId,
    says: Registration,
}

struct Sim {
    kv: MemKv,
    log: Vec<(Entry, Applied)>,
    rng: StdRng,
    now: u64,
    wake: Option<Timestamp>,
    map_version: u64,
    oracle: Oracle,
    machines: Vec<Machine>,
    disks: u8,
    tokens: u8,
    sent: Vec<Command>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut sim = Self {
            kv: MemKv::default(),
            log: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            wake: None,
            map_version: 0,
            oracle: Oracle::default(),
            machines: vec![Machine { disk: 1, node: NodeId(1), says: machine(1) }],
            disks: 1,
            tokens: 0,
            sent: Vec::new(),
        };
        let (replication_factor, groups) = (*[1, 3, 5].choose(&mut sim.rng).unwrap(), sim.rng.random_range(1..6));
        sim.propose(vec![Command::Cluster(init(replication_factor, groups))]);
        sim
    }

    fn run(&mut self) {
        for _ in 0..DEEDS {
            let commands = (0..self.rng.random_range(1..4)).filter_map(|_| self.deed()).collect();
            self.propose(commands);
        }
        self.calm_down();
    }

    fn deed(&mut self) -> Option<Command> {
        let i = self.rng.random_range(0..self.machines.len());
        let node = NodeId(self.rng.random_range(0..=u64::from(self.disks) + 1));
        let command = match self.rng.random_range(0..100) {
            0..=7 => {
                self.tokens = (self.tokens + 1) % 40;
                let ttl = self.rng.random_bool(0.5).then_some(Millis(60_000));
                C::CreateToken { token: token(self.tokens), digest: digest(self.tokens), ttl }
            }
            8..=9 => C::RevokeToken { token: token(self.rng.random_range(0..40)) },
            10..=19 => return Some(self.join(i)),
            20..=27 => return Some(self.register(i)),
            28..=29 => {
                let (node, fresh) = (self.machines[i].node, self.fresh());
                let is_wiped = self.rng.random_bool(0.3);
                self.machines[i] = Machine { node: if is_wiped { node } else { fresh.node }, ..fresh };
                return None;
            }
            30..=38 => C::Activate { node },
            39..=42 => C::Drain { node },
            43..=44 => C::Undrain { node },
            45..=50 => C::Remove { node },
            51..=72 => return self.step(),
            73..=76 => self.nonsense(),
            77..=80 => {
                let group = GroupId(self.rng.random_range(0..7));
                let version = query::placement(&self.kv, group).map_or(1, |row| row.version);
                C::SettleGroup { group, version: version.saturating_sub(u64::from(self.rng.random_bool(0.2))) }
            }
            81..=82 => C::SetReplicationFactor { replication_factor: *[1, 3, 5].choose(&mut self.rng).unwrap() },
            83..=85 => {
                let value = self.rng.random_bool(0.7).then(|| SettingValue::Switch(self.rng.random()));
                C::SetSetting { key: "upgrade.auto".into(), value }
            }
            86..=92 => {
                // What the network may repeat, however late.
                return self.sent.choose(&mut self.rng).cloned();
            }
            _ => {
                let far = self.rng.random_bool(0.1);
                self.now += self.rng.random_range(0..if far { 30 * 3_600_000 } else { 20_000 });
                return None;
            }
        };
        Some(Command::Cluster(command))
    }

    fn fresh(&mut self) -> Machine {
        self.disks += 1;
        let mut says = machine(self.disks);
        says.commands_version = self.rng.random_range(1..4);
        says.zone = ["", "a", "b"].choose(&mut self.rng).copied().unwrap().into();
        Machine { disk: self.disks, node: NodeId(u64::from(self.disks)), says }
    }

    fn join(&mut self, i: usize) -> Command {
        if self.machines.len() < 7 {
            let machine = self.fresh();
            self.machines.push(machine);
        }
        let id = self.rng.random_range(self.tokens.saturating_sub(2)..=self.tokens);
        let secret = if self.rng.random_bool(0.95) { id } else { id + 1 };
        let Machine { node, says: registration, .. } = self.machines[(i + 1) % self.machines.len()].clone();
        Command::Cluster(C::Join { token: token(id), digest: digest(secret), node, registration })
    }

    /// A start: of the machine that the node is, or of one that only says so.
    fn register(&mut self, i: usize) -> Command {
        let commands = self.rng.random_range(1..4);
        let machine = &mut self.machines[i];
        machine.says.commands_version = commands;
        machine.says.incarnation += 1;
        machine.says.client_addr = format!("n{}:{commands}", machine.disk).into();
        let node = if self.rng.random_bool(0.95) { machine.node } else { NodeId(2) };
        Command::Cluster(C::Register { node, registration: machine.says.clone() })
    }

    /// What a planner says should be done next.
    fn step(&mut self) -> Option<Command> {
        let plan = query::layout(&self.kv).unwrap().plan();
        let step =
            plan.steps.iter().find(|step| !matches!(step, Step::AddLearner { .. } | Step::RemoveLearner { .. }))?;
        place(&self.kv, step)
    }

    fn nonsense(&mut self) -> C {
        let group = GroupId(self.rng.random_range(0..7));
        let voters: Vec<NodeId> = (1..9).filter(|_| self.rng.random_bool(0.3)).map(NodeId).collect();
        let seen = query::placement(&self.kv, group).map_or(1, |row| row.version);
        C::PlaceGroup(PlaceGroup { group, leader: voters.first().copied(), voters, seen })
    }

    fn propose(&mut self, mut commands: Vec<Command>) -> Vec<Outcome> {
        if self.wake.is_some_and(|wake| wake.0 <= self.now) {
            self.wake = None;
            commands.push(Command::Tick);
        }
        let entry = Entry { now: Timestamp(self.now), commands, ..Entry::default() };
        let index = self.log.len() as u64 + 1;
        let applied = apply(&mut self.kv, META, index, &entry);
        let broken = invariants::check_at(&self.kv, META, index);
        assert!(broken.is_empty(), "index {index}, {entry:?}: {broken:#?}");
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            self.oracle.answered(self.now, command, outcome);
        }
        self.oracle.sees(&query::map(&self.kv).unwrap());
        self.hints(&applied.effects);
        self.sent.extend(entry.commands.iter().cloned());
        let outcomes = applied.outcomes.clone();
        self.log.push((entry, applied));
        outcomes
    }

    /// Hints tell of every new map and of the next due time; lost, they are found again.
    fn hints(&mut self, effects: &[Effect]) {
        let lost = self.rng.random_bool(0.1);
        let hints = if lost { recover(&self.kv, META) } else { effects.to_vec() };
        for hint in hints {
            match hint {
                Effect::MapChanged(version) => self.map_version = self.map_version.max(version),
                Effect::WakeAt(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
                other => panic!("{other:?} of the meta group"),
            }
        }
        assert_eq!(Some(self.map_version), query::map_version(&self.kv));
        let due = recover(&self.kv, META).into_iter().find_map(|hint| match hint {
            Effect::WakeAt(at) => Some(at),
            _ => None,
        });
        assert!(due.is_none_or(|due| self.wake.is_some_and(|wake| wake <= due)), "{due:?}, known is {:?}", self.wake);
    }

    /// Without further trouble every drained node becomes empty, if there is room, and may leave.
    fn calm_down(&mut self) {
        let nodes = query::nodes(&self.kv);
        for node in nodes.iter().filter(|node| node.state == NodeState::Joining) {
            self.propose(vec![Command::Cluster(C::Activate { node: node.node })]);
        }
        for round in 0.. {
            assert!(round < 400, "it never ends");
            let Some(command) = self.step() else { break };
            assert_eq!(self.propose(vec![command]), [Ok(Reply::Done)]);
        }
        let plan = query::layout(&self.kv).unwrap().plan();
        assert_eq!(plan.steps, []);
        for group in 0..=u32::from(query::describe(&self.kv).unwrap().groups) {
            let version = query::placement(&self.kv, GroupId(group)).unwrap().version;
            self.propose(vec![Command::Cluster(C::SettleGroup { group: GroupId(group), version })]);
        }
        for node in query::nodes(&self.kv).into_iter().filter(|node| node.state == NodeState::Draining) {
            let outcome = self.propose(vec![Command::Cluster(C::Remove { node: node.node })]).remove(0);
            assert_eq!(outcome.is_ok(), plan.stuck.is_empty() || node.groups == 0, "{outcome:?} {node:?} {plan:?}");
        }
        self.now += 10 * 24 * 3_600_000;
        self.propose(vec![Command::Tick]);
        assert_eq!(query::tokens(&self.kv, Timestamp(self.now)), [], "tokens are forgotten");
    }
}

/// The command that records a step; copies that do not vote are not recorded.
fn place(kv: &MemKv, step: &Step) -> Option<Command> {
    let group = step.group();
    let row = query::placement(kv, group).unwrap();
    let (mut voters, mut leader) = (row.voters, row.leader);
    match step {
        Step::Promote { node, .. } => voters.push(*node),
        Step::RemoveVoter { node, .. } => voters.retain(|voter| voter != node),
        Step::TransferLeader { to, .. } => leader = Some(*to),
        Step::AddLearner { .. } | Step::RemoveLearner { .. } => return None,
    }
    voters.sort();
    Some(Command::Cluster(C::PlaceGroup(PlaceGroup { group, voters, leader, seen: row.version })))
}

fn history(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.run();
    sim
}

/// Every history ends well, is the same twice, and is the same through an overlay that flushes now and then.
fn check(seed: u64) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let sim = history(seed);
        assert!(through_overlay(seed, &sim) == sim.kv, "an overlay ends in other bytes");
    }));
    if let Err(panic) = result {
        eprintln!("\nseed {seed} fails: paste it into `a_seed_that_failed`\n");
        resume_unwind(panic);
    }
}

#[test]
fn random_histories_keep_every_promise() {
    let seeds: u64 = std::env::var("CODA_MODEL_SEEDS").ok().map_or(100, |n| n.parse().expect("a number"));
    let first: u64 = std::env::var("CODA_MODEL_FIRST").ok().map_or(0, |n| n.parse().expect("a number"));
    (first..first + seeds).for_each(check);
}

/// Paste the seed here.
#[test]
fn a_seed_that_failed() {
    check(0);
}

#[test]
fn the_same_seed_is_the_same_history_byte_for_byte() {
    for seed in [1, 2, 3] {
        let (one, two) = (history(seed), history(seed));
        assert!(one.log == two.log && one.kv == two.kv, "seed {seed}");
    }
}

/// Otherwise the histories would prove little.
#[test]
fn histories_hold_what_they_are_for() {
    let histories: Vec<Sim> = (0..10).map(history).collect();
    let done = |which: fn(&C) -> bool| -> usize {
        let count = |sim: &Sim| {
            let pairs = sim.log.iter().flat_map(|(entry, applied)| entry.commands.iter().zip(&applied.outcomes));
            let is = |command: &Command| matches!(command, Command::Cluster(command) if which(command));
            pairs.filter(|(command, outcome)| outcome.is_ok() && is(command)).count()
        };
        histories.iter().map(count).sum()
    };
    let joined = done(|command| matches!(command, C::Join { .. }));
    let placed = done(|command| matches!(command, C::PlaceGroup(_)));
    let removed = done(|command| matches!(command, C::Remove { .. }));
    let registered = done(|command| matches!(command, C::Register { .. }));
    let counts = [joined, placed, removed, registered];
    assert!(counts.iter().zip([50, 100, 15, 30]).all(|(count, least)| *count > least), "{counts:?}");
}

/// Applies a history again, on an overlay over what was flushed every few entries.
fn through_overlay(seed: u64, sim: &Sim) -> MemKv {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut base = MemKv::default();
    let mut rest = sim.log.iter().zip(1u64..).peekable();
    while rest.peek().is_some() {
        let count = rng.random_range(1..10);
        let mut overlay = Overlay::new(&base);
        for ((entry, applied), index) in rest.by_ref().take(count) {
            assert_eq!(apply(&mut overlay, META, index, entry), *applied, "index {index}");
        }
        let writes: Vec<_> = overlay.into_writes().collect();
        for (key, value) in writes {
            match value {
                Some(value) => base.put(key, value.to_vec()),
                None => base.delete(key),
            }
        }
    }
    base
}
