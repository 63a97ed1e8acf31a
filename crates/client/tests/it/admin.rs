//! What operators ask, as it is on the wire.

use std::time::Duration;

use coda_client::protocol::cluster::{Registration, TokenDescription, TokenState};
use coda_client::protocol::frame::CLOSE_SHUTDOWN;
use coda_client::protocol::ids::{GroupId, NodeId, StorageId, Timestamp};
use coda_client::protocol::join::JoinToken;
use coda_client::protocol::operate::{ClusterReply, ClusterRequest};
use coda_client::protocol::rebalance::Plan;
use coda_client::protocol::reject::{Reject, Unavailable};
use coda_client::protocol::reply::Reply;
use coda_client::protocol::request::Request;
use coda_client::{Admin, Client, ClientError};

use crate::node::{Node, Peer};

const LIMIT: Duration = Duration::from_secs(20);

async fn connected(node: &Node) -> (Admin, Peer) {
    let (client, peer) = tokio::join!(Client::connect(node.options()), node.accept());
    (client.unwrap().admin(LIMIT), peer)
}

#[tokio::test]
async fn a_token_is_made_listed_and_used_and_its_secret_stays_here() {
    let node = Node::start();
    let (admin, mut peer) = connected(&node).await;
    let token = JoinToken::random();
    let registration = Registration {
        storage: StorageId([4; 16]),
        incarnation: 1,
        peer_addr: "n4:4748".into(),
        client_addr: "n4:4747".into(),
        zone: "a".into(),
        version: "0.1.0".into(),
        commands_version: 1,
    };
    let description = TokenDescription {
        token: token.id,
        created: Timestamp(1),
        expires: Timestamp(7),
        state: TokenState::Redeemed { node: NodeId(4), at: Timestamp(5) },
    };
    let serve = async {
        let digest = token.digest();
        let (id, asked) = peer.asked().await;
        assert_eq!(asked, Request::Cluster(ClusterRequest::CreateToken { token: token.id, digest, ttl: None }));
        peer.answer(id, Reply::TokenCreated { expires: Timestamp(7) }).await;
        let (id, asked) = peer.asked().await;
        let registration = registration.clone();
        let join = ClusterRequest::Join { token: token.id, digest, node: NodeId(4), registration };
        assert_eq!(asked, Request::Cluster(join));
        peer.answer(id, Reply::Done).await;
        let (id, asked) = peer.asked().await;
        assert_eq!(asked, Request::Cluster(ClusterRequest::ListTokens));
        peer.answer(id, Reply::Cluster(ClusterReply::Tokens(vec![description.clone()]))).await;
    };
    let ask = async {
        assert_eq!(admin.create_token(&token, None).await, Ok(Timestamp(7)));
        assert_eq!(admin.join(&token, NodeId(4), registration.clone()).await, Ok(()));
        assert_eq!(admin.tokens().await, Ok(vec![description.clone()]));
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn what_no_leader_can_answer_is_asked_again_and_a_refusal_is_final() {
    let node = Node::start();
    let (admin, mut peer) = connected(&node).await;
    let serve = async {
        let (id, drain) = peer.asked().await;
        peer.refuse(id, Unavailable::NotLeader { leader: None }).await;
        assert_eq!(peer.asked().await, (id, drain.clone()));
        peer.close(CLOSE_SHUTDOWN, "bye");
        let mut peer = node.accept().await;
        assert_eq!(peer.asked().await, (id, drain));
        peer.refuse(id, Reject::LastNode { node: 2 }).await;
        let (id, _) = peer.asked().await;
        peer.answer(id, Reply::Cluster(ClusterReply::Plan(Plan::default()))).await;
        let (id, _) = peer.asked().await;
        peer.answer(id, Reply::Cluster(ClusterReply::Plan(Plan::default()))).await;
        peer
    };
    let ask = async {
        assert_eq!(admin.drain(NodeId(2)).await, Err(ClientError::Refused(Reject::LastNode { node: 2 })));
        assert_eq!(admin.plan().await, Ok(Plan::default()));
        assert_eq!(admin.verify(GroupId(1)).await, Err(ClientError::UnexpectedReply { expected: "Digests" }));
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_question_is_given_up_after_its_limit_with_the_last_thing_heard() {
    let node = Node::start();
    let (admin, mut peer) = connected(&node).await;
    let admin = admin.within(Duration::from_millis(300));
    let serve = async {
        loop {
            let (id, _) = peer.asked().await;
            peer.refuse(id, Unavailable::NotLeader { leader: None }).await;
        }
    };
    tokio::select! {
        never = serve => never,
        answer = admin.report() => {
            let last = Some(Unavailable::NotLeader { leader: None });
            assert_eq!(answer, Err(ClientError::Deadline { ms: 300, last }));
        }
    }
}
