//! What this node answers when it is asked, by itself or by another one.

use std::time::Duration;

use bytes::Bytes;
use coda_protocol::codec;
use coda_protocol::ids::{GroupId, NodeId, Position};
use coda_protocol::operate::ClusterReply;
use coda_protocol::reject::{Reject, Unavailable};
use coda_protocol::reply::Reply;
use coda_raft_store::group::Group;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::ask::{Answered, Ask, Said};
use super::{operate, report};
use crate::describe;
use crate::host::Host;
use crate::peers::Asked;
use crate::proposer::ReplyTo;

/// How long a copy may take to come to an index before its checksum is made of what it has.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a group takes no writes so that its copies can be compared at one index, while there is traffic.
const VERIFY_HOLD: Duration = Duration::from_millis(200);

/// Answers other nodes.
pub struct Answers(pub Host);

impl Asked for Answers {
    fn ask(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Bytes> {
        let host = self.0.clone();
        async move {
            let answered: Answered = match codec::decode::<Ask>("question", &body) {
                Ok(ask) => here(&host, ask).await,
                Err(error) => {
                    warn!(%from, %error, "a question of another version; upgrade the older node");
                    Err(Unavailable::ConnectionLost.into())
                }
            };
            codec::encode(&answered).into()
        }
        .boxed()
    }
}

/// Answers as this node: what is for a leader only if it leads here.
pub async fn here(host: &Host, ask: Ask) -> Answered {
    match ask {
        Ask::Propose { group, command } => {
            command.check()?;
            let router = host.led(group)?;
            let (answer, reply) = ReplyTo::local();
            router.shared.proposer.command(command, reply);
            let (position, result) = answer.await;
            Ok(Said::Reply(position, result?))
        }
        Ask::Queues { group, from } => {
            let router = host.led(group)?;
            router.confirm().await?;
            let (position, page) = describe::queues_of(&router, from.as_ref());
            Ok(Said::Queues(position, page))
        }
        Ask::Lanes { group, queue } => {
            let router = host.led(group)?;
            router.confirm().await?;
            let (position, lanes) = describe::lanes_of(&router, &queue);
            Ok(Said::Lanes(position, lanes))
        }
        Ask::Placement(group) => {
            let router = host.led(GroupId::META)?;
            router.confirm().await?;
            let placement = router.read(|kv, _| coda_engine::query::cluster::placement(kv, group));
            Ok(Said::Placement(placement?))
        }
        Ask::Decide(request) => {
            Box::pin(operate::decide(host, request)).await.map(|(position, reply)| Said::Reply(position, reply))
        }
        Ask::Report => {
            let report = report::node(host);
            Ok(Said::Reply(Position::NOWHERE, Reply::Cluster(ClusterReply::Node(Box::new(report)))))
        }
        Ask::Index(group) => {
            let router = host.led(group)?;
            router.confirm().await?;
            Ok(Said::Index(router.hold(host.clock.instant(), VERIFY_HOLD).await))
        }
        Ask::Transfer { group, to } => {
            let router = host.led(group)?;
            if to != host.node {
                let not_leader = |_| Unavailable::NotLeader { leader: None };
                router.shared.group.transfer_leader(to).await.map_err(not_leader)?;
            }
            Ok(Said::Leader(Some(host.node)))
        }
        Ask::Leader(group) => {
            let hosted = host.routes.hosted(group).is_some();
            Ok(Said::Leader(host.leader_of(group).filter(|_| hosted)))
        }
        Ask::Digest { group, index } => {
            let group = host.routes.hosted(group).ok_or(Reject::NoSuchGroup { group: group.0 })?;
            digest(group, index).await
        }
    }
}

async fn digest(group: Group, index: u64) -> Answered {
    let caught_up = async {
        while group.status().applied.unwrap_or_default() < index {
            sleep(LOOK_AGAIN).await;
        }
    };
    // What it has come to is told with it.
    drop(timeout(CATCH_UP_PATIENCE, caught_up).await);
    let workshop = group.workshop().clone();
    let digest = workshop.run(move || group.digest()).await;
    let (index, digest) = digest.map_err(|_| Unavailable::ShuttingDown)?;
    Ok(Said::Digest(index, digest))
}
