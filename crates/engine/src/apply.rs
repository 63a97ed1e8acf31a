//! One entry, from commands to outcomes, effects and leases.

use std::collections::BTreeMap;

use coda_protocol::ids::{GroupId, LeaseId, RunId, SessionId, Slot, TaskId, Timestamp};
use coda_protocol::limits::LEASES_PER_ENTRY_MAX;
use coda_protocol::planted::{self, Bug};
use coda_protocol::reject::Reject;

use crate::cluster;
use crate::command::{Command, Outcome};
use crate::commands;
use crate::effect::Effect;
use crate::entry::{Applied, Entry, Lane};
use crate::kv::Kv;
use crate::rows::{LaneRow, Meta, Seq};
use crate::tables::{LANE, META};
use crate::{due, lanes};

/// Applies one entry of a group's log. The same entry on the same state gives the same bytes on every node.
pub fn apply(kv: &mut dyn Kv, group: GroupId, index: u64, entry: &Entry) -> Applied {
    let before = META.get(kv, group, &()).unwrap_or_default();
    let meta = Meta { time: before.time.max(entry.now), ..before };
    let mut cx = Cx {
        kv,
        group,
        index,
        now: meta.time,
        meta,
        ordinal: 0,
        leases: 0,
        lanes: BTreeMap::new(),
        effects: Vec::new(),
        leases_ended: BTreeMap::new(),
        wake: None,
    };
    let outcomes = entry.commands.iter().map(|command| cx.command(command)).collect();
    let unused = lanes::serve(&mut cx, entry);
    lanes::flush(&mut cx);
    due::nudge(&mut cx);
    cx.effects.extend(
        cx.leases_ended.iter().map(|(session, count)| Effect::LeasesEnded { session: *session, count: *count }),
    );
    if cx.meta != before {
        META.put(cx.kv, group, &(), &cx.meta);
    }
    Applied { outcomes, effects: cx.effects, unused }
}

/// What the handling of one entry shares.
pub(crate) struct Cx<'a> {
    pub kv: &'a mut dyn Kv,
    pub group: GroupId,
    pub index: u64,
    /// Engine time.
    pub now: Timestamp,
    pub meta: Meta,
    ordinal: u32,
    leases: u16,
    /// Lane rows touched by this entry, written once at its end.
    pub lanes: BTreeMap<Lane, LaneRow>,
    pub effects: Vec<Effect>,
    pub leases_ended: BTreeMap<SessionId, u32>,
    /// The soonest due time that this entry added.
    pub wake: Option<Timestamp>,
}

impl Cx<'_> {
    fn command(&mut self, command: &Command) -> Outcome {
        command.check()?;
        if !command.belongs_to(self.group) {
            return Err(Reject::WrongGroup { group: self.group.0 });
        }
        match command {
            Command::StartRun(start) => commands::start_run::apply(self, start),
            Command::SubmitTask(submit) => commands::submit_task::apply(self, submit),
            Command::Spawn(spawn) => commands::spawn::apply(self, spawn),
            Command::RecordStep(record) => commands::record_step::apply(self, record),
            Command::CompleteTask(complete) => commands::complete_task::apply(self, complete),
            Command::CompleteRun(complete) => commands::complete_run::apply(self, complete),
            Command::Release(release) => commands::release::apply(self, release),
            Command::ParkRun(park) => commands::park_run::apply(self, park),
            Command::ResumeSession { session, held } => commands::resume_session::apply(self, *session, held),
            Command::EndSession { session } => commands::end_session::apply(self, *session),
            Command::PauseQueue { queue } => commands::pause_queue::apply(self, queue, true),
            Command::UnpauseQueue { queue } => commands::pause_queue::apply(self, queue, false),
            Command::Tick => commands::tick::apply(self),
            Command::Cluster(command) => cluster::apply(self, command),
        }
    }

    /// The next place in the order of acceptance.
    pub fn next_seq(&mut self) -> Seq {
        let seq = Seq { index: self.index, ordinal: self.ordinal };
        self.ordinal += 1;
        seq
    }

    pub fn derived_task(&self, slot: Slot, seq: Seq) -> TaskId {
        TaskId::derived(slot, self.group, seq.index, seq.ordinal)
    }

    pub fn derived_run(&self, slot: Slot, seq: Seq) -> RunId {
        RunId::derived(slot, self.group, seq.index, seq.ordinal)
    }

    pub fn leases_left(&self) -> usize {
        LEASES_PER_ENTRY_MAX - usize::from(self.leases)
    }

    /// A fencing token: the log index, then the lease within the entry.
    pub fn next_lease(&mut self) -> LeaseId {
        let index = if planted::is(Bug::LeaseIdReused) { self.index / 64 } else { self.index };
        let lease = LeaseId::granted(index, self.leases);
        self.leases += 1;
        lease
    }

    pub fn lane(&mut self, lane: &Lane) -> &mut LaneRow {
        if !self.lanes.contains_key(lane) {
            let row = LANE.get(self.kv, self.group, lane).unwrap_or_default();
            self.lanes.insert(lane.clone(), row);
        }
        self.lanes.get_mut(lane).expect("just inserted")
    }
}
