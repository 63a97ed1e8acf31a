//! What an operator asks of a cluster, and what it reports of itself.
//!
//! Any node answers: what has to be decided goes to the leader of the meta group, and what nodes know of themselves is
//! asked of each.

use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, format_smolstr};

use crate::cluster::{
    ClusterDescription, MemberDescription, NodeState, Registration, SettingDescription, SettingValue, TokenDescription,
};
use crate::ids::{GroupId, Millis, NodeId, Timestamp, TokenId};
use crate::join::TokenDigest;
use crate::rebalance::Plan;
use crate::reply::Counters;

/// Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterRequest {
    /// The cluster begins, with the node that is asked as its first. → `Done`
    Init { replication_factor: u8, groups: u16 },
    /// Lets a node in. Whoever asks has got the registration from the node itself, by `ReportNode`. → `Done`
    Join { token: TokenId, digest: TokenDigest, node: NodeId, registration: Registration },
    /// → `TokenCreated`
    CreateToken { token: TokenId, digest: TokenDigest, ttl: Option<Millis> },
    /// → `Done`
    RevokeToken(TokenId),
    /// → `Tokens`
    ListTokens,
    /// → `Done`
    Drain(NodeId),
    /// → `Done`
    Undrain(NodeId),
    /// → `Done`
    Remove(NodeId),
    /// → `Done`
    SetReplicationFactor(u8),
    /// Without a value, the default holds again. → `Done`
    SetSetting { key: SmolStr, value: Option<SettingValue> },
    /// → `Settings`
    ListSettings,
    /// Everything about the cluster, as far as nodes answer. → `Cluster`
    Report,
    /// What one node knows of itself; of the one that is asked, if none is named. → `Node`
    ReportNode(Option<NodeId>),
    /// What is to be moved where. → `Plan`
    Plan,
    /// Do what the plan says, whatever the settings say about doing it unasked. Answered when it has begun, with what is
    /// to be done: ask for the plan again to see what is left. → `Plan`
    Rebalance,
    /// Hand a group's leadership to another node; to the best one, if none is named. Answered when it has moved. → `Done`
    TransferLeader { group: GroupId, to: Option<NodeId> },
    /// Checksums of a group's state on all nodes that have a copy, at one index. → `Digests`
    Verify(GroupId),
}

/// Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterReply {
    Tokens(Vec<TokenDescription>),
    Settings(Vec<SettingDescription>),
    Cluster(Box<ClusterReport>),
    Node(Box<NodeReport>),
    Plan(Plan),
    Digests(Vec<ReplicaDigest>),
}

/// A checksum of a group's state on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDigest {
    pub node: NodeId,
    /// The index of the last entry in the state, and the checksum of it; or why there is none.
    pub digest: Result<(u64, u64), SmolStr>,
}

/// What is known of a cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Who put it together.
    pub node: NodeId,
    pub now: Timestamp,
    /// None before there is a cluster.
    pub cluster: Option<ClusterDescription>,
    pub map_version: u64,
    /// Whether this was read from a leader that a quorum confirmed; else it is what this node last heard.
    pub is_current: bool,
    /// All that are known, the removed ones too, by id.
    pub members: Vec<MemberReport>,
    /// By id, the meta group first.
    pub groups: Vec<GroupReport>,
    /// What is to be moved, and what cannot be.
    pub plan: Plan,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    pub member: MemberDescription,
    /// What it says of itself, or why it did not.
    pub report: Result<Box<NodeReport>, SmolStr>,
}

/// A group, as the cluster wants it and as its copies say it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    pub group: GroupId,
    /// Who should vote, and lead.
    pub voters: Vec<NodeId>,
    pub preferred: Option<NodeId>,
    /// Who leads, by the latest term that anybody has heard of.
    pub leader: Option<NodeId>,
    pub term: u64,
    /// What is placed is what is there.
    pub is_settled: bool,
}

/// What a node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    pub registration: Registration,
    /// What the cluster last told it that it is; none before it has joined one.
    pub state: Option<NodeState>,
    pub uptime: Millis,
    pub sessions: u32,
    pub counters: Counters,
    pub disk: DiskReport,
    /// By id.
    pub replicas: Vec<ReplicaReport>,
    /// By id.
    pub peers: Vec<PeerReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Of the file system that holds the data folder.
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Writes are refused while less than this is free.
    pub reserve_bytes: u64,
    /// What the node has stored.
    pub data_bytes: u64,
    pub refuses_writes: bool,
    /// Syncs of the log in the last minute or so, and how long they took, in microseconds.
    pub syncs: u64,
    pub sync_p50_us: u64,
    pub sync_p99_us: u64,
    pub sync_max_us: u64,
    /// How long a sync that is under way has taken so far, if it is late.
    pub sync_hangs: Option<Millis>,
}

/// A node's copy of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    pub group: GroupId,
    pub term: u64,
    pub leader: Option<NodeId>,
    /// Indexes; 0 for none.
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    /// The state up to here is on disk.
    pub durable: u64,
    /// The log up to here is gone.
    pub purged: u64,
    /// Bytes of log that are kept, about.
    pub log_bytes: u64,
    /// Since the state was last made durable.
    pub checkpoint_age: Option<Millis>,
    /// Raft's membership, as this node has it.
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// What a leader knows of the others.
    pub followers: Vec<FollowerReport>,
    /// Why it has stopped, if it has.
    pub failure: Option<SmolStr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerReport {
    pub node: NodeId,
    /// The last entry that it is known to have.
    pub matched: Option<u64>,
    /// Since it last answered.
    pub heard: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    pub node: NodeId,
    /// The connection's round trip in microseconds, or why there is none.
    pub round_trip_us: Result<u64, SmolStr>,
}

/// How a cluster is, in one word and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    Healthy,
    /// It serves everything, but something is not as it should be.
    Degraded(Vec<SmolStr>),
    /// Some work is not served.
    NoQuorum(Vec<SmolStr>),
}

/// How many entries a copy may be behind before it is called so.
pub const LAG_ENTRIES_MAX: u64 = 10_000;

impl ClusterReport {
    /// One node's words about itself, if it said any.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeReport> {
        let member = self.members.iter().find(|member| member.member.node == node)?;
        member.report.as_deref().ok()
    }

    /// A group's copy on a node, as that node reports it.
    #[must_use]
    pub fn replica(&self, group: GroupId, node: NodeId) -> Option<&ReplicaReport> {
        self.node(node)?.replicas.iter().find(|replica| replica.group == group)
    }

    /// How the cluster is. Each reason is a sentence of its own, the worst first.
    #[must_use]
    pub fn health(&self) -> Health {
        let (mut lost, mut wrong) = (Vec::new(), Vec::new());
        let (mut dead, mut leaderless, mut reduced) = (Vec::new(), Vec::new(), Vec::new());
        for group in &self.groups {
            let answering = |node: &&NodeId| self.replica(group.group, **node).is_some_and(|one| one.failure.is_none());
            let (up, all) = (group.voters.iter().filter(answering).count(), group.voters.len());
            let voters = format_smolstr!("in group {}, {up} of {all} voters answer", group.group);
            if up <= all / 2 {
                dead.push(voters);
            } else if group.leader.is_none() {
                leaderless.push(format_smolstr!("group {}", group.group));
            } else if up < all {
                reduced.push(voters);
            }
        }
        // One line for many groups: what a node takes with it, it takes in all groups that it has.
        let summary = |groups: &[SmolStr], of_one: &str, of_many: &str| {
            let first = groups.first()?;
            Some(match groups.len() {
                1 => format_smolstr!("a group {of_one}: {first}"),
                count => format_smolstr!("{count} groups {of_many}: {first}, for one"),
            })
        };
        lost.extend(summary(&dead, "has no quorum", "have no quorum"));
        lost.extend(summary(&leaderless, "has no leader for the moment", "have no leader for the moment"));
        for MemberReport { member, report } in &self.members {
            let node = member.node;
            match (member.state, report) {
                (NodeState::Removed, _) => {}
                (_, Err(why)) => wrong.push(format_smolstr!("node {node} does not answer: {why}")),
                (state, Ok(report)) => {
                    if matches!(state, NodeState::Draining | NodeState::Joining) {
                        wrong.push(format_smolstr!("node {node} is {state}"));
                    }
                    self.complain_of(report, &mut wrong);
                }
            }
        }
        wrong.extend(summary(&reduced, "has lost a copy for now", "have lost copies for now"));
        if self.cluster.is_some() && !self.is_current {
            let node = self.node;
            wrong
                .push(format_smolstr!("this is what node {node} last heard: no leader of the meta group confirmed it"));
        }
        let factor = self.cluster.as_ref().map_or(0, |cluster| usize::from(cluster.replication_factor));
        let thin = self.groups.iter().map(|group| (group.group, group.voters.len())).filter(|(_, has)| *has < factor);
        let thin: Vec<SmolStr> =
            thin.map(|(id, has)| format_smolstr!("group {id} has {has} of the {factor} wanted")).collect();
        wrong.extend(summary(&thin, "is to have more copies", "are to have more copies"));
        if !self.plan.steps.is_empty() {
            wrong.push(format_smolstr!("{} replicas or leaders are to be moved", self.plan.steps.len()));
        }
        wrong.extend(self.plan.stuck.iter().map(|stuck| format_smolstr!("{stuck}")));
        match (lost.is_empty(), wrong.is_empty()) {
            (true, true) => Health::Healthy,
            (true, false) => Health::Degraded(wrong),
            (false, _) => Health::NoQuorum(lost.into_iter().chain(wrong).collect()),
        }
    }

    fn complain_of(&self, report: &NodeReport, wrong: &mut Vec<SmolStr>) {
        let node = report.node;
        if report.disk.refuses_writes {
            let (free, reserve) = (report.disk.free_bytes >> 20, report.disk.reserve_bytes >> 20);
            wrong.push(format_smolstr!(
                "node {node} refuses writes: {free} MiB are free, {reserve} are kept in reserve"
            ));
        }
        if let Some(Millis(ms)) = report.disk.sync_hangs {
            wrong.push(format_smolstr!("the disk of node {node} has not answered for {ms} ms"));
        }
        for replica in &report.replicas {
            let group = replica.group;
            if let Some(why) = &replica.failure {
                wrong.push(format_smolstr!("group {group} has stopped on node {node}: {why}"));
            }
            let behind = |follower: &&FollowerReport| {
                replica.last_log.saturating_sub(follower.matched.unwrap_or(0)) > LAG_ENTRIES_MAX
            };
            for follower in replica.followers.iter().filter(behind) {
                let lag = replica.last_log - follower.matched.unwrap_or(0);
                wrong.push(format_smolstr!("node {} is {lag} entries behind in group {group}", follower.node));
            }
        }
    }
}
