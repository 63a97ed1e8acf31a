//! A request as a node takes it, without the node: a command for the log, or a question to state. Every request that there
//! is has its line here, or this does not compile.

use coda_engine::cluster::command::{ClusterCommand, InitCluster};
use coda_engine::command::Command;
use coda_engine::kv::MemKv;
use coda_engine::query::{self, cluster};
use coda_protocol::cluster::Registration;
use coda_protocol::ids::{ClusterId, GroupId, NodeId, SessionId, StorageId, Timestamp};
use coda_protocol::operate::ClusterRequest;
use coda_protocol::reply::{QueueCursor, QueuePlace};
use coda_protocol::request::Request;

/// The command that it becomes, unless it only asks.
pub fn perform(kv: &MemKv, group: GroupId, session: SessionId, request: Request) -> Option<Command> {
    Some(match request {
        Request::StartRun(start) => Command::StartRun(start),
        Request::SubmitTask(submit) => Command::SubmitTask(submit),
        Request::Spawn(spawn) => Command::Spawn(spawn),
        Request::RecordStep(record) => Command::RecordStep(record),
        Request::CompleteTask(complete) => Command::CompleteTask(complete),
        Request::CompleteRun(complete) => Command::CompleteRun(complete),
        Request::Release(release) => Command::Release(release),
        Request::ParkRun(park) => Command::ParkRun(park),
        Request::Resume(resume) => Command::ResumeSession { session, held: resume.held },
        Request::EndSession(session) => Command::EndSession { session },
        Request::PauseQueue(queue) => Command::PauseQueue { queue },
        Request::UnpauseQueue(queue) => Command::UnpauseQueue { queue },
        Request::Cluster(request) => return operate(kv, request).map(Command::Cluster),
        Request::AwaitRun(run) => return ask(query::run_outcome(kv, group, run)),
        Request::AwaitTask(task) => return ask(query::task_outcome(kv, group, task)),
        Request::DescribeRun(run) => return ask((query::run(kv, group, run), query::memo(kv, group, run))),
        Request::DescribeTask(task) => return ask(query::task(kv, group, task)),
        Request::ListQueues => return ask(query::queues(kv, group, None)),
        Request::ListQueuesFrom(from) => return queues(kv, group, from),
        Request::DescribeQueue(queue) | Request::DescribeLanes(queue) => return ask(query::lanes(kv, group, &queue)),
        // What a connection is about, and no group.
        Request::Subscribe(_) | Request::Credit(_) | Request::Withdraw(_) | Request::DescribeNode => return None,
    })
}

fn ask<T>(answer: T) -> Option<Command> {
    drop(answer);
    None
}

/// Page by page to the end: each begins behind the one before.
fn queues(kv: &MemKv, group: GroupId, from: Option<QueueCursor>) -> Option<Command> {
    if from.as_ref().is_some_and(|from| from.check().is_err()) {
        return None;
    }
    let mut place = from.map(|from| from.place);
    for _ in 0..PAGES_MAX {
        let next: Option<QueuePlace> = query::queues(kv, group, place.as_ref()).next.map(|next| next.place);
        next.as_ref()?;
        assert_ne!(next, place, "a page of queues leads to itself");
        place = next;
    }
    panic!("a list of queues has no end");
}

/// More than the queues of any script here fill.
const PAGES_MAX: usize = 16;

fn operate(kv: &MemKv, request: ClusterRequest) -> Option<ClusterCommand> {
    use ClusterRequest as R;
    Some(match request {
        R::Init { replication_factor, groups } => {
            let (cluster, node, founder) = (ClusterId([1; 16]), NodeId(1), founder());
            ClusterCommand::Init(InitCluster { cluster, replication_factor, groups, node, founder })
        }
        R::Join { token, digest, node, registration } => ClusterCommand::Join { token, digest, node, registration },
        R::CreateToken { token, digest, ttl } => ClusterCommand::CreateToken { token, digest, ttl },
        R::RevokeToken(token) => ClusterCommand::RevokeToken { token },
        R::Drain(node) => ClusterCommand::Drain { node },
        R::Undrain(node) => ClusterCommand::Undrain { node },
        R::Remove(node) => ClusterCommand::Remove { node },
        R::SetReplicationFactor(replication_factor) => ClusterCommand::SetReplicationFactor { replication_factor },
        R::SetSetting { key, value } => ClusterCommand::SetSetting { key, value },
        R::ListTokens => return said(cluster::tokens(kv, Timestamp(1_000))),
        R::ListSettings => return said(cluster::settings(kv)),
        R::Report => return said((cluster::describe(kv), cluster::nodes(kv), cluster::map(kv))),
        R::Plan | R::Rebalance => return said(cluster::layout(kv).map(|layout| layout.plan())),
        R::TransferLeader { group, .. } | R::Verify(group) => return said(cluster::placement(kv, group)),
        // What one node knows of itself.
        R::ReportNode(_) => return None,
    })
}

fn said<T>(answer: T) -> Option<ClusterCommand> {
    drop(answer);
    None
}

fn founder() -> Registration {
    Registration {
        storage: StorageId([1; 16]),
        incarnation: 1,
        peer_addr: "n:1".into(),
        client_addr: "n:2".into(),
        zone: "a".into(),
        version: "1".into(),
        commands_version: 1,
    }
}
