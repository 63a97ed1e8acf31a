//! What nodes ask each other, and how a question finds the leader that it is for.

use std::time::Duration;

use coda_engine::cluster::rows::PlacementRow;
use coda_engine::command::Command;
use coda_protocol::codec;
use coda_protocol::ids::{GroupId, Name, NodeId, Position};
use coda_protocol::operate::ClusterRequest;
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::{LaneList, QueuePage, QueuePlace, Reply};
use coda_raft_store::peers::Peer;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::{sleep, timeout_at};
use tracing::debug;

use super::answer;
use crate::host::Host;
use crate::peers::Asker;

/// How long a question looks for the leader that it is for.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long another node may take for an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The same for what it knows of itself, which whoever looks at the cluster waits for.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

/// The same for who leads, which another one knows as well.
const LEADER_ANSWER_PATIENCE: Duration = Duration::from_millis(300);

/// One question. Variants are only ever appended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Of a group's leader. → `Reply`
    Propose { group: GroupId, command: Command },
    /// Of a group's leader. → `Queues`
    Queues { group: GroupId, from: Option<QueuePlace> },
    /// Of a group's leader. → `Lanes`
    Lanes { group: GroupId, queue: Name },
    /// Of the meta group's leader, which makes sure that it is: where a group is placed. → `Placement`
    Placement(GroupId),
    /// Of the meta group's leader: what only it can answer. → `Reply`
    Decide(ClusterRequest),
    /// Of any node: what it knows of itself. → `Reply`
    Report,
    /// Of any node with a copy: once it has come so far, its index and checksum. → `Digest`
    Digest { group: GroupId, index: u64 },
    /// Of a group's leader: hand over now. → `Leader`, who leads at the moment
    Transfer { group: GroupId, to: NodeId },
    /// Of any node with a copy: who leads the group, as that has heard. → `Leader`
    Leader(GroupId),
    /// Of a group's leader, which takes no writes for a moment: how far it has come, and the others will. → `Index`
    Index(GroupId),
}

/// The yes to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    Reply(Position, Reply),
    Queues(Position, QueuePage),
    Lanes(Position, LaneList),
    Placement(PlacementRow),
    Digest(u64, u64),
    Index(u64),
    Leader(Option<NodeId>),
}

impl Ask {
    /// The group whose leader it is for.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Propose { group, .. }
            | Self::Queues { group, .. }
            | Self::Lanes { group, .. }
            | Self::Transfer { group, .. }
            | Self::Index(group) => Some(*group),
            Self::Placement(_) | Self::Decide(_) => Some(GroupId::META),
            Self::Report | Self::Digest { .. } | Self::Leader(_) => None,
        }
    }
}

pub type Answered = Result<Said, Refusal>;

/// Asks this node and others. Cheap to clone.
#[derive(Clone)]
pub struct Asking {
    /// None on a node without peers.
    asker: Option<Asker>,
}

impl Asking {
    #[must_use]
    pub fn new(asker: Option<Asker>) -> Self {
        Self { asker }
    }

    /// The round trip to a node in microseconds, or why there is none.
    ///
    /// # Errors
    /// Why.
    pub fn round_trip_us(&self, node: NodeId) -> Result<u64, SmolStr> {
        let round_trip = self.asker.as_ref().and_then(|asker| asker.round_trip(node));
        round_trip.map(|time| time.as_micros() as u64).ok_or_else(|| self.why_down(node).into())
    }

    /// Whether a node can be reached, as far as is known without asking it.
    #[must_use]
    pub fn is_up(&self, host: &Host, node: NodeId) -> bool {
        node == host.node || self.asker.as_ref().is_some_and(|asker| asker.is_up(node))
    }

    /// Asks the leader of the group that the question is for, wherever it is, for as long as there is none within some
    /// seconds. A command may be proposed twice.
    ///
    /// # Errors
    /// The leader's refusal, or that there is none.
    pub async fn leader(&self, host: &Host, ask: Ask) -> Answered {
        let Some(group) = ask.group() else { return answer::here(host, ask).await };
        let deadline = host.clock.instant() + LEADER_PATIENCE;
        loop {
            let leader = self.find_leader(host, group).await;
            let said = match leader {
                Some(node) => timeout_at(deadline + ANSWER_PATIENCE, self.node(host, node, ask.clone())).await.ok(),
                None => None,
            };
            match said {
                Some(Err(Refusal::Unavailable(why @ Unavailable::NotLeader { .. })))
                    if host.clock.instant() >= deadline =>
                {
                    return Err(why.into());
                }
                Some(Err(Refusal::Unavailable(Unavailable::NotLeader { .. } | Unavailable::ConnectionLost))) | None => {
                }
                Some(said) => return said,
            }
            if host.clock.instant() >= deadline {
                let leader = leader.map(|node| format!("node {node}"));
                return Err(Unavailable::NotLeader { leader }.into());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Who leads a group: as this node's copy of it has heard, or else as one of those has that have a copy.
    pub async fn find_leader(&self, host: &Host, group: GroupId) -> Option<NodeId> {
        if host.routes.hosted(group).is_some() {
            return host.leader_of(group);
        }
        let view = host.cluster.get();
        let row = view.placements.get(&group)?;
        let preferred = row.leader.into_iter();
        let others = row.voters.iter().copied().filter(|node| Some(*node) != row.leader);
        let mut asked: Vec<NodeId> = preferred.chain(others).filter(|node| *node != host.node).collect();
        // One that was never asked is not known to be up; one that is down costs a moment, and is asked last.
        asked.sort_by_key(|node| !self.is_up(host, *node));
        for node in asked {
            if let Ok(Said::Leader(Some(leader))) = self.node(host, node, Ask::Leader(group)).await {
                return Some(leader);
            }
        }
        None
    }

    /// Asks one node.
    ///
    /// # Errors
    /// Its refusal, or [`Unavailable::ConnectionLost`].
    pub async fn node(&self, host: &Host, node: NodeId, ask: Ask) -> Answered {
        if node == host.node {
            return answer::here(host, ask).await;
        }
        let Some(asker) = &self.asker else { return Err(Unavailable::ConnectionLost.into()) };
        let peer = Peer { node, addr: host.cluster.get().peer_addr(node) };
        let patience = match ask {
            Ask::Report => REPORT_PATIENCE,
            Ask::Leader(_) => LEADER_ANSWER_PATIENCE,
            _ => ANSWER_PATIENCE,
        };
        match asker.ask(&peer, codec::encode(&ask).into(), patience).await {
            Ok(said) => codec::decode::<Answered>("answer", &said).unwrap_or_else(|error| {
                debug!(%node, %error, "an answer of another version");
                Err(Unavailable::ConnectionLost.into())
            }),
            Err(error) => {
                debug!(%node, %error, "no answer");
                Err(Unavailable::ConnectionLost.into())
            }
        }
    }

    /// Why a node cannot be reached, as its last attempt said.
    #[must_use]
    pub fn why_down(&self, node: NodeId) -> String {
        self.asker.as_ref().map_or_else(|| "this node has no peers".into(), |asker| asker.why_down(node))
    }

    /// Proposes a command of the cluster to the meta group, wherever it is led.
    ///
    /// # Errors
    /// As [`Asking::leader`].
    pub async fn propose(&self, host: &Host, group: GroupId, command: Command) -> Result<(Position, Reply), Refusal> {
        match self.leader(host, Ask::Propose { group, command }).await? {
            Said::Reply(position, reply) => Ok((position, reply)),
            _ => Err(Unavailable::ConnectionLost.into()),
        }
    }
}
