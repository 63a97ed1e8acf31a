//! One Raft group on this node: propose, read, follow the leadership. Nothing here is generic over openraft.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use coda_engine::entry::{Applied, Entry};
use coda_engine::kv::Read;
use coda_protocol::ids::{GroupId, NodeId, Position};
use coda_protocol::planted::{self, Bug};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{BasicNode, Raft, ReadPolicy};
use tokio::sync::watch;

use crate::error::StoreError;
pub use crate::group_config::GroupOptions;
use crate::group_config::config;
pub use crate::group_error::ProposeError;
use crate::group_log::GroupLog;
pub use crate::group_members::{Follower, Membership};
pub use crate::group_serve::ServeError;
use crate::group_tasks::{Tasks, follow_leadership, keep_checkpoints, watch_state_machine};
use crate::hung::{Standing, follow_disk};
use crate::log::LogPoint;
use crate::network::Network;
use crate::peers::PeerTransport;
use crate::snapshot;
use crate::state_machine::{Shared, StateMachine};
use crate::store::NodeStore;
use crate::types::{LogId, Proposal, Types, log_point};
use crate::view::StateView;
use crate::workshop::Workshop;

/// Largest encoded entry that the log takes: above what a proposer makes of many commands, or of one large one, and well
/// below what the decoder allows, so that no node ever refuses to read its own log.
pub const LOG_ENTRY_BYTES_MAX: usize = 32 << 20;
const _: () = assert!(
    coda_protocol::limits::PROPOSER_ENTRY_BYTES_MAX + coda_protocol::limits::FRAME_BYTES_MAX <= LOG_ENTRY_BYTES_MAX
);
const _: () = assert!(2 * LOG_ENTRY_BYTES_MAX <= coda_protocol::codec::DECODE_BYTES_MAX);

pub(crate) type GroupRaft = Raft<Types, StateMachine>;
type WriteResult = Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>;

/// An entry that is in the log for good and whose effect on the state can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub position: Position,
    pub applied: Applied,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// This node leads. Its first entry may not be applied yet: `linearize` waits for that.
    pub is_me: bool,
    /// Why the group has stopped on this node, for good, if it has.
    pub failure: Option<String>,
}

/// Where a group stands on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// Index of the last entry in the log, durable or not.
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    /// The state up to here is on disk: where a restart begins to replay.
    pub durable: Option<u64>,
    /// The log up to here is gone.
    pub purged: Option<u64>,
    pub voters: Vec<NodeId>,
}

/// Tells when the applied state of a group changes, however that came about: by this node's own proposals, another's, or
/// a snapshot. For groups in which little happens: it looks at each entry.
pub struct Changes {
    metrics: WatchReceiverOf<Types, openraft::RaftMetrics<Types>>,
    seen: Option<LogId>,
}

impl Changes {
    /// The next change since the last one that this told, from the beginning; false when the group has stopped.
    pub async fn next(&mut self) -> bool {
        loop {
            let applied = self.metrics.borrow_and_update().last_applied;
            if applied != self.seen {
                self.seen = applied;
                return true;
            }
            if self.metrics.changed().await.is_err() {
                return false;
            }
        }
    }
}

/// A handle to one group of this node. Clones are the same group.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

pub(crate) struct Inner {
    pub raft: GroupRaft,
    pub store: NodeStore,
    pub options: GroupOptions,
    pub shared: Arc<Shared>,
    pub log: GroupLog,
    pub standing: Arc<Standing>,
    leadership: watch::Receiver<Leadership>,
    tasks: Tasks,
}

impl Group {
    /// Starts the group: recovers its state, replays its log and takes part in elections. A group with one voter
    /// elects itself at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `CODA4105` when the folder is another node's, else `CODA4106`; the text carries the cause's own code, such as
    /// `CODA4104` for a log record that this binary does not understand.
    pub async fn start(
        store: NodeStore,
        options: GroupOptions,
        peers: Arc<dyn PeerTransport>,
    ) -> Result<Self, StoreError> {
        store.bind(options.node)?;
        let config = Arc::new(config(&options)?);
        let shared = Arc::new(Shared::new(store.db().clone(), options.group, options.checkpoint_log_bytes));
        let state_machine = StateMachine::open(shared.clone())?;
        let replicates = Arc::new(AtomicBool::new(false));
        let log = GroupLog::open(store.log().clone(), options.group, shared.durable_end.clone(), replicates.clone())?;
        let network = Network::new(options.group, peers, store.clone(), shared.owed.clone());
        let failed =
            |error: &dyn std::fmt::Display| StoreError::Io { doing: "starting a group", why: error.to_string() };
        let raft =
            Raft::new(options.node.0, config, network, log.clone(), state_machine).await.map_err(|e| failed(&e))?;
        // A single voter has nobody to wait for.
        let sole = raft.with_raft_state(sole_voter(options.node)).await.map_err(|e| failed(&e))?;
        if sole {
            raft.trigger().elect(false).await.map_err(|e| failed(&e))?;
        }
        let (leads, leadership) = watch::channel(Leadership::default());
        let standing = Arc::new(Standing::default());
        let tasks = Tasks::spawn([
            tokio::spawn(follow_leadership(raft.clone(), standing.clone(), leads, replicates)),
            tokio::spawn(follow_disk(raft.clone(), standing.clone(), options.clone(), store.disk())),
            tokio::spawn(keep_checkpoints(raft.clone(), shared.clone(), log.clone())),
            tokio::spawn(watch_state_machine(raft.clone(), shared.clone())),
        ]);
        Ok(Self(Arc::new(Inner { raft, store, options, shared, log, standing, leadership, tasks })))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Makes this node the only member of a new group and waits until it leads. Does nothing but wait if the group
    /// exists already.
    ///
    /// # Errors
    /// As [`Group::propose`], when the group does not come up.
    pub async fn initialize_single(&self) -> Result<(), ProposeError> {
        let Inner { raft, options, .. } = &*self.0;
        let nodes = std::collections::BTreeMap::from([(options.node.0, BasicNode::new(&options.addr))]);
        match raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(ProposeError::Failed { why: error.to_string() }),
        }
        let mut leadership = self.leadership();
        let led = leadership.wait_for(|leadership| leadership.is_me || leadership.failure.is_some()).await;
        led.map_err(|_| ProposeError::ShuttingDown)?;
        // The first proposals after an election are refused until the leader's own first entry is through.
        loop {
            match self.linearize().await {
                Err(ProposeError::Unavailable { .. }) => tokio::time::sleep(options.heartbeat / 8).await,
                result => return result.map(drop),
            }
        }
    }

    /// Puts an entry into the log and waits until it is applied here.
    ///
    /// # Errors
    /// [`ProposeError`]: whether the entry may have taken effect, and whether and where to try again.
    pub async fn propose(&self, entry: Entry) -> Result<Committed, ProposeError> {
        let proposal = Proposal::new(entry);
        let bytes = proposal.bytes().len();
        if bytes > LOG_ENTRY_BYTES_MAX {
            return Err(ProposeError::EntryTooLarge { bytes, bytes_max: LOG_ENTRY_BYTES_MAX });
        }
        if !self.may_lead() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        self.committed(self.unless_given_up(self.0.raft.client_write(proposal)).await)
    }

    /// None when this node gives the leadership up on the way: openraft's core may then wait for the disk, and the entry
    /// with it, for as long as that hangs.
    pub(crate) async fn unless_given_up<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut given_up = self.0.standing.given_up();
        tokio::select! {
            biased;
            result = call => Some(result),
            _ = given_up.changed() => None,
        }
    }

    /// Whether this node has not given up the leadership of the term that it knows.
    fn may_lead(&self) -> bool {
        let term = self.0.leadership.borrow().term;
        self.0.standing.may_lead_in(term)
    }

    pub(crate) fn committed(&self, result: Option<WriteResult>) -> Result<Committed, ProposeError> {
        let Some(result) = result else { return Err(ProposeError::Uncertain { leader: None }) };
        match result {
            Ok(written) => {
                let LogPoint { term, index } = log_point(&written.log_id);
                let position = Position { group: self.0.options.group.0, term, index };
                Ok(Committed { position, applied: written.data })
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(ProposeError::forward(to.leader_id, to.reason))
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(to))) => {
                Err(ProposeError::Uncertain { leader: to.leader_id.map(NodeId) })
            }
            Err(RaftError::APIError(error)) => Err(ProposeError::Failed { why: error.to_string() }),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::fatal(&fatal)),
        }
    }

    /// Tells when the applied state changes.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes { metrics: self.0.raft.metrics(), seen: None }
    }

    /// Who leads, now and whenever it changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Reads applied state as it was at one moment, with the index of the last entry it contains (0 before any).
    /// On the leader this lags behind nothing that was answered; to be sure to be the leader, `linearize` first.
    /// Blocks for as long as `read` takes.
    pub fn read<T>(&self, read: impl FnOnce(&dyn Read, u64) -> T) -> T {
        self.read_at(|view, position| read(view, position.index))
    }

    /// As [`Group::read`], with the position of that entry. Its term is the entry's own, whoever leads now.
    pub fn read_at<T>(&self, read: impl FnOnce(&dyn Read, Position) -> T) -> T {
        let Shared { db, group, replacing, .. } = &*self.0.shared;
        let view = {
            let _not_replaced = replacing.read();
            StateView::moment(db)
        };
        let applied = view.applied(*group).unwrap_or_else(|error| panic!("{error}"));
        let LogPoint { term, index } = applied.unwrap_or_default();
        read(&view, Position { group: group.0, term, index })
    }

    /// Confirms with a quorum that this node leads and waits until everything committed before is applied here; a
    /// read after it sees every write that was answered before it began. Returns the applied index it waited for.
    ///
    /// # Errors
    /// [`ProposeError`], as for a proposal that was not made.
    pub async fn linearize(&self) -> Result<u64, ProposeError> {
        if !self.may_lead() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        if planted::is(Bug::ReadUnconfirmed) {
            return Ok(self.read(|_, applied| applied));
        }
        let confirmed = self.unless_given_up(self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
        let Some(confirmed) = confirmed else { return Err(ProposeError::NotLeader { leader: None }) };
        match confirmed {
            Ok(read) => Ok(read.log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ProposeError::forward(to.leader_id, to.reason))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error))) => {
                Err(ProposeError::Unavailable { why: error.to_string() })
            }
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::fatal(&fatal)),
        }
    }

    /// A checksum of the group's state and the index of the last entry in it: equal on all nodes at equal indexes.
    /// Reads all of the state.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let group = self.0.options.group;
        self.read(|view, applied| (applied, snapshot::digest(view, group)))
    }

    /// Where the group stands on this node.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let leader = self.0.leadership.borrow().leader;
        let durable = self.0.shared.durable_end.load(std::sync::atomic::Ordering::Acquire).checked_sub(1);
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.as_ref().map(LogId::index);
        GroupStatus {
            term: metrics.current_term,
            leader,
            last_log: metrics.last_log_index,
            committed: index(&metrics.local_committed),
            // What is on disk was applied, whether Raft's metrics say so by now or not.
            applied: index(&metrics.last_applied).max(durable),
            durable,
            purged: index(&metrics.purged),
            voters: metrics.membership_config.voter_ids().map(NodeId).collect(),
        }
    }

    /// Who does what takes long, such as [`Group::digest`].
    #[must_use]
    pub fn workshop(&self) -> &Workshop {
        self.0.store.workshop()
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.0.options.group
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.options.node
    }

    /// Asks for the state to be made durable and the log before it to be let go, as happens by itself every
    /// [`GroupOptions::checkpoint_log_bytes`]. [`GroupStatus::durable`] tells when.
    pub fn checkpoint(&self) {
        self.0.shared.checkpoint_due.notify_one();
    }

    /// Leaves elections and replication and waits until nothing of this group touches the store any more. Proposals
    /// under way get [`ProposeError::ShuttingDown`]. Close the store after its last group.
    pub async fn shutdown(&self) {
        let Inner { raft, shared, tasks, .. } = &*self.0;
        tasks.stop().await;
        if let Err(error) = raft.shutdown().await {
            tracing::error!(%error, "raft did not stop cleanly");
        }
        // Openraft waits for its core, not for the state machine's worker, which may be in the middle of a batch.
        shared.alive.closed().await;
    }
}

fn sole_voter(node: NodeId) -> impl FnOnce(&openraft::RaftState<Types>) -> bool + Send + 'static {
    move |state| {
        let mut voters = state.membership_state.effective().voter_ids();
        voters.next() == Some(node.0) && voters.next().is_none()
    }
}

impl ProposeError {
    fn forward(leader: Option<u64>, reason: ForwardReason) -> Self {
        match reason {
            ForwardReason::NotLeader => Self::NotLeader { leader: leader.map(NodeId) },
            ForwardReason::LeadershipTransfer => Self::Unavailable { why: "leadership is being handed over".into() },
            ForwardReason::LeaseExpired => Self::Unavailable { why: "no quorum has answered lately".into() },
        }
    }
}
