//! What a seed means: how large the cluster is, who uses it, how good the network is, and what goes wrong when. A plan is
//! data: it can be printed, and made smaller while it still finds something.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::net::Quality;
use crate::workload::Load;

const NODES_MAX: u8 = 5;
const GROUPS_MAX: u16 = 3;
const CLIENTS_MAX: u8 = 3;
const WORKERS_MAX: u8 = 3;
const FAULTS_MAX: usize = 14;
/// How long things go wrong.
const TROUBLE_MIN_MS: u64 = 6_000;
const TROUBLE_MAX_MS: u64 = 20_000;
/// After five seconds of silence a connection is lost, and after two more what its session holds.
const LOST_AND_HELD_MS: Range<u64> = 5_000..7_500;
/// Where nodes write their state down often.
const CHECKPOINTS_EVERY_MS: Range<u64> = 100..3_000;

/// A power cut of all nodes may be the last that happens.
const LAST_CUT_BEFORE_END: Duration = Duration::from_millis(20);

/// Everything about one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub nodes: u8,
    pub groups: u16,
    pub replication_factor: u8,
    pub clients: u8,
    pub workers: u8,
    pub slots: u32,
    /// Runs that only wait give up their slots.
    pub parks: bool,
    pub load: Load,
    pub quality: Quality,
    /// A sync of a log takes between these.
    pub sync_ms: (u64, u64),
    /// RocksDB flushes the state by itself about once in so many batches.
    pub flushed_every: u32,
    /// All copies on a node write their state down so often, and let go of the log, as under heavy load.
    pub checkpoints_every: Option<Duration>,
    /// For so long work is begun and things go wrong.
    pub trouble: Duration,
    /// By when they begin.
    pub faults: Vec<Planned>,
}

/// A fault, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its number in the whole plan: what is left of a smaller one keeps it.
    pub number: usize,
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// What may go wrong, or be done to a cluster that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of these machines fails: what was not synced is gone.
    PowerCut(Vec<u8>),
    /// The process is killed.
    Kill(u8),
    /// It is asked to stop, and started again.
    Restart(u8),
    /// It gets no turn.
    Pause(u8),
    /// These nodes on one side, the others on the other; clients reach both.
    Partition(Vec<u8>),
    /// The same, and of those who use the cluster every other reaches one side alone.
    Split(Vec<u8>),
    /// These hear nobody, but are heard.
    Deaf(Vec<u8>),
    /// These are not heard, but hear.
    Mute(Vec<u8>),
    /// Two sides, and one node that reaches both.
    Bridge { left: Vec<u8>, middle: u8, right: Vec<u8> },
    /// A node reaches no client or worker, and none reaches it.
    Unreachable(u8),
    /// A node and one of those who use the cluster do not reach each other; which one is a count among all.
    Estranged { node: u8, user: u8 },
    /// All ways from and to a node are bad.
    BadWays(u8, Quality),
    /// Its wall clock jumps.
    Jump { node: u8, ms: i64 },
    /// All its clocks go wrong, by so many in a thousand.
    Drift { node: u8, parts: i32 },
    /// An operator moves a group's leadership.
    Transfer { group: u32, to: u8 },
    /// An operator drains a node, and takes it back.
    Drain(u8),
    /// All copies on a node write their state down.
    Checkpoint(u8),
    /// Those on all nodes: who is away has to be sent a snapshot.
    CheckpointAll,
    /// A worker's process is killed, and started again.
    KillWorker(u8),
    /// It gets no turn.
    PauseWorker(u8),
    /// Syncs take so long.
    SlowDisk { node: u8, ms: u64 },
    /// Nothing is answered.
    HungDisk(u8),
    /// The next sync fails, and the node has to stop.
    FailedSync(u8),
    /// Nothing more fits.
    FullDisk(u8),
}

/// The names of all kinds.
pub const FAULTS: &[&str] = &[
    "power-cut-many",
    "power-cut",
    "kill",
    "restart",
    "pause",
    "partition",
    "split",
    "deaf",
    "mute",
    "bridge",
    "unreachable",
    "estranged",
    "bad-ways",
    "clock-jump",
    "clock-drift",
    "transfer",
    "drain",
    "checkpoint",
    "checkpoint-all",
    "kill-worker",
    "pause-worker",
    "slow-disk",
    "hung-disk",
    "failed-sync",
    "full-disk",
];

impl Fault {
    /// One word for each kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerCut(nodes) if nodes.len() > 1 => "power-cut-many",
            Self::PowerCut(_) => "power-cut",
            Self::Kill(_) => "kill",
            Self::Restart(_) => "restart",
            Self::Pause(_) => "pause",
            Self::Partition(_) => "partition",
            Self::Split(_) => "split",
            Self::Deaf(_) => "deaf",
            Self::Mute(_) => "mute",
            Self::Bridge { .. } => "bridge",
            Self::Unreachable(_) => "unreachable",
            Self::Estranged { .. } => "estranged",
            Self::BadWays(..) => "bad-ways",
            Self::Jump { .. } => "clock-jump",
            Self::Drift { .. } => "clock-drift",
            Self::Transfer { .. } => "transfer",
            Self::Drain(_) => "drain",
            Self::Checkpoint(_) => "checkpoint",
            Self::CheckpointAll => "checkpoint-all",
            Self::KillWorker(_) => "kill-worker",
            Self::PauseWorker(_) => "pause-worker",
            Self::SlowDisk { .. } => "slow-disk",
            Self::HungDisk(_) => "hung-disk",
            Self::FailedSync(_) => "failed-sync",
            Self::FullDisk(_) => "full-disk",
        }
    }
}

impl Plan {
    /// What this seed means.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let nodes = *[3, 3, 3, 3, 4, NODES_MAX].choose(&mut chance).expect("some");
        let trouble = Duration::from_millis(chance.random_range(TROUBLE_MIN_MS..=TROUBLE_MAX_MS));
        let mut plan = Self {
            seed,
            nodes,
            groups: chance.random_range(1..=GROUPS_MAX),
            replication_factor: if nodes == NODES_MAX && chance.random_bool(0.5) { 5 } else { 3 },
            clients: chance.random_range(1..=CLIENTS_MAX),
            workers: chance.random_range(1..=WORKERS_MAX),
            slots: chance.random_range(1..=6),
            parks: chance.random_bool(0.5),
            load: Load {
                every: Duration::from_millis(chance.random_range(150..600)),
                open_max: chance.random_range(2..16),
                mix: std::array::from_fn(|_| chance.random_range(0..5)),
            },
            quality: quality(&mut chance),
            sync_ms: *[(0, 1), (0, 2), (1, 8)].choose(&mut chance).expect("some"),
            flushed_every: *[8, 64, 1_024].choose(&mut chance).expect("some"),
            checkpoints_every: chance
                .random_bool(0.5)
                .then(|| Duration::from_millis(chance.random_range(CHECKPOINTS_EVERY_MS))),
            trouble,
            faults: Vec::new(),
        };
        plan.load.mix[0] += 1;
        // Some runs try one kind of thing again and again, which a mix of all would never do.
        let only: Option<u32> = chance.random_bool(0.3).then(|| chance.random_range(0..KINDS));
        for number in 0..chance.random_range(0..=FAULTS_MAX) {
            let at = Duration::from_millis(chance.random_range(0..trouble.as_millis() as u64));
            let kind = only.unwrap_or_else(|| chance.random_range(0..KINDS));
            let fault = plan.fault(kind, &mut chance);
            let lasts = Duration::from_millis(match chance.random_range(0..10) {
                0..4 => chance.random_range(10..600),
                4..7 => chance.random_range(600..4_000),
                7 => chance.random_range(4_000..9_000),
                _ => chance.random_range(LOST_AND_HELD_MS),
            });
            // A state that was just written down is what a power cut is about.
            if let Fault::Checkpoint(node) = fault
                && chance.random_bool(0.5)
            {
                let at = at + Duration::from_millis(chance.random_range(0..80));
                let fault = Fault::PowerCut(vec![node]);
                plan.faults.push(Planned { number: FAULTS_MAX + 1 + number, at, lasts, fault });
            }
            plan.faults.push(Planned { number, at, lasts, fault });
        }
        // All leaders are new, and nobody begins anything more: what they have forgotten nothing reminds them of.
        if chance.random_bool(0.4) {
            let (at, lasts) = (trouble - LAST_CUT_BEFORE_END, LAST_CUT_BEFORE_END);
            let mut last = vec![Fault::PowerCut((1..=plan.nodes).collect())];
            if chance.random_bool(0.5) {
                last.push(Fault::KillWorker(chance.random_range(1..=plan.workers)));
            }
            let numbered = last.into_iter().zip(2 * FAULTS_MAX + 1..);
            plan.faults.extend(numbered.map(|(fault, number)| Planned { number, at, lasts, fault }));
        }
        plan.faults.sort_by_key(|planned| (planned.at, planned.number));
        plan
    }

    fn fault(&self, kind: u32, chance: &mut StdRng) -> Fault {
        let node = chance.random_range(1..=self.nodes);
        let mut all: Vec<u8> = (1..=self.nodes).collect();
        all.shuffle(chance);
        let some = |chance: &mut StdRng| all[..chance.random_range(1..all.len())].to_vec();
        match kind {
            0 | 1 => Fault::PowerCut(vec![node]),
            2 => Fault::PowerCut(all[..chance.random_range(2..=all.len())].to_vec()),
            3 => Fault::Kill(node),
            4 => Fault::Restart(node),
            5 | 6 => Fault::Pause(node),
            7 => Fault::Partition(some(chance)),
            8 => Fault::Split(some(chance)),
            9 => Fault::Deaf(some(chance)),
            10 => Fault::Mute(some(chance)),
            11 => {
                let middle = all.pop().expect("three at least");
                let right = all.split_off(all.len() / 2);
                Fault::Bridge { left: all, middle, right }
            }
            12 => Fault::Unreachable(node),
            28 | 29 => Fault::Estranged { node, user: chance.random_range(0..self.workers + self.clients) },
            13 => Fault::BadWays(node, bad(chance)),
            14 => Fault::Jump { node, ms: chance.random_range(-20_000..20_000) },
            15 => Fault::Drift { node, parts: chance.random_range(-300..300) },
            16 | 17 => Fault::Transfer { group: chance.random_range(0..=u32::from(self.groups)), to: node },
            18 => Fault::Drain(node),
            19 => Fault::Checkpoint(node),
            26 | 27 => Fault::CheckpointAll,
            20 => Fault::KillWorker(chance.random_range(1..=self.workers)),
            21 => Fault::PauseWorker(chance.random_range(1..=self.workers)),
            22 => Fault::SlowDisk { node, ms: chance.random_range(20..1_500) },
            23 => Fault::HungDisk(node),
            24 => Fault::FailedSync(node),
            _ => Fault::FullDisk(node),
        }
    }

    /// With these faults alone, by number.
    #[must_use]
    pub fn only(mut self, numbers: &[usize]) -> Self {
        self.faults.retain(|planned| numbers.contains(&planned.number));
        self
    }

    /// Whether all clocks go right: what happens when is checked only then.
    #[must_use]
    pub fn clocks_are_right(&self) -> bool {
        !self.faults.iter().any(|planned| matches!(planned.fault, Fault::Jump { .. } | Fault::Drift { .. }))
    }
}

const KINDS: u32 = 30;

fn quality(chance: &mut StdRng) -> Quality {
    match chance.random_range(0..4) {
        0 | 1 => Quality { delay_max: Duration::from_millis(chance.random_range(1..4)), ..Quality::GOOD },
        2 => Quality {
            delay_max: Duration::from_millis(chance.random_range(1..20)),
            loss: chance.random_range(0..10),
            ..Quality::GOOD
        },
        _ => Quality {
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(chance.random_range(1..30)),
            loss: chance.random_range(0..50),
            twice: chance.random_range(0..50),
            late: chance.random_range(0..50),
            late_max: Duration::from_millis(chance.random_range(1..200)),
        },
    }
}

fn bad(chance: &mut StdRng) -> Quality {
    Quality {
        delay_min: Duration::from_millis(chance.random_range(1..50)),
        delay_max: Duration::from_millis(chance.random_range(50..300)),
        loss: chance.random_range(0..300),
        twice: chance.random_range(0..300),
        late: chance.random_range(0..300),
        late_max: Duration::from_millis(chance.random_range(1..1_000)),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} nodes, {} groups of {}, {} clients, {} workers with {} slots, runs that wait {} theirs",
            self.seed,
            self.nodes,
            self.groups,
            self.replication_factor,
            self.clients,
            self.workers,
            self.slots,
            if self.parks { "give up" } else { "keep" }
        )?;
        writeln!(f, "  work {:?}", self.load)?;
        writeln!(f, "  network {:?}", self.quality)?;
        let (min, max) = self.sync_ms;
        write!(f, "  a sync takes {min}..={max} ms, a flush comes in {} batches", self.flushed_every)?;
        match self.checkpoints_every {
            Some(every) => writeln!(f, ", checkpoints every {every:?}")?,
            None => writeln!(f)?,
        }
        writeln!(f, "  trouble for {:?}", self.trouble)?;
        for Planned { number, at, lasts, fault } in &self.faults {
            writeln!(f, "  #{number} at {at:?} for {lasts:?}: {fault:?}")?;
        }
        Ok(())
    }
}
