//! Writes what fuzzing starts from: one small, good input per kind. `cargo run --bin seeds` in this folder, after a
//! change of the protocol.

use std::fs;
use std::path::Path;

use coda_engine::cluster::command::{ClusterCommand, InitCluster, PlaceGroup};
use coda_engine::command::Command;
use coda_engine::entry::{Entry, Grant, Lane};
use coda_protocol::cache_key::{CacheKey, KeyPart};
use coda_protocol::cluster::{Registration, SettingValue};
use coda_protocol::codec;
use coda_protocol::frame::{Frame, Hello, Welcome};
use coda_protocol::ids::{
    ClusterId, GroupId, LeaseId, Millis, NodeId, Position, RunId, SessionId, StorageId, TaskId, Timestamp, TokenId,
    Work, WorkKind,
};
use coda_protocol::join::TokenDigest;
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::policy::RetryPolicy;
use coda_protocol::push::{MemoPage, Push, RunLease, StepEnded, TaskLease, Wants};
use coda_protocol::reject::{Reject, Unavailable};
use coda_protocol::reply::{Answer, QueueCursor, QueuePlace, Reply, StepState};
use coda_protocol::request::{
    CompleteRun, CompleteTask, Credit, ParkRun, RecordStep, Release, Request, Resume, Spawn, SpawnStep, StartRun,
    StepKey, StepKind, SubmitTask, Subscribe, Withdraw,
};

const RUN: RunId = RunId([1; 16]);
const TASK: TaskId = TaskId([2; 16]);
const SESSION: SessionId = SessionId([3; 16]);
const LEASE: LeaseId = LeaseId(65_536);

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let requests = requests();
    let answers = answers();
    let pushes = pushes();
    let commands = commands();

    let hello = Frame::Hello { versions: (1, 1), hello: Hello { session: SESSION, agent: "seed/1".into() } };
    let welcome = Welcome { version: 1, node: NodeId(1), incarnation: 7, server: "coda/1".into() };
    let mut frames = vec![hello, Frame::Welcome(welcome)];
    frames.extend(requests.iter().map(|request| Frame::Request { id: 9, request: request.clone() }));
    frames.extend(answers.iter().map(|answer| Frame::Answer { id: 9, answer: answer.clone() }));
    frames.extend(pushes.iter().map(|push| Frame::Push(push.clone())));
    for (i, frame) in frames.iter().enumerate() {
        let mut bytes = vec![i as u8];
        frame.encode(&mut bytes);
        write(&corpus, "frame", i, &bytes);
    }
    let mut stream = vec![13];
    frames.iter().for_each(|frame| frame.encode(&mut stream));
    write(&corpus, "frame", frames.len(), &stream);

    let mut bodies = Vec::new();
    bodies.extend(requests.iter().map(|one| tagged(0, &codec::encode(one))));
    bodies.extend(pushes.iter().map(|one| tagged(1, &codec::encode(one))));
    bodies.extend(answers.iter().map(|one| tagged(2, &codec::encode(one))));
    bodies.extend(commands.iter().map(|one| tagged(6, &codec::encode(one))));
    bodies.push(tagged(5, &codec::encode(&entry(commands.clone()))));
    bodies.iter().enumerate().for_each(|(i, body)| write(&corpus, "request", i, body));

    // The first byte says which group it is. Instruction 12 takes an encoded command; the rest of a script means
    // something whatever it is.
    for (i, command) in commands.iter().enumerate() {
        let encoded = codec::encode(command);
        let is_meta = command.belongs_to(GroupId::META);
        let mut script = vec![u8::from(!is_meta), 1, 1, 12, encoded.len() as u8];
        script.extend_from_slice(&encoded);
        script.extend((0..200).map(|n: u32| (n * 37 + i as u32 * 11) as u8));
        write(&corpus, "command", i, &script);
    }
}

fn write(corpus: &Path, target: &str, i: usize, bytes: &[u8]) {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(format!("seed-{i:02}")), bytes).expect("a file");
}

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], body].concat()
}

fn key(kind: StepKind) -> StepKey {
    let cache_key = CacheKey::explicit(&[KeyPart::Int(7), KeyPart::Str("k".into())]).expect("small");
    StepKey { kind, name: "a".into(), cache_key }
}

fn failure() -> Failure {
    Failure { kind: "E".into(), message: "m".into(), traceback: "t".into(), retryable: true }
}

fn start() -> StartRun {
    let (workflow, queue) = ("a".into(), "a".into());
    StartRun {
        run: RUN,
        workflow,
        queue,
        input: Payload::json("1"),
        priority: 4,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    }
}

fn submit() -> SubmitTask {
    let (name, queue) = ("a".into(), "b".into());
    SubmitTask {
        task: TASK,
        name,
        queue,
        args: Payload::json("1"),
        priority: 9,
        policy: RetryPolicy::NEVER,
        delay: Millis(5),
    }
}

fn spawn() -> Spawn {
    let step = SpawnStep {
        key: key(StepKind::Task),
        queue: "a".into(),
        args: Payload::json("1"),
        priority: 0,
        policy: RetryPolicy::NEVER,
        delay: Millis(0),
    };
    Spawn { run: RUN, lease: LEASE, steps: vec![step] }
}

fn requests() -> Vec<Request> {
    vec![
        Request::StartRun(start()),
        Request::SubmitTask(submit()),
        Request::AwaitRun(RUN),
        Request::AwaitTask(TASK),
        Request::Subscribe(Subscribe {
            queue: "a".into(),
            tasks: vec!["a".into(), "b".into()],
            workflows: vec!["c".into()],
        }),
        Request::Credit(Credit { queue: "a".into(), kind: WorkKind::Run, slots: 300 }),
        Request::Resume(Resume { group: GroupId(1), held: vec![LEASE, LeaseId(u64::MAX)] }),
        Request::Spawn(spawn()),
        Request::RecordStep(RecordStep {
            run: RUN,
            lease: LEASE,
            key: key(StepKind::Inline),
            result: Payload::json("1"),
        }),
        Request::CompleteTask(CompleteTask { task: TASK, lease: LEASE, outcome: Ok(Payload::json("1")) }),
        Request::CompleteRun(CompleteRun { run: RUN, lease: LEASE, outcome: Err(failure()) }),
        Request::Release(Release { work: Work::Task(TASK), lease: LEASE }),
        Request::ParkRun(ParkRun { run: RUN, lease: LEASE, seen: 3 }),
        Request::EndSession(SESSION),
        Request::ListQueues,
        Request::DescribeQueue("a".into()),
        Request::PauseQueue("a".into()),
        Request::UnpauseQueue("a".into()),
        Request::DescribeRun(RUN),
        Request::DescribeTask(TASK),
        Request::DescribeNode,
        Request::ListQueuesFrom(None),
        Request::ListQueuesFrom(Some(QueueCursor { group: GroupId(2), place: QueuePlace::Lane {
            queue: "a".into(),
            kind: WorkKind::Run,
            name: "b".into(),
        } })),
        Request::DescribeLanes("a".into()),
        Request::Withdraw(Withdraw { queue: "a".into(), kind: WorkKind::Task, slots: 300 }),
    ]
}

fn answers() -> Vec<Answer> {
    let position = Position { group: 1, term: 2, index: 300 };
    let replies = [
        Ok(Reply::Done),
        Ok(Reply::Started { existed: true }),
        Ok(Reply::Ended(Err(failure()))),
        Ok(Reply::Resumed { lost: vec![LEASE] }),
        Ok(Reply::Spawned(vec![StepState::Pending, StepState::Ended(Ok(Payload::json("1")))])),
        Err(Reject::StaleLease.into()),
        Err(Reject::TooMany { what: "steps".into(), count: 9, max: 8 }.into()),
        Err(Unavailable::Overloaded { retry_after_ms: 50 }.into()),
        Err(Unavailable::NotLeader { leader: Some("a:1".into()) }.into()),
        Ok(Reply::TokenCreated { expires: Timestamp(9) }),
        Ok(Reply::Withdrawn { slots: 300 }),
    ];
    replies.into_iter().map(|result| Answer { position, result }).collect()
}

fn pushes() -> Vec<Push> {
    let outcome = Ok(Payload::json("1"));
    vec![
        Push::Task(TaskLease {
            task: TASK,
            lease: LEASE,
            queue: "a".into(),
            name: "b".into(),
            args: Payload::json("1"),
            attempt: 1,
            retries_left: 2,
            run: Some(RUN),
        }),
        Push::Run(RunLease {
            run: RUN,
            lease: LEASE,
            queue: "a".into(),
            workflow: "w".into(),
            input: Payload::json("1"),
            attempt: 1,
            memo_pages: 1,
            steps_ended: 2,
        }),
        Push::Memo(MemoPage { run: RUN, lease: LEASE, steps_ended: 1, items: vec![(key(StepKind::Task), outcome)] }),
        Push::Step(StepEnded {
            run: RUN,
            lease: LEASE,
            key: key(StepKind::Workflow),
            outcome: Err(failure()),
            steps_ended: 3,
        }),
        Push::LeaseLost { work: Work::Run(RUN), lease: LEASE },
        Push::MemoEnd { run: RUN, lease: LEASE, steps_ended: 4 },
        Push::Wants(Wants { queue: "a".into(), kind: WorkKind::Task, wanted: 300 }),
    ]
}

fn commands() -> Vec<Command> {
    vec![
        Command::StartRun(start()),
        Command::SubmitTask(submit()),
        Command::Spawn(spawn()),
        Command::RecordStep(RecordStep {
            run: RUN,
            lease: LEASE,
            key: key(StepKind::Inline),
            result: Payload::json("1"),
        }),
        Command::CompleteTask(CompleteTask { task: TASK, lease: LEASE, outcome: Err(failure()) }),
        Command::CompleteRun(CompleteRun { run: RUN, lease: LEASE, outcome: Ok(Payload::json("1")) }),
        Command::Release(Release { work: Work::Run(RUN), lease: LEASE }),
        Command::ParkRun(ParkRun { run: RUN, lease: LEASE, seen: 0 }),
        Command::ResumeSession { session: SESSION, held: vec![LEASE] },
        Command::EndSession { session: SESSION },
        Command::PauseQueue { queue: "a".into() },
        Command::UnpauseQueue { queue: "a".into() },
        Command::Tick,
    ]
    .into_iter()
    .chain(cluster_commands().into_iter().map(Command::Cluster))
    .collect()
}

fn cluster_commands() -> Vec<ClusterCommand> {
    use ClusterCommand as C;
    let registration = || Registration {
        storage: StorageId([1; 16]),
        incarnation: 1,
        peer_addr: "n:1".into(),
        client_addr: "n:2".into(),
        zone: "a".into(),
        version: "1".into(),
        commands_version: 1,
    };
    let (node, token, digest) = (NodeId(2), TokenId([1; 16]), TokenDigest([1; 32]));
    let place = PlaceGroup { group: GroupId(1), voters: vec![NodeId(1), node], leader: Some(node), seen: 1 };
    vec![
        C::Init(InitCluster { cluster: ClusterId([1; 16]), replication_factor: 3, groups: 3, node: NodeId(1), founder: registration() }),
        C::CreateToken { token, digest, ttl: None },
        C::RevokeToken { token },
        C::Join { token, digest, node, registration: registration() },
        C::Register { node, registration: registration() },
        C::Activate { node },
        C::Drain { node },
        C::Undrain { node },
        C::Remove { node },
        C::PlaceGroup(place),
        C::SettleGroup { group: GroupId(1), version: 1 },
        C::SetReplicationFactor { replication_factor: 5 },
        C::SetSetting { key: "upgrade.auto".into(), value: Some(SettingValue::Switch(false)) },
    ]
}

fn entry(commands: Vec<Command>) -> Entry {
    let lane = Lane { queue: "a".into(), kind: WorkKind::Task, name: "a".into() };
    let grant = Grant { session: SESSION, queue: "a".into(), kind: WorkKind::Task, names: 0, slots: 3 };
    let names = ["a", "b"].map(coda_protocol::ids::Name::from).into();
    Entry { now: Timestamp(7), commands, grants: vec![grant], name_sets: vec![names], lanes: vec![lane] }
}
