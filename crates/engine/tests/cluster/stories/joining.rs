//! Join tokens, and what they let in.

use coda_engine::cluster::command::ClusterCommand as C;
use coda_engine::effect::Effect;
use coda_engine::query::cluster as query;
use coda_protocol::cluster::{NodeState, Registration, SettingValue, TokenState};
use coda_protocol::ids::{Millis, NodeId, Timestamp};
use coda_protocol::limits::{
    ADDRESS_BYTES_MAX, CLUSTER_NODES_MAX, JOIN_TOKEN_TTL_MS_DEFAULT, JOIN_TOKENS_MAX, NODE_ID_MAX, RETENTION_MS,
};
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use crate::world::{World, digest, machine, token};

fn create(id: u8, ttl: Option<Millis>) -> C {
    C::CreateToken { token: token(id), digest: digest(id), ttl }
}

#[test]
fn a_token_lets_one_node_in_and_says_which() {
    let mut w = World::new();
    let id = w.at(100).token();
    assert_eq!(w.token_state(id), Some(TokenState::Open));
    assert_eq!(w.at(200).try_join(id, machine(2)), Ok(NodeId(2)));
    assert_eq!(w.token_state(id), Some(TokenState::Redeemed { node: NodeId(2), at: Timestamp(200) }));
    assert_eq!(w.try_join(id, machine(3)), Err(Reject::TokenUsed { node: 2 }));
    let node = w.node(2).unwrap();
    assert_eq!((node.state, node.registration, node.since), (NodeState::Joining, machine(2), Timestamp(200)));
    assert_eq!((node.groups, node.leads), (0, 0), "nothing is placed on it yet");
}

#[test]
fn a_node_that_lost_the_answer_gets_the_same_one_even_after_the_tokens_time() {
    let mut w = World::new();
    let id = w.at(0).token();
    assert_eq!(w.try_join(id, machine(2)), Ok(NodeId(2)));
    assert_eq!(w.at(70_000).try_join(id, machine(2)), Ok(NodeId(2)));
    // Or it asks with another token, the first being forgotten.
    w.at(70_000 + RETENTION_MS).tick();
    assert_eq!(w.token_state(id), None);
    assert_eq!(w.try_join(id, machine(2)), Err(Reject::BadToken));
    assert_eq!(w.join(2), NodeId(2));
    assert_eq!(query::nodes(&w.kv).len(), 2);
}

#[test]
fn a_late_second_join_does_not_undo_what_the_node_registered_since() {
    let mut w = World::new();
    let id = w.token();
    assert_eq!(w.try_join(id, machine(2)), Ok(NodeId(2)));
    let moved = Registration { client_addr: "elsewhere:7400".into(), ..machine(2) };
    w.register(2, moved.clone()).unwrap();
    assert_eq!(w.try_join(id, machine(2)), Ok(NodeId(2)));
    assert_eq!(w.node(2).unwrap().registration, moved);
}

#[test]
fn a_wrong_secret_and_an_unknown_token_are_the_same_no() {
    let mut w = World::new();
    let id = w.token();
    let wrong = C::Join { token: token(id), digest: digest(id + 1), node: NodeId(2), registration: machine(2) };
    assert_eq!(w.refused(wrong), Reject::BadToken);
    assert_eq!(w.try_join(id + 1, machine(2)), Err(Reject::BadToken));
    assert_eq!(w.try_join(id, machine(2)), Ok(NodeId(2)), "guessing does not use it up");
}

#[test]
fn a_token_has_its_time() {
    let mut w = World::new();
    let id = w.at(1_000).token();
    assert_eq!(w.effects, [Effect::WakeAt(Timestamp(61_000 + RETENTION_MS))]);
    w.at(60_999).tick();
    assert_eq!(w.token_state(id), Some(TokenState::Open));
    assert_eq!(w.at(61_000).try_join(id, machine(2)), Err(Reject::TokenExpired));
    assert_eq!(w.token_state(id), Some(TokenState::Expired));
    w.at(61_000 + RETENTION_MS).tick();
    assert_eq!(query::tokens(&w.kv, Timestamp(0)), []);
}

#[test]
fn how_long_a_token_may_be_used_is_asked_or_set() {
    let mut w = World::new();
    let created = |ms| Ok(Reply::TokenCreated { expires: Timestamp(ms) });
    assert_eq!(w.at(0).command(create(101, None)), created(JOIN_TOKEN_TTL_MS_DEFAULT));
    w.set("join_token.ttl_ms", Some(SettingValue::Number(120_000))).unwrap();
    assert_eq!(w.command(create(102, None)), created(120_000));
    assert_eq!(w.command(create(101, None)), created(JOIN_TOKEN_TTL_MS_DEFAULT), "a token keeps its time");
    assert_eq!(w.command(create(103, Some(Millis(90_000)))), created(90_000));
    for ms in [0, 59_999, u64::MAX] {
        assert_eq!(w.refused(create(104, Some(Millis(ms)))).code(), "CODA2051");
    }
    let other = C::CreateToken { token: token(101), digest: digest(9), ttl: None };
    assert_eq!(w.refused(other), Reject::IdConflict { id: token(101).to_string() });
}

#[test]
fn a_revoked_token_lets_nobody_in_and_leaves_nothing() {
    let mut w = World::new();
    let before = w.kv.clone();
    let id = w.token();
    w.done(C::RevokeToken { token: token(id) });
    assert_eq!(w.try_join(id, machine(2)), Err(Reject::BadToken));
    w.done(C::RevokeToken { token: token(99) });
    assert!(w.kv == before);
    let id = w.token();
    w.try_join(id, machine(2)).unwrap();
    assert_eq!(w.refused(C::RevokeToken { token: token(id) }), Reject::TokenUsed { node: 2 });
}

#[test]
fn tokens_are_bounded() {
    let mut w = World::new();
    let wide = |i: usize| {
        let mut id = token(0);
        id.0[..8].copy_from_slice(&(i as u64).to_be_bytes());
        C::CreateToken { token: id, digest: digest(1), ttl: None }
    };
    (0..JOIN_TOKENS_MAX).for_each(|i| drop(w.command(wide(i)).unwrap()));
    let full = Reject::TooManyTokens { tokens_max: JOIN_TOKENS_MAX as u64 };
    assert_eq!(w.refused(wide(JOIN_TOKENS_MAX)), full);
    w.at(JOIN_TOKEN_TTL_MS_DEFAULT + RETENTION_MS).tick();
    assert_eq!(query::tokens(&w.kv, Timestamp(0)), []);
}

#[test]
fn an_id_and_a_data_folder_belong_together_for_good() {
    let mut w = World::new();
    w.join(2);
    w.join(3);
    let id = w.token();
    let join = |w: &mut World, node, disk| w.try_join_as(id, NodeId(node), machine(disk));
    assert_eq!(join(&mut w, 4, 3), Err(Reject::OtherNode { node: 3 }));
    assert_eq!(join(&mut w, 3, 2), Err(Reject::OtherNode { node: 2 }));
    assert_eq!(join(&mut w, 3, 5), Err(Reject::WipedDisk { node: 3 }));
    w.done(C::Remove { node: NodeId(3) });
    assert_eq!(join(&mut w, 3, 3), Err(Reject::NodeRemoved { node: 3 }));
    assert_eq!(join(&mut w, 3, 5), Err(Reject::NodeRemoved { node: 3 }));
    assert_eq!(join(&mut w, 4, 3), Err(Reject::NodeRemoved { node: 3 }));
    for node in [0, NODE_ID_MAX + 1] {
        assert_eq!(join(&mut w, node, 6), Err(Reject::BadNodeId { node, node_id_max: NODE_ID_MAX }));
    }
    assert_eq!(join(&mut w, NODE_ID_MAX, 6), Ok(NodeId(NODE_ID_MAX)), "the refusals did not use the token up");
}

/// The machine that replaces another often has its address, before the other is removed.
#[test]
fn a_replacement_may_have_the_address_of_the_node_it_replaces() {
    let mut w = World::of(3);
    let replacement = Registration { storage: machine(4).storage, ..machine(3) };
    assert_eq!(w.join_as(replacement), NodeId(4));
}

#[test]
fn a_cluster_has_room_for_so_many_nodes() {
    let mut w = World::new();
    for storage in 2..=CLUSTER_NODES_MAX as u8 {
        w.join(storage);
    }
    let id = w.token();
    let full = Err(Reject::ClusterFull { nodes_max: CLUSTER_NODES_MAX as u64 });
    assert_eq!(w.try_join(id, machine(200)), full);
    w.done(C::Remove { node: NodeId(2) });
    assert_eq!(w.try_join(id, machine(200)), Ok(NodeId(200)));
}

#[test]
fn what_a_node_says_of_itself_is_bounded() {
    let mut w = World::new();
    let id = w.token();
    let changes: [&dyn Fn(&mut Registration); 6] = [
        &|node| node.peer_addr = "0.0.0.0:1".into(),
        &|node| node.client_addr = "nowhere".into(),
        &|node| node.client_addr = format!("{}:1", "x.".repeat(ADDRESS_BYTES_MAX)).into(),
        &|node| node.client_addr = node.peer_addr.clone(),
        &|node| node.zone = "z".repeat(65).into(),
        &|node| node.version = "1\n".into(),
    ];
    let codes = changes.map(|change| {
        let mut registration = machine(2);
        change(&mut registration);
        assert!(w.register(1, registration.clone()).is_err());
        w.try_join(id, registration).unwrap_err().code()
    });
    assert_eq!(codes, ["CODA2035", "CODA2035", "CODA2035", "CODA2035", "CODA2036", "CODA2036"]);
}
