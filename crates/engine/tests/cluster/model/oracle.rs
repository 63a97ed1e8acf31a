//! What must be true whatever happens, judged from outside: from commands, their answers and the map.

use std::collections::{BTreeMap, BTreeSet};

use coda_engine::cluster::command::ClusterCommand as C;
use coda_engine::command::{Command, Outcome};
use coda_protocol::cluster::{ClusterMap, Registration};
use coda_protocol::codec;
use coda_protocol::ids::{GroupId, NodeId, StorageId, TokenId};
use coda_protocol::join::TokenDigest;
use coda_protocol::limits::RETENTION_MS;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

struct Token {
    digest: TokenDigest,
    expires: u64,
    node: Option<NodeId>,
}

#[derive(Default)]
pub struct Oracle {
    tokens: BTreeMap<TokenId, Token>,
    /// Whoever got an id, with which disk.
    nodes: BTreeMap<NodeId, StorageId>,
    says: BTreeMap<NodeId, Registration>,
    removed: BTreeSet<NodeId>,
    /// Voters, and those that may still be.
    voters: BTreeMap<GroupId, BTreeSet<NodeId>>,
    maybe: BTreeMap<GroupId, BTreeSet<NodeId>>,
    map: Option<ClusterMap>,
}

impl Oracle {
    /// One command and its answer, in order.
    pub fn answered(&mut self, now: u64, command: &Command, outcome: &Outcome) {
        let Command::Cluster(command) = command else {
            assert_eq!((command, outcome), (&Command::Tick, &Ok(Reply::Done)));
            return self.tokens.retain(|_, token| token.expires + RETENTION_MS > now);
        };
        match command {
            C::Init(init) => {
                assert_eq!(*outcome, Ok(Reply::Done));
                self.nodes.insert(NodeId(1), init.founder.storage);
                self.says.entry(NodeId(1)).or_insert_with(|| init.founder.clone());
                for group in (0..=u32::from(init.groups)).map(GroupId) {
                    self.voters.entry(group).or_insert_with(|| [NodeId(1)].into());
                    self.maybe.entry(group).or_insert_with(|| [NodeId(1)].into());
                }
            }
            C::CreateToken { token, digest, .. } => {
                let Ok(Reply::TokenCreated { expires }) = outcome else { panic!("{outcome:?}") };
                let known =
                    self.tokens.entry(*token).or_insert(Token { digest: *digest, expires: expires.0, node: None });
                assert_eq!(known.expires, expires.0, "a token keeps its time");
            }
            C::RevokeToken { token } => match outcome {
                Ok(_) => drop(self.tokens.remove(token)),
                Err(Reject::TokenUsed { node }) => assert_eq!(self.tokens[token].node, Some(NodeId(*node))),
                Err(other) => panic!("{other}"),
            },
            C::Join { token, digest, node, registration } => {
                self.joined(now, (*token, *digest), *node, registration, outcome);
            }
            C::Register { node, registration } => self.registered(*node, registration, outcome),
            C::Remove { node } => match outcome {
                Ok(_) => {
                    assert!(self.maybe.values().all(|nodes| !nodes.contains(node)), "{node:?} is in use");
                    self.removed.insert(*node);
                }
                Err(_) => assert!(!self.removed.contains(node), "{outcome:?}"),
            },
            C::Activate { node } | C::Drain { node } | C::Undrain { node } => {
                assert!(outcome.is_err() || (self.nodes.contains_key(node) && !self.removed.contains(node)));
            }
            C::PlaceGroup(place) if outcome.is_ok() => {
                let voters: BTreeSet<NodeId> = place.voters.iter().copied().collect();
                assert!(voters.iter().all(|node| self.nodes.contains_key(node) && !self.removed.contains(node)));
                self.maybe.entry(place.group).or_default().extend(&voters);
                self.voters.insert(place.group, voters);
            }
            C::SettleGroup { group, .. } if outcome.is_ok() => {
                self.maybe.insert(*group, self.voters[group].clone());
            }
            C::PlaceGroup(_) | C::SettleGroup { .. } | C::SetReplicationFactor { .. } | C::SetSetting { .. } => {}
        }
    }

    fn joined(
        &mut self,
        now: u64,
        (id, digest): (TokenId, TokenDigest),
        node: NodeId,
        says: &Registration,
        outcome: &Outcome,
    ) {
        let owner = self.owner(says.storage);
        let token = self.tokens.get_mut(&id);
        match outcome {
            Ok(Reply::Done) => {
                let token = token.expect("only who knows a token is let in");
                assert_eq!(token.digest, digest);
                assert!(!self.removed.contains(&node));
                match token.node {
                    Some(first) => assert_eq!(first, node, "a token lets one node in"),
                    None => assert!(token.expires > now, "after its time"),
                }
                token.node = Some(node);
                assert!(owner.is_none_or(|owner| owner == node), "a disk is one node");
                let disk = *self.nodes.entry(node).or_insert(says.storage);
                assert_eq!(disk, says.storage, "a node is one disk");
                self.says.entry(node).or_insert_with(|| says.clone());
            }
            Err(Reject::BadToken) => assert!(token.is_none_or(|token| token.digest != digest)),
            Err(Reject::TokenExpired) => assert!(token.is_some_and(|t| t.node.is_none() && t.expires <= now)),
            Err(Reject::TokenUsed { node: first }) => {
                assert!(token.is_some_and(|t| t.node == Some(NodeId(*first))) && node.0 != *first);
            }
            Err(Reject::NodeRemoved { .. } | Reject::OtherNode { .. } | Reject::WipedDisk { .. }) => {
                self.refused(node, owner, says, outcome);
            }
            Err(Reject::TooOld { commands_version, needed }) => {
                let agreed = self.map.as_ref().map_or(0, |map| map.commands_version);
                assert!(says.commands_version == *commands_version && commands_version < needed && *needed >= agreed);
            }
            other => panic!("{other:?}"),
        }
    }

    fn registered(&mut self, node: NodeId, says: &Registration, outcome: &Outcome) {
        let owner = self.owner(says.storage);
        let is_own = owner == Some(node) && self.nodes.get(&node) == Some(&says.storage);
        match outcome {
            Ok(_) => {
                assert!(is_own && !self.removed.contains(&node), "{node:?} is another");
                assert!(says.incarnation >= self.says[&node].incarnation, "{node:?} went back");
                self.says.insert(node, says.clone());
            }
            Err(Reject::NoSuchNode { .. }) => assert!(!self.nodes.contains_key(&node)),
            Err(Reject::TooOld { .. }) => assert!(is_own),
            Err(Reject::OldIncarnation { .. }) => assert!(is_own && says.incarnation < self.says[&node].incarnation),
            _ => self.refused(node, owner, says, outcome),
        }
    }

    /// The node whose disk this is.
    fn owner(&self, storage: StorageId) -> Option<NodeId> {
        self.nodes.iter().find(|(_, known)| **known == storage).map(|(node, _)| *node)
    }

    /// One that is not who it says it is.
    fn refused(&self, node: NodeId, owner: Option<NodeId>, says: &Registration, outcome: &Outcome) {
        match outcome {
            Err(Reject::NodeRemoved { node: gone }) => {
                let gone = NodeId(*gone);
                assert!(self.removed.contains(&gone) && (gone == node || owner == Some(gone)));
            }
            Err(Reject::OtherNode { node: other }) => assert!(owner == Some(NodeId(*other)) && owner != Some(node)),
            Err(Reject::WipedDisk { .. }) => assert!(self.nodes[&node] != says.storage),
            other => panic!("{other:?}"),
        }
    }

    /// What clients see after an entry.
    pub fn sees(&mut self, map: &ClusterMap) {
        assert_eq!(codec::decode::<ClusterMap>("cluster map", &codec::encode(map)).as_ref(), Ok(map));
        if let Some(before) = &self.map {
            assert!(map.version >= before.version && map.commands_version >= before.commands_version);
            assert!(map.version > before.version || map == before, "the map changed, and its version did not");
        }
        let live = self.nodes.keys().filter(|node| !self.removed.contains(node));
        assert!(map.nodes.iter().map(|node| &node.node).eq(live.clone()), "the map has other nodes");
        for node in &map.nodes {
            assert_eq!(node.client_addr, self.says[&node.node].client_addr);
            assert!(map.commands_version <= self.says[&node.node].commands_version, "{node:?} cannot read the log");
        }
        for group in &map.groups {
            assert!(group.voters.iter().eq(&self.voters[&group.group]), "{group:?}");
        }
        self.map = Some(map.clone());
    }
}
