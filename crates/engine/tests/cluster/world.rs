//! A cluster for tests: the engine in memory, a clock that is a number, and verbs of the domain. After every command all
//! invariants are checked, and that saying it twice is saying it once.

use coda_engine::apply::apply;
use coda_engine::cluster::command::{ClusterCommand, InitCluster, PlaceGroup};
use coda_engine::command::{Command, Outcome};
use coda_engine::effect::Effect;
use coda_engine::entry::Entry;
use coda_engine::invariants;
use coda_engine::kv::MemKv;
use coda_engine::query::cluster as query;
use coda_protocol::cluster::{ClusterMap, MemberDescription, NodeState, Registration, SettingValue, TokenState};
use coda_protocol::ids::{ClusterId, GroupId, Millis, NodeId, StorageId, Timestamp, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::rebalance::{Plan, Step};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

pub const META: GroupId = GroupId::META;
pub const CLUSTER: ClusterId = ClusterId([0xcc; 16]);

#[derive(Clone, Default)]
pub struct World {
    pub kv: MemKv,
    pub index: u64,
    pub now: u64,
    /// Of the last entry.
    pub effects: Vec<Effect>,
    tokens: u8,
}

/// What the machine with that data folder says of itself.
pub fn machine(storage: u8) -> Registration {
    Registration {
        storage: StorageId([storage; 16]),
        incarnation: 1,
        peer_addr: format!("n{storage}:7401").into(),
        client_addr: format!("n{storage}:7400").into(),
        zone: "".into(),
        version: "0.1.0".into(),
        commands_version: 1,
    }
}

pub fn digest(secret: u8) -> TokenDigest {
    TokenDigest([secret; 32])
}

pub fn token(id: u8) -> TokenId {
    TokenId([id; 16])
}

pub fn init(replication_factor: u8, groups: u16) -> ClusterCommand {
    ClusterCommand::Init(InitCluster {
        cluster: CLUSTER,
        replication_factor,
        groups,
        node: NodeId(1),
        founder: machine(1),
    })
}

/// Writing and time.
impl World {
    /// Nothing yet.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A cluster of three copies and three data groups, with its founder.
    pub fn new() -> Self {
        let mut world = Self::empty();
        assert_eq!(world.command(init(3, 3)), Ok(Reply::Done));
        world
    }

    /// As [`World::new`], with so many active nodes.
    pub fn of(nodes: u8) -> Self {
        let mut world = Self::new();
        (2..=nodes).for_each(|storage| {
            let node = world.join(storage);
            world.activate(node);
        });
        world
    }

    pub fn at(&mut self, ms: u64) -> &mut Self {
        self.now = ms;
        self
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let entry = Entry { now: Timestamp(self.now), commands: vec![command.clone()], ..Entry::default() };
        let mut applied = apply(&mut self.kv, META, self.index, &entry);
        let broken = invariants::check_at(&self.kv, META, self.index);
        assert!(broken.is_empty(), "after {command:?}: {broken:#?}");
        self.effects = applied.effects;
        applied.outcomes.remove(0)
    }

    pub fn command(&mut self, command: ClusterCommand) -> Outcome {
        let before = self.kv.clone();
        let outcome = self.apply(Command::Cluster(command.clone()));
        let mut again = self.clone();
        if outcome.is_ok() {
            assert_eq!(again.apply(Command::Cluster(command.clone())), outcome, "twice is once: {command:?}");
            assert!(again.kv == self.kv, "said twice, {command:?} does more than once");
        } else {
            // Time may have passed.
            again.kv.map.retain(|key, _| key[4] != 1);
            assert!(
                before.map.iter().filter(|(key, _)| key[4] != 1).eq(&again.kv.map),
                "refused, and done: {command:?}"
            );
        }
        outcome
    }

    pub fn done(&mut self, command: ClusterCommand) {
        assert_eq!(self.command(command.clone()), Ok(Reply::Done), "{command:?}");
    }

    /// The code of the refusal.
    pub fn refused(&mut self, command: ClusterCommand) -> Reject {
        self.command(command).expect_err("it should be refused")
    }

    pub fn tick(&mut self) {
        assert_eq!(self.apply(Command::Tick), Ok(Reply::Done));
    }
}

/// What operators and nodes do.
impl World {
    /// A token whose id and secret are the same number.
    pub fn token(&mut self) -> u8 {
        self.tokens += 1;
        let id = self.tokens;
        let create = ClusterCommand::CreateToken { token: token(id), digest: digest(id), ttl: Some(Millis(60_000)) };
        assert_eq!(self.command(create), Ok(Reply::TokenCreated { expires: Timestamp(self.now + 60_000) }));
        id
    }

    /// The node whose id is the number of its disk.
    pub fn try_join(&mut self, id: u8, registration: Registration) -> Result<NodeId, Reject> {
        let node = NodeId(u64::from(registration.storage.0[0]));
        self.try_join_as(id, node, registration)
    }

    pub fn try_join_as(&mut self, id: u8, node: NodeId, registration: Registration) -> Result<NodeId, Reject> {
        let join = ClusterCommand::Join { token: token(id), digest: digest(id), node, registration };
        assert_eq!(self.command(join)?, Reply::Done);
        Ok(node)
    }

    pub fn join(&mut self, storage: u8) -> NodeId {
        self.join_as(machine(storage))
    }

    pub fn join_as(&mut self, registration: Registration) -> NodeId {
        let id = self.token();
        self.try_join(id, registration).unwrap()
    }

    pub fn register(&mut self, node: u64, registration: Registration) -> Outcome {
        self.command(ClusterCommand::Register { node: NodeId(node), registration })
    }

    pub fn activate(&mut self, node: NodeId) {
        self.done(ClusterCommand::Activate { node });
    }

    pub fn drain(&mut self, node: u64) {
        self.done(ClusterCommand::Drain { node: NodeId(node) });
    }

    pub fn set(&mut self, key: &str, value: Option<SettingValue>) -> Outcome {
        self.command(ClusterCommand::SetSetting { key: key.into(), value })
    }

    pub fn place(&mut self, group: u32, voters: &[u64], leader: Option<u64>) -> Outcome {
        let seen = query::placement(&self.kv, GroupId(group)).map_or(0, |row| row.version);
        self.command(place(group, voters, leader, seen))
    }

    pub fn settle(&mut self, group: GroupId) {
        let version = query::placement(&self.kv, group).unwrap().version;
        self.done(ClusterCommand::SettleGroup { group, version });
    }

    /// Takes a step: where the group should be is written first, then it is there.
    pub fn take(&mut self, step: &Step) {
        let group = step.group();
        let row = query::placement(&self.kv, group).unwrap();
        let (mut voters, mut leader) = (row.voters, row.leader);
        match step {
            Step::Promote { node, .. } => voters.push(*node),
            Step::RemoveVoter { node, .. } => voters.retain(|voter| voter != node),
            Step::TransferLeader { to, .. } => leader = Some(*to),
            // A copy that does not vote yet is nobody's to find.
            Step::AddLearner { .. } | Step::RemoveLearner { .. } => return,
        }
        voters.sort();
        let place = PlaceGroup { group, voters, leader, seen: row.version };
        self.done(ClusterCommand::PlaceGroup(place));
        self.settle(group);
    }

    /// Plans and does what is planned; says what cannot be.
    pub fn rebalance(&mut self) -> Plan {
        let plan = query::layout(&self.kv).unwrap().plan();
        plan.steps.iter().for_each(|step| self.take(step));
        plan
    }
}

pub fn place(group: u32, voters: &[u64], leader: Option<u64>, seen: u64) -> ClusterCommand {
    ClusterCommand::PlaceGroup(PlaceGroup {
        group: GroupId(group),
        voters: voters.iter().copied().map(NodeId).collect(),
        leader: leader.map(NodeId),
        seen,
    })
}

/// What can be seen.
impl World {
    pub fn map(&self) -> ClusterMap {
        query::map(&self.kv).unwrap()
    }

    pub fn node(&self, node: u64) -> Option<MemberDescription> {
        query::nodes(&self.kv).into_iter().find(|member| member.node == NodeId(node))
    }

    pub fn state(&self, node: u64) -> Option<NodeState> {
        self.node(node).map(|member| member.state)
    }

    pub fn commands(&self) -> u32 {
        query::describe(&self.kv).unwrap().commands_version
    }

    pub fn token_state(&self, id: u8) -> Option<TokenState> {
        let tokens = query::tokens(&self.kv, Timestamp(self.now));
        tokens.into_iter().find(|one| one.token == token(id)).map(|one| one.state)
    }

    /// Voters of a group.
    pub fn voters(&self, group: u32) -> Vec<u64> {
        self.map().group(GroupId(group)).unwrap().voters.iter().map(|node| node.0).collect()
    }

    /// How many copies, and how many leads, each of these nodes has.
    pub fn loads(&self, nodes: &[u64]) -> Vec<(u32, u32)> {
        nodes.iter().map(|node| self.node(*node).map_or((0, 0), |member| (member.groups, member.leads))).collect()
    }
}
