//! What operators type, against nodes of paper: what is sent to whom, what is printed, and how it ends.

use std::path::{Path, PathBuf};
use std::process::Output;

use coda_client::protocol::cluster::{ClusterDescription, MemberDescription, NodeState, Registration};
use coda_client::protocol::ids::{ClusterId, GroupId, Millis, NodeId, StorageId, Timestamp};
use coda_client::protocol::join::JoinToken;
use coda_client::protocol::operate::{
    ClusterReply, ClusterReport, ClusterRequest, DiskReport, GroupReport, MemberReport, NodeReport, ReplicaDigest,
    ReplicaReport,
};
use coda_client::protocol::rebalance::{Plan, Step};
use coda_client::protocol::reject::Reject;
use coda_client::protocol::reply::{Counters, Reply};
use coda_client::protocol::request::Request;
use serde_json::Value;

use crate::paper::{Node, Peer, within};
use crate::support::ADMIN;

const NEW: NodeId = NodeId(4);

/// The program in an empty folder with an empty environment, connected to a node.
struct Operator {
    folder: tempfile::TempDir,
    connection: Vec<String>,
}

impl Operator {
    fn of(node: &Node) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &node.ca_pem).unwrap();
        let connection = ["--address", &node.address.to_string(), "--ca", &ca.display().to_string()];
        Self { connection: connection.map(Into::into).into(), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn types(&self, words: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(ADMIN);
        command.args(words).args(&self.connection).current_dir(self.folder.path()).env_clear().kill_on_drop(true);
        within(command.output()).await.unwrap()
    }
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(status(output), 0, "{}", told(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn asked(peer: &mut Peer) -> (u64, ClusterRequest) {
    let (id, Request::Cluster(request)) = peer.asked().await else { panic!("nothing of a cluster") };
    (id, request)
}

async fn answer(peer: &mut Peer, id: u64, reply: ClusterReply) {
    peer.answer(id, Reply::Cluster(reply)).await;
}

fn registration(node: NodeId) -> Registration {
    Registration {
        storage: StorageId([node.0 as u8; 16]),
        incarnation: 1,
        peer_addr: format!("node-{node}:4748").into(),
        client_addr: format!("node-{node}:4747").into(),
        zone: "".into(),
        version: "0.1.0".into(),
        commands_version: 1,
    }
}

fn report(node: NodeId) -> NodeReport {
    let replica = ReplicaReport {
        group: GroupId(0),
        term: 1,
        leader: Some(NodeId(1)),
        last_log: 9,
        committed: 9,
        applied: 9,
        durable: 0,
        purged: 0,
        log_bytes: 0,
        checkpoint_age: None,
        voters: vec![NodeId(1)],
        learners: Vec::new(),
        followers: Vec::new(),
        failure: None,
    };
    NodeReport {
        node,
        registration: registration(node),
        state: None,
        uptime: Millis(1),
        sessions: 0,
        counters: Counters { entries: 0, commands: 0, log_syncs: 0, log_bytes: 0, leases: 0, rejects: 0 },
        disk: DiskReport::default(),
        replicas: if node == NodeId(1) { vec![replica] } else { Vec::new() },
        peers: Vec::new(),
    }
}

fn member(node: NodeId, state: NodeState) -> MemberReport {
    let member =
        MemberDescription { node, state, registration: registration(node), since: Timestamp(1), groups: 0, leads: 0 };
    MemberReport { member, report: Ok(Box::new(report(node))) }
}

/// Node 1, which has everything, and a second in this state.
fn cluster(second: NodeState) -> ClusterReport {
    let description = ClusterDescription {
        cluster: ClusterId([7; 16]),
        replication_factor: 1,
        groups: 1,
        created: Timestamp(1),
        commands_version: 1,
    };
    let voters = vec![NodeId(1)];
    ClusterReport {
        node: NodeId(1),
        now: Timestamp(2),
        cluster: Some(description),
        map_version: 3,
        is_current: true,
        members: vec![member(NodeId(1), NodeState::Active), member(NEW, second)],
        groups: vec![GroupReport {
            group: GroupId(0),
            voters,
            preferred: None,
            leader: Some(NodeId(1)),
            term: 1,
            is_settled: true,
        }],
        plan: Plan::default(),
    }
}

fn cluster_reply(report: ClusterReport) -> ClusterReply {
    ClusterReply::Cluster(Box::new(report))
}

#[tokio::test]
async fn a_new_node_says_who_it_is_and_the_cluster_lets_it_in() {
    let old = Node::start();
    let new = old.beside(NEW);
    let operator = Operator::of(&new);
    let token = JoinToken::random();
    std::fs::write(operator.path("token"), format!("{token}\n")).unwrap();
    let seeds = old.address.to_string();
    let serve = async {
        let mut peer = new.accept().await;
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::ReportNode(Some(NEW)));
        peer.refuse(id, Reject::NoCluster).await;
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::ReportNode(None), "it is in no cluster, but it knows itself");
        answer(&mut peer, id, ClusterReply::Node(Box::new(report(NEW)))).await;

        let mut peer = old.accept().await;
        let (id, request) = asked(&mut peer).await;
        let digest = token.digest();
        let join = ClusterRequest::Join { token: token.id, digest, node: NEW, registration: registration(NEW) };
        assert_eq!(request, join);
        peer.answer(id, Reply::Done).await;
        for state in [NodeState::Joining, NodeState::Active] {
            let (id, request) = asked(&mut peer).await;
            assert_eq!(request, ClusterRequest::Report);
            answer(&mut peer, id, cluster_reply(cluster(state))).await;
        }
        peer.close_code().await;
    };
    let join = ["cluster", "join", "--seeds", &seeds, "--token-file", "token", "-o", "json"];
    let ((), output) = tokio::join!(serve, operator.types(&join));
    assert_eq!(json(&output), serde_json::json!({ "node": 4, "state": "active" }));
    assert_eq!(told(&output), "", "a script is told nothing but the end");
}

#[tokio::test]
async fn a_node_that_cannot_join_says_why() {
    let old = Node::start();
    let new = old.beside(NEW);
    let operator = Operator::of(&new);
    let token = JoinToken::random().to_string();
    let (here, seeds) = (new.address.to_string(), old.address.to_string());
    let serve = async |registration: Registration| {
        let mut peer = new.accept().await;
        let (id, _) = asked(&mut peer).await;
        answer(&mut peer, id, ClusterReply::Node(Box::new(NodeReport { registration, ..report(NEW) }))).await;
        // Closed when it is dropped, with its last answer unsent.
        peer
    };

    let itself = ["cluster", "join", "--seeds", &here, "--token", &token];
    let again = async {
        let first = serve(registration(NEW)).await;
        (first, new.accept().await)
    };
    let (_peers, output) = tokio::join!(again, operator.types(&itself));
    assert_eq!(status(&output), 2);
    assert!(told(&output).starts_with("error[CODA4323]: --seeds leads to node 4 itself"), "{}", told(&output));

    let join = ["cluster", "join", "--seeds", &seeds, "--token", &token];
    let alone = Registration { peer_addr: "".into(), ..registration(NEW) };
    let (_new, _old, output) = tokio::join!(serve(alone), old.accept(), operator.types(&join));
    assert_eq!(status(&output), 4);
    assert!(told(&output).contains("[CODA4322]: node 4 has no address for other nodes\nhelp: set listen.peer"));

    let late = async {
        let mut peer = old.accept().await;
        let (id, _) = asked(&mut peer).await;
        peer.answer(id, Reply::Done).await;
        let connection = peer.connection.clone();
        loop {
            tokio::select! {
                biased;
                _ = connection.closed() => std::future::pending().await,
                (id, _) = asked(&mut peer) => {
                    answer(&mut peer, id, cluster_reply(cluster(NodeState::Joining))).await;
                }
            }
        }
    };
    let join = [&join[..], &["--timeout", "2s"]].concat();
    let types = async {
        tokio::select! {
            never = late => never,
            output = operator.types(&join) => output,
        }
    };
    let (_new, output) = tokio::join!(serve(registration(NEW)), types);
    assert_eq!(status(&output), 124);
    let told = told(&output);
    assert!(told.starts_with("error[CODA4320]: node 4 is let in, but is not at work yet, not within "), "{told}");
    assert!(told.contains("help: see that node's log"), "{told}");
    assert!(!told.contains(&token), "{told}");
}

#[tokio::test]
async fn the_exit_status_of_health_is_for_scripts() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let mut lost = cluster(NodeState::Active);
    lost.groups[0].leader = None;
    let none = ClusterReport { cluster: None, members: vec![], groups: vec![], ..cluster(NodeState::Active) };
    for (report, expected, words) in [
        (cluster(NodeState::Active), 0, "healthy\n"),
        (cluster(NodeState::Draining), 10, "degraded: node 4 is draining\n"),
        (lost, 11, "no quorum: a group has no leader for the moment: group 0\n"),
        (none, 3, ""),
    ] {
        let serve = async {
            let mut peer = node.accept().await;
            let (id, _) = asked(&mut peer).await;
            answer(&mut peer, id, cluster_reply(report)).await;
            peer.close_code().await;
        };
        let ((), output) = tokio::join!(serve, operator.types(&["cluster", "health"]));
        assert_eq!((status(&output), &*String::from_utf8_lossy(&output.stdout)), (expected, words));
    }
}

#[tokio::test]
async fn a_token_goes_alone_to_standard_output() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let serve = async {
        let mut peer = node.accept().await;
        let (id, request) = asked(&mut peer).await;
        peer.answer(id, Reply::TokenCreated { expires: Timestamp(u64::MAX) }).await;
        peer.close_code().await;
        request
    };
    let (request, output) = tokio::join!(serve, operator.types(&["cluster", "token", "create", "--ttl", "10m"]));
    let token: JoinToken = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    let (id, digest) = (token.id, token.digest());
    assert_eq!(request, ClusterRequest::CreateToken { token: id, digest, ttl: Some(Millis(600_000)) });
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test]
async fn copies_are_asked_for_again_until_they_stand_still_together() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let digests = |copies: [(u64, u64); 2]| {
        let copy = |(node, at): (usize, (u64, u64))| ReplicaDigest { node: NodeId(node as u64 + 1), digest: Ok(at) };
        ClusterReply::Digests(copies.into_iter().enumerate().map(copy).collect())
    };
    for (second, expected) in [((8, 5), 0), ((8, 6), 12)] {
        let serve = async {
            let mut peer = node.accept().await;
            for copies in [[(7, 1), (8, 5)], [(8, 5), second]] {
                let (id, request) = asked(&mut peer).await;
                assert_eq!(request, ClusterRequest::Verify(GroupId(2)));
                answer(&mut peer, id, digests(copies)).await;
            }
            peer.close_code().await;
        };
        let ((), output) = tokio::join!(serve, operator.types(&["cluster", "verify", "--group", "2"]));
        assert_eq!(status(&output), expected, "{}", told(&output));
    }
}

#[tokio::test]
async fn a_node_is_watched_until_it_is_empty_and_then_removed() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let left = |groups: u32| {
        let mut report = cluster(NodeState::Draining);
        report.members[1].member.groups = groups;
        report
    };
    let serve = async {
        let mut peer = node.accept().await;
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::Report);
        answer(&mut peer, id, cluster_reply(cluster(NodeState::Active))).await;
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::Drain(NEW));
        peer.answer(id, Reply::Done).await;
        for groups in [2, 0] {
            let (id, _) = asked(&mut peer).await;
            answer(&mut peer, id, cluster_reply(left(groups))).await;
        }
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::Remove(NEW));
        peer.answer(id, Reply::Done).await;
        peer.close_code().await;
    };
    let ((), output) = tokio::join!(serve, operator.types(&["node", "replace", "4", "-o", "json"]));
    assert_eq!(json(&output), serde_json::json!({ "node": 4, "state": "removed" }));
}

#[tokio::test]
async fn what_makes_data_less_safe_is_not_sent_without_a_yes() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let mut three = cluster(NodeState::Active);
    three.cluster.as_mut().unwrap().replication_factor = 3;
    three.groups[0].voters = vec![NodeId(1), NEW];
    for words in [&["config", "set", "replication_factor", "1"][..], &["node", "drain", "4"]] {
        let serve = async {
            let mut peer = node.accept().await;
            let (id, request) = asked(&mut peer).await;
            assert_eq!(request, ClusterRequest::Report);
            answer(&mut peer, id, cluster_reply(three.clone())).await;
            // Nothing follows but the end of the connection.
            peer.connection.closed().await;
        };
        let ((), output) = tokio::join!(serve, operator.types(words));
        assert_eq!(status(&output), 2);
        assert!(told(&output).starts_with("error[CODA4321]: "), "{}", told(&output));
        assert!(
            told(&output).ends_with("help: nothing was changed; --yes does it nevertheless\n"),
            "{}",
            told(&output)
        );
    }
    let serve = async {
        let mut peer = node.accept().await;
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::SetReplicationFactor(1));
        peer.refuse(id, Reject::TooManyTokens { tokens_max: 1 }).await;
        peer.connection.closed().await;
    };
    let words = ["config", "set", "replication_factor", "1", "--yes"];
    let ((), output) = tokio::join!(serve, operator.types(&words));
    assert_eq!(status(&output), 4, "what the cluster says counts");
}

#[tokio::test]
async fn a_rebalancing_is_watched_until_nothing_is_left_to_move() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let plan = |steps: usize| {
        let step = Step::AddLearner { group: GroupId(1), node: NEW };
        ClusterReply::Plan(Plan { steps: vec![step; steps], stuck: Vec::new() })
    };
    let serve = async {
        let mut peer = node.accept().await;
        let (id, request) = asked(&mut peer).await;
        assert_eq!(request, ClusterRequest::Rebalance);
        answer(&mut peer, id, plan(2)).await;
        for steps in [2, 1, 0] {
            let (id, request) = asked(&mut peer).await;
            assert_eq!(request, ClusterRequest::Plan);
            answer(&mut peer, id, plan(steps)).await;
        }
        peer.close_code().await;
    };
    let ((), output) = tokio::join!(serve, operator.types(&["rebalance", "--watch"]));
    assert_eq!(status(&output), 0, "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
}

/// It knows no reports, and says so by closing.
#[tokio::test]
async fn of_a_node_that_is_older_there_is_less_to_see() {
    let node = Node::start();
    let operator = Operator::of(&node);
    let serve = async {
        let mut peer = node.accept().await;
        let (_, _) = asked(&mut peer).await;
        peer.close(1_006, "malformed request");
        let mut peer = node.accept().await;
        let (id, request) = peer.asked().await;
        assert_eq!(request, Request::DescribeNode);
        let description = coda_client::protocol::reply::NodeDescription {
            node: NodeId(1),
            version: "0.0.9".into(),
            uptime_ms: 1,
            groups: Vec::new(),
            sessions: 1,
            counters: report(NEW).counters,
        };
        peer.answer(id, Reply::Node(description)).await;
        peer.close_code().await;
    };
    let ((), output) = tokio::join!(serve, operator.types(&["node", "status", "-o", "json"]));
    assert_eq!(json(&output)["version"], "0.0.9");

    let serve = async {
        let mut peer = node.accept().await;
        let (_, _) = asked(&mut peer).await;
        peer.close(1_006, "malformed request");
    };
    let ((), output) = tokio::join!(serve, operator.types(&["cluster", "status"]));
    assert_eq!(status(&output), 5);
    assert!(told(&output).contains("help: a node that is older than this program"), "{}", told(&output));
}

#[tokio::test]
async fn nobody_answers_and_the_bundle_is_made_nevertheless() {
    let node = Node::start();
    let operator = Operator::of(&node);
    drop(node);
    let words = ["support-bundle", "--out", "support.tar.gz", "--timeout", "300ms", "-o", "json"];
    let output = operator.types(&words).await;
    let files = json(&output)["files"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect::<Vec<_>>();
    assert_eq!(files, ["contents.txt", "versions.json", "cluster.error.txt"]);
    assert!(is_private(&operator.path("support.tar.gz")));
    let again = operator.types(&words).await;
    assert_eq!(status(&again), 4);
    assert!(told(&again).starts_with("error[CODA4325]: "), "{}", told(&again));
    let health = operator.types(&["cluster", "health", "--timeout", "300ms"]).await;
    assert_eq!(status(&health), 5);
}

fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}
