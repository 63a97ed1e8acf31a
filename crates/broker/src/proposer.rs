//! The proposer: packs whatever waits into one entry while the previous one is in flight. No linger, no idle wait.
//!
//! Nondeterminism enters here and nowhere else: the clock, and the workers' free slots. The entry's effects come back
//! with its commit to the one who proposed it, so the effect stream needs no channel of its own and cannot lag; what
//! other leaders' entries meant is found by `recover` when leadership begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coda_engine::cluster::command::ClusterCommand;
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Applied, Entry};
use coda_protocol::cluster::Registration;
use coda_protocol::frame::Frame;
use coda_protocol::ids::{Name, Position, SessionId, Work};
use coda_protocol::limits::{COMMANDS_PER_ENTRY_MAX, PROPOSER_ENTRY_BYTES_MAX, PROPOSER_QUEUE_MAX};
use coda_protocol::payload::outcome_bytes;
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::{Answer, Reply};
use coda_protocol::request::{SpawnStep, StepKey};
use coda_raft_store::group::{Committed, Group, ProposeError};
use coda_raft_store::store::DiskState;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::config::{
    DISK_FULL_RETRY_AFTER_MS, GRANT_BYTES_PER_ENTRY_MAX, PROPOSER_BYTES_MAX, RETRY_AFTER_MS, RETRY_PAUSE,
};
use crate::dispatch::Epoch;
use crate::outbox::Outbox;
use crate::router::{Granted, Riding, Router};

/// How a proposer ends that Raft has refused a proposal.
pub const PROPOSAL_FAILED: &str = "a proposal failed";

/// Where an answer goes. One that is dropped unanswered refuses: whoever asked asks again, wherever the group is led then.
pub struct ReplyTo(Option<Asker>);

enum Asker {
    Session { session: SessionId, epoch: Epoch, outbox: Outbox, id: u64 },
    Local(oneshot::Sender<(Position, Result<Reply, Refusal>)>),
}

impl ReplyTo {
    #[must_use]
    pub fn session_of(session: SessionId, epoch: Epoch, outbox: Outbox, id: u64) -> Self {
        Self(Some(Asker::Session { session, epoch, outbox, id }))
    }

    /// With the answer, for somebody on this node.
    pub fn local() -> (impl Future<Output = (Position, Result<Reply, Refusal>)> + Send, Self) {
        let (sender, answer) = oneshot::channel();
        let lost = || (Position::NOWHERE, Err(Unavailable::NotLeader { leader: None }.into()));
        (async move { answer.await.unwrap_or_else(|_| lost()) }, Self(Some(Asker::Local(sender))))
    }

    /// Nobody has asked to be answered.
    #[must_use]
    pub fn nobody() -> Self {
        Self(None)
    }

    pub fn answer(mut self, position: Position, result: Result<Reply, Refusal>) {
        if let Some(asker) = self.0.take() {
            asker.answer(position, result);
        }
    }

    pub fn refuse(self, refusal: impl Into<Refusal>) {
        self.answer(Position::NOWHERE, Err(refusal.into()));
    }

    /// The connection that waits for it.
    #[must_use]
    pub fn session(&self) -> Option<(SessionId, Epoch)> {
        match self.0.as_ref()? {
            Asker::Session { session, epoch, .. } => Some((*session, *epoch)),
            Asker::Local(_) => None,
        }
    }

    /// Whether nobody is there to be answered any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            Some(Asker::Session { outbox, .. }) => outbox.is_closed(),
            Some(Asker::Local(sender)) => sender.is_closed(),
            None => true,
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if let Some(asker) = self.0.take() {
            asker.answer(Position::NOWHERE, Err(Unavailable::NotLeader { leader: None }.into()));
        }
    }
}

impl Asker {
    fn answer(self, position: Position, result: Result<Reply, Refusal>) {
        match self {
            Self::Session { outbox, id, .. } => {
                outbox.send(Frame::Answer { id, answer: Answer { position, result } });
            }
            Self::Local(sender) => drop(sender.send((position, result))),
        }
    }
}

/// What an entry has room for beside its grants.
const COMMAND_BYTES_PER_ENTRY_MAX: usize = PROPOSER_ENTRY_BYTES_MAX - GRANT_BYTES_PER_ENTRY_MAX;

enum Ask {
    Command(Command, ReplyTo, usize),
    /// Answered once the commands before it are applied, so that a client sees its own writes.
    Await(Work, ReplyTo),
}

/// The way into a group's log. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    asks: mpsc::Sender<Ask>,
    bytes: Arc<AtomicUsize>,
    kick: Arc<Notify>,
    disk: watch::Receiver<DiskState>,
}

impl Proposer {
    /// Whether what is free on the disk is kept for what the node must write.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.disk.borrow().is_full()
    }

    /// Proposes a command; refuses at once when too much waits already, or the disk is full.
    pub fn command(&self, command: Command, reply: ReplyTo) {
        if self.is_disk_full() && !is_small(&command) {
            return reply.refuse(Unavailable::DiskFull { retry_after_ms: DISK_FULL_RETRY_AFTER_MS });
        }
        let bytes = size(&command);
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) > PROPOSER_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return reply.refuse(overloaded());
        }
        if let Err(refused) = self.asks.try_send(Ask::Command(command, reply, bytes)) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            refuse(refused);
        }
    }

    /// Waits for the end of a run or task.
    pub fn wait_for(&self, work: Work, reply: ReplyTo) {
        if let Err(refused) = self.asks.try_send(Ask::Await(work, reply)) {
            refuse(refused);
        }
    }

    /// Proposes a command which must not be refused for overload, and waits for its place.
    pub async fn insist(&self, command: Command, reply: ReplyTo) {
        let bytes = size(&command);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // The leader is gone: its successor finds in state what this was about.
        drop(self.asks.send(Ask::Command(command, reply, bytes)).await);
    }

    /// As [`Proposer::insist`], for those who cannot wait.
    pub fn insist_soon(&self, command: Command) {
        let proposer = self.clone();
        tokio::spawn(async move { proposer.insist(command, ReplyTo::nobody()).await });
    }

    /// Ready work has met a free slot: make an entry even without commands.
    pub fn kick(&self) {
        self.kick.notify_one();
    }
}

/// What operators need, and what lets go of work, goes on when the disk is full: it is little, and some of it is how the
/// disk gets room again.
fn is_small(command: &Command) -> bool {
    match command {
        Command::Cluster(_)
        | Command::PauseQueue { .. }
        | Command::UnpauseQueue { .. }
        | Command::Release(_)
        | Command::ParkRun(_)
        | Command::ResumeSession { .. }
        | Command::EndSession { .. }
        | Command::Tick => true,
        Command::StartRun(_)
        | Command::SubmitTask(_)
        | Command::Spawn(_)
        | Command::RecordStep(_)
        | Command::CompleteTask(_)
        | Command::CompleteRun(_) => false,
    }
}

fn overloaded() -> Unavailable {
    Unavailable::Overloaded { retry_after_ms: RETRY_AFTER_MS }
}

fn refuse(refused: mpsc::error::TrySendError<Ask>) {
    let (ask, why) = match refused {
        mpsc::error::TrySendError::Full(ask) => (ask, overloaded()),
        mpsc::error::TrySendError::Closed(ask) => (ask, Unavailable::NotLeader { leader: None }),
    };
    match ask {
        Ask::Command(_, reply, _) | Ask::Await(_, reply) => reply.refuse(why),
    }
}

/// The receiving end of a [`Proposer`].
pub struct Inbox {
    asks: mpsc::Receiver<Ask>,
    bytes: Arc<AtomicUsize>,
    kick: Arc<Notify>,
}

#[must_use]
pub fn channel(disk: watch::Receiver<DiskState>) -> (Proposer, Inbox) {
    let (sender, asks) = mpsc::channel(PROPOSER_QUEUE_MAX);
    let (bytes, kick) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    (Proposer { asks: sender, bytes: bytes.clone(), kick: kick.clone(), disk }, Inbox { asks, bytes, kick })
}

/// The loop behind a [`Proposer`].
pub struct ProposerLoop {
    inbox: Inbox,
    group: Group,
    clock: Arc<dyn Clock>,
    router: Router,
    /// Taken from the channel, and too much for the entry before.
    held: Option<Ask>,
}

/// What one turn of the loop handles.
struct Batch {
    entry: Entry,
    replies: Vec<ReplyTo>,
    awaits: Vec<(Work, ReplyTo)>,
    riding: Riding,
}

impl Batch {
    fn new(router: &Router) -> Self {
        Self { entry: Entry::default(), replies: Vec::new(), awaits: Vec::new(), riding: Riding::new(router.clone()) }
    }
}

impl ProposerLoop {
    #[must_use]
    pub fn new(inbox: Inbox, group: Group, clock: Arc<dyn Clock>, router: Router) -> Self {
        Self { inbox, group, clock, router, held: None }
    }

    /// Runs until leadership ends; says why.
    pub async fn run(mut self) -> &'static str {
        let mut asks = Vec::with_capacity(COMMANDS_PER_ENTRY_MAX);
        loop {
            if self.held.is_none() {
                tokio::select! {
                    biased;
                    n = self.inbox.asks.recv_many(&mut asks, COMMANDS_PER_ENTRY_MAX) => {
                        if n == 0 {
                            return "no more asks";
                        }
                    }
                    () = self.inbox.kick.notified() => {}
                }
            }
            while !asks.is_empty() || self.held.is_some() {
                asks = match self.turn(asks).await {
                    Ok(rest) => rest,
                    Err(why) => return why,
                };
            }
            // A kick without asks.
            if let Err(why) = self.offer().await {
                return why;
            }
        }
    }

    /// Proposes what fits one entry; returns the asks that did not.
    async fn turn(&mut self, asks: Vec<Ask>) -> Result<Vec<Ask>, &'static str> {
        let mut batch = Batch::new(&self.router);
        let mut queues = BTreeSet::new();
        let mut bytes = 0;
        let mut asks = asks.into_iter();
        while let Some(ask) = self.held.take().or_else(|| asks.next()) {
            match ask {
                Ask::Command(_, _, size) if bytes > 0 && bytes + size > COMMAND_BYTES_PER_ENTRY_MAX => {
                    self.held = Some(ask);
                    break;
                }
                Ask::Command(command, reply, size) => {
                    bytes += size;
                    touches(&command, &mut queues);
                    batch.entry.commands.push(command);
                    batch.replies.push(reply);
                }
                Ask::Await(work, reply) => batch.awaits.push((work, reply)),
            }
        }
        self.inbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !batch.entry.commands.is_empty() {
            self.router.take_grants(Some(&queues), &mut batch.entry, &mut batch.riding.taken);
            self.propose(batch.entry, batch.replies, batch.riding).await?;
        }
        self.router.await_ends(batch.awaits);
        Ok(asks.collect())
    }

    /// Proposes an entry of grants alone where ready work meets free slots.
    async fn offer(&mut self) -> Result<(), &'static str> {
        // Whatever arrived meanwhile goes first and takes the grants along.
        if self.inbox.asks.is_empty() && self.router.wants_entry() {
            let mut batch = Batch::new(&self.router);
            self.router.take_grants(None, &mut batch.entry, &mut batch.riding.taken);
            if !batch.entry.grants.is_empty() {
                self.propose(batch.entry, batch.replies, batch.riding).await?;
            }
        }
        Ok(())
    }

    async fn propose(&mut self, mut entry: Entry, replies: Vec<ReplyTo>, riding: Riding) -> Result<(), &'static str> {
        self.router.wait_while_held().await;
        entry.now = self.clock.now();
        match self.commit(entry).await {
            Ok(Committed { position, applied }) => {
                self.count(&applied);
                for (reply, outcome) in replies.into_iter().zip(applied.outcomes) {
                    reply.answer(position, outcome.map_err(Refusal::Reject));
                }
                let taken = riding.arrived();
                self.router.give_back(&taken, &applied.unused);
                let granted = Granted::of(&taken);
                self.router.effects(position, applied.effects, &granted).await;
                // What the bounds of this entry have left out.
                if self.router.wants_entry() {
                    self.inbox.kick.notify_one();
                }
                Ok(())
            }
            Err(error) => {
                // Committed or not, nobody knows: the clients ask again with the same ids.
                warn!(%error, "a proposal failed, leadership is over");
                for reply in replies {
                    reply.refuse(Unavailable::NotLeader { leader: None });
                }
                Err(PROPOSAL_FAILED)
            }
        }
    }
}

impl ProposerLoop {
    /// Proposes until it is known what became of it: a refusal that had no effect is tried again while we lead.
    async fn commit(&self, mut entry: Entry) -> Result<Committed, ProposeError> {
        loop {
            match self.group.propose(entry.clone()).await {
                Err(error @ ProposeError::Unavailable { .. }) if self.group.leadership().borrow().is_me => {
                    debug!(%error, "the group is not writable yet, trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    entry.now = self.clock.now();
                }
                result => return result,
            }
        }
    }

    fn count(&self, applied: &Applied) {
        let counters = &self.router.shared.counters;
        let leases =
            applied.effects.iter().filter(|e| matches!(e, Effect::TaskLeased { .. } | Effect::RunLeased { .. }));
        counters.entries.fetch_add(1, Ordering::Relaxed);
        counters.commands.fetch_add(applied.outcomes.len() as u64, Ordering::Relaxed);
        counters.leases.fetch_add(leases.count() as u64, Ordering::Relaxed);
        counters.rejects.fetch_add(applied.outcomes.iter().filter(|o| o.is_err()).count() as u64, Ordering::Relaxed);
    }
}

/// The queues whose free slots the command may want. What is left out costs one more entry, nothing else.
fn touches(command: &Command, queues: &mut BTreeSet<Name>) {
    match command {
        Command::StartRun(start) => drop(queues.insert(start.queue.clone())),
        Command::SubmitTask(submit) => drop(queues.insert(submit.queue.clone())),
        Command::Spawn(spawn) => {
            for step in &spawn.steps {
                if !queues.contains(&step.queue) {
                    queues.insert(step.queue.clone());
                }
            }
        }
        Command::RecordStep(_)
        | Command::CompleteTask(_)
        | Command::CompleteRun(_)
        | Command::Release(_)
        | Command::ParkRun(_)
        | Command::ResumeSession { .. }
        | Command::EndSession { .. }
        | Command::PauseQueue { .. }
        | Command::UnpauseQueue { .. }
        | Command::Tick
        | Command::Cluster(_) => {}
    }
}

/// At least the bytes that a command adds to an entry: an entry over its bound would end leadership.
fn size(command: &Command) -> usize {
    const ENVELOPE_BYTES: usize = 128;
    const LEASE_BYTES: usize = 9;
    let payload = match command {
        Command::StartRun(start) => start.input.data.len() + start.workflow.len() + start.queue.len(),
        Command::SubmitTask(submit) => submit.args.data.len() + submit.name.len() + submit.queue.len(),
        Command::Spawn(spawn) => {
            let step =
                |step: &SpawnStep| step_size(&step.key) + step.queue.len() + step.args.data.len() + ENVELOPE_BYTES;
            spawn.steps.iter().map(step).sum()
        }
        Command::RecordStep(record) => step_size(&record.key) + record.result.data.len(),
        Command::CompleteTask(complete) => outcome_bytes(&complete.outcome),
        Command::CompleteRun(complete) => outcome_bytes(&complete.outcome),
        Command::ResumeSession { held, .. } => held.len() * LEASE_BYTES,
        Command::PauseQueue { queue } | Command::UnpauseQueue { queue } => queue.len(),
        Command::Release(_) | Command::ParkRun(_) | Command::EndSession { .. } | Command::Tick => 0,
        Command::Cluster(command) => cluster_size(command),
    };
    payload + ENVELOPE_BYTES
}

/// The texts and lists of a command of the meta group, and what the envelope has no room for.
fn cluster_size(command: &ClusterCommand) -> usize {
    const ID_BYTES: usize = 9;
    let registration =
        |node: &Registration| node.peer_addr.len() + node.client_addr.len() + node.zone.len() + node.version.len();
    match command {
        ClusterCommand::Init(init) => registration(&init.founder),
        ClusterCommand::Join { registration: node, .. } | ClusterCommand::Register { registration: node, .. } => {
            registration(node)
        }
        ClusterCommand::PlaceGroup(place) => place.voters.len() * ID_BYTES,
        ClusterCommand::SetSetting { key, .. } => key.len(),
        ClusterCommand::CreateToken { .. }
        | ClusterCommand::RevokeToken { .. }
        | ClusterCommand::Activate { .. }
        | ClusterCommand::Drain { .. }
        | ClusterCommand::Undrain { .. }
        | ClusterCommand::Remove { .. }
        | ClusterCommand::SettleGroup { .. }
        | ClusterCommand::SetReplicationFactor { .. } => 0,
    }
}

fn step_size(key: &StepKey) -> usize {
    key.name.len() + key.cache_key.as_bytes().len()
}

#[cfg(test)]
mod tests {
    use coda_engine::cluster::command::{InitCluster, PlaceGroup};
    use coda_protocol::cache_key::{CacheKey, KeyPart};
    use coda_protocol::cluster::SettingValue;
    use coda_protocol::codec;
    use coda_protocol::ids::{
        ClusterId, GroupId, LeaseId, Millis, NodeId, RunId, SessionId, StorageId, TaskId, TokenId,
    };
    use coda_protocol::join::TokenDigest;
    use coda_protocol::payload::{Failure, Payload};
    use coda_protocol::policy::RetryPolicy;
    use coda_protocol::request::{CompleteTask, RecordStep, Spawn, StepKind, SubmitTask};

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_retries: 1_000_000,
        initial: Millis(31_622_400_000),
        factor_percent: 10_000,
        max: Millis(31_622_400_000),
        jitter_percent: 100,
    };

    fn key() -> StepKey {
        let cache_key = CacheKey::explicit(&[KeyPart::Str("k".repeat(1_000))]).unwrap();
        StepKey { kind: StepKind::Inline, name: "n".repeat(255).into(), cache_key }
    }

    #[test]
    fn no_command_is_larger_than_its_estimate() {
        let payload = || Payload { codec: "c".repeat(32).into(), data: vec![7; 70_000].into() };
        let failure = |n: usize| Failure {
            kind: "k".repeat(n),
            message: "m".repeat(n),
            traceback: "t".repeat(n),
            retryable: true,
        };
        let step = || SpawnStep {
            key: key(),
            queue: "q".repeat(255).into(),
            args: payload(),
            priority: 9,
            policy: POLICY,
            delay: Millis(u64::MAX),
        };
        let registration = || Registration {
            storage: StorageId([255; 16]),
            incarnation: u64::MAX,
            peer_addr: "p".repeat(259).into(),
            client_addr: "c".repeat(259).into(),
            zone: "z".repeat(64).into(),
            version: "v".repeat(64).into(),
            commands_version: u32::MAX,
        };
        let (run, lease) = (RunId([255; 16]), LeaseId(u64::MAX));
        let task = TaskId([255; 16]);
        let commands = [
            Command::Spawn(Spawn { run, lease, steps: (0..256).map(|_| step()).collect() }),
            Command::RecordStep(RecordStep { run, lease, key: key(), result: payload() }),
            Command::CompleteTask(CompleteTask { task, lease, outcome: Err(failure(21_000)) }),
            Command::CompleteTask(CompleteTask { task, lease, outcome: Ok(payload()) }),
            Command::ResumeSession { session: SessionId([9; 16]), held: vec![lease; 16_384] },
            Command::PauseQueue { queue: "q".repeat(255).into() },
            Command::SubmitTask(SubmitTask {
                task,
                name: "n".repeat(255).into(),
                queue: "q".repeat(255).into(),
                args: payload(),
                priority: 9,
                policy: POLICY,
                delay: Millis(u64::MAX),
            }),
            Command::Tick,
            Command::Cluster(ClusterCommand::Init(InitCluster {
                cluster: ClusterId([255; 16]),
                replication_factor: 255,
                groups: u16::MAX,
                node: NodeId(u64::MAX),
                founder: registration(),
            })),
            Command::Cluster(ClusterCommand::Join {
                token: TokenId([255; 16]),
                digest: TokenDigest([255; 32]),
                node: NodeId(u64::MAX),
                registration: registration(),
            }),
            Command::Cluster(ClusterCommand::Register { node: NodeId(u64::MAX), registration: registration() }),
            Command::Cluster(ClusterCommand::CreateToken {
                token: TokenId([255; 16]),
                digest: TokenDigest([255; 32]),
                ttl: Some(Millis(u64::MAX)),
            }),
            Command::Cluster(ClusterCommand::PlaceGroup(PlaceGroup {
                group: GroupId(u32::MAX),
                voters: vec![NodeId(u64::MAX); 50],
                leader: Some(NodeId(u64::MAX)),
                seen: u64::MAX,
            })),
            Command::Cluster(ClusterCommand::SetSetting {
                key: "k".repeat(500).into(),
                value: Some(SettingValue::Number(u64::MAX)),
            }),
        ];
        for command in commands {
            let (bytes, estimate) = (codec::encode(&command).len(), size(&command));
            assert!(bytes <= estimate, "{bytes} > {estimate}");
        }
    }
}
