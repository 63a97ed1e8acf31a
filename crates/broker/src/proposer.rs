//! The proposer: packs whatever waits into one entry while the previous one is in flight. No linger, no idle wait.
//!
//! Nondeterminism enters here and nowhere else: the clock, and the workers' free slots. The entry's effects come back
//! with its commit to the one who proposed it, so the effect stream needs no channel of its own and cannot lag; what
//! other leaders' entries meant is found by `recover` when leadership begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::entry::{Applied, Entry};
use coda_protocol::frame::Frame;
use coda_protocol::ids::{Name, Position, SessionId, Work};
use coda_protocol::limits::{COMMANDS_PER_ENTRY_MAX, ENTRY_BYTES_MAX, PROPOSER_QUEUE_MAX};
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::{Answer, Reply};
use coda_raft_store::group::{Committed, Group, ProposeError};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::config::{PROPOSER_BYTES_MAX, RETRY_AFTER_MS, RETRY_PAUSE};
use crate::dispatch::{Epoch, Taken};
use crate::outbox::Outbox;
use crate::router::Router;

/// Where an answer goes.
pub enum ReplyTo {
    Session { session: SessionId, epoch: Epoch, outbox: Outbox, id: u64 },
    Nobody,
}

impl ReplyTo {
    pub fn answer(self, position: Position, result: Result<Reply, Refusal>) {
        match self {
            Self::Session { outbox, id, .. } => {
                outbox.send(Frame::Answer { id, answer: Answer { position, result } });
            }
            Self::Nobody => {}
        }
    }

    pub fn refuse(self, refusal: impl Into<Refusal>) {
        self.answer(Position::default(), Err(refusal.into()));
    }

    /// The connection that waits for it.
    #[must_use]
    pub fn session(&self) -> Option<(SessionId, Epoch)> {
        match self {
            Self::Session { session, epoch, .. } => Some((*session, *epoch)),
            Self::Nobody => None,
        }
    }
}

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
}

impl Proposer {
    /// Proposes a command; refuses at once when too much waits already.
    pub fn command(&self, command: Command, reply: ReplyTo) {
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

    /// Proposes a command of this node's own, which must not be lost to overload.
    pub async fn insist(&self, command: Command) {
        let bytes = size(&command);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // The leader is gone: its successor finds in state what this was about.
        drop(self.asks.send(Ask::Command(command, ReplyTo::Nobody, bytes)).await);
    }

    /// Ready work has met a free slot: make an entry even without commands.
    pub fn kick(&self) {
        self.kick.notify_one();
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
pub fn channel() -> (Proposer, Inbox) {
    let (sender, asks) = mpsc::channel(PROPOSER_QUEUE_MAX);
    let (bytes, kick) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    (Proposer { asks: sender, bytes: bytes.clone(), kick: kick.clone() }, Inbox { asks, bytes, kick })
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
#[derive(Default)]
struct Batch {
    entry: Entry,
    replies: Vec<ReplyTo>,
    awaits: Vec<(Work, ReplyTo)>,
    taken: Vec<Taken>,
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
        let mut batch = Batch::default();
        let mut queues = BTreeSet::new();
        let mut bytes = 0;
        let mut asks = asks.into_iter();
        while let Some(ask) = self.held.take().or_else(|| asks.next()) {
            match ask {
                Ask::Command(_, _, size) if bytes > 0 && bytes + size > ENTRY_BYTES_MAX => {
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
            self.router.take_grants(Some(&queues), &mut batch.entry, &mut batch.taken);
            self.propose(&mut batch).await?;
        }
        self.router.await_ends(batch.awaits);
        Ok(asks.collect())
    }

    /// Proposes an entry of grants alone while ready work meets free slots.
    async fn offer(&mut self) -> Result<(), &'static str> {
        // Whatever arrived meanwhile goes first and takes the grants along.
        if self.inbox.asks.is_empty() && self.router.wants_entry() {
            let mut batch = Batch::default();
            self.router.take_grants(None, &mut batch.entry, &mut batch.taken);
            if !batch.entry.grants.is_empty() {
                self.propose(&mut batch).await?;
            }
        }
        Ok(())
    }

    async fn propose(&mut self, batch: &mut Batch) -> Result<(), &'static str> {
        let mut entry = std::mem::take(&mut batch.entry);
        entry.now = self.clock.now();
        let replies = std::mem::take(&mut batch.replies);
        match self.commit(entry).await {
            Ok(Committed { position, applied }) => {
                self.count(&applied);
                for (reply, outcome) in replies.into_iter().zip(applied.outcomes) {
                    reply.answer(position, outcome.map_err(Refusal::Reject));
                }
                self.router.give_back(&batch.taken, &applied.unused);
                self.router.effects(position, applied.effects).await;
                Ok(())
            }
            Err(error) => {
                // Committed or not, nobody knows: the clients ask again with the same ids.
                warn!(%error, "a proposal failed, leadership is over");
                for reply in replies {
                    reply.refuse(Unavailable::NotLeader { leader: None });
                }
                Err("a proposal failed")
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
        let leases = applied.effects.iter().filter(|e| matches!(e, Effect::TaskLeased { .. } | Effect::RunLeased { .. }));
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
        | Command::Tick => {}
    }
}

/// Roughly the bytes that a command adds to an entry.
fn size(command: &Command) -> usize {
    const ENVELOPE_BYTES: usize = 128;
    let payload = match command {
        Command::StartRun(start) => start.input.data.len(),
        Command::SubmitTask(submit) => submit.args.data.len(),
        Command::Spawn(spawn) => spawn.steps.iter().map(|step| step.args.data.len() + ENVELOPE_BYTES).sum(),
        Command::RecordStep(record) => record.result.data.len(),
        Command::CompleteTask(complete) => outcome_size(&complete.outcome),
        Command::CompleteRun(complete) => outcome_size(&complete.outcome),
        Command::ResumeSession { held, .. } => held.len() * 8,
        Command::Release(_)
        | Command::ParkRun(_)
        | Command::EndSession { .. }
        | Command::PauseQueue { .. }
        | Command::UnpauseQueue { .. }
        | Command::Tick => 0,
    };
    payload + ENVELOPE_BYTES
}

fn outcome_size(outcome: &coda_protocol::payload::WorkOutcome) -> usize {
    match outcome {
        Ok(payload) => payload.data.len(),
        Err(failure) => failure.message.len() + failure.traceback.len(),
    }
}
