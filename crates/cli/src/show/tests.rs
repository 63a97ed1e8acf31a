//! Rendering, from fixed descriptions to the last space.

use coda_broker::identity::{Certificate, Holder, PeerIdentity};
use coda_protocol::ids::{NodeId, RunId, TaskId, Timestamp, WorkKind};
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::reply::{
    Counters, GroupDescription, LaneDescription, LaneList, NodeDescription, QueueSummary, RunDescription,
    StepDescription, TaskDescription, Wait, WorkState,
};
use coda_protocol::request::StepKind;

use super::{cert, config, node, queue, run, task};
use crate::args::Format;
use crate::expect::expect;
use crate::output::Screen;
use crate::settings::Sources;

const NOW: Timestamp = Timestamp(1_760_000_000_000);
const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn screen(format: Format) -> Screen {
    Screen { format, colours: false, now: NOW }
}

fn ago(ms: u64) -> Timestamp {
    Timestamp(NOW.0 - ms)
}

/// Both forms of one thing.
pub(super) fn both(name: &str, render: impl Fn(&Screen) -> String) {
    expect(&format!("output/{name}.txt"), &render(&screen(Format::Table)));
    let json = render(&screen(Format::Json));
    serde_json::from_str::<serde_json::Value>(&json).unwrap();
    expect(&format!("output/{name}.json"), &json);
}

fn summary(queue: &str, paused: bool, counts: [u64; 3], workers: u32) -> QueueSummary {
    let [ready, leased, delayed] = counts;
    QueueSummary { queue: queue.into(), paused, ready, leased, delayed, workers }
}

fn lane(kind: WorkKind, name: &str, counts: [u64; 3], workers: [u32; 2], waits: Wait) -> LaneDescription {
    let [ready, leased, delayed] = counts;
    let oldest = (ready + delayed > 0).then(|| ago(125_000));
    LaneDescription {
        kind,
        name: name.into(),
        ready,
        leased,
        delayed,
        workers: workers[0],
        free_slots: workers[1],
        oldest,
        waits,
    }
}

fn failure() -> Failure {
    Failure {
        kind: "shop.errors.CardDeclined".into(),
        message: "card 4242 declined\nby the bank \u{1b}[31m".into(),
        traceback: "Traceback (most recent call last):\n  …".into(),
        retryable: true,
    }
}

#[test]
fn a_list_of_queues() {
    let queues = [summary("default", false, [12, 3, 0], 4), summary("emails", true, [12_000, 0, 7], 0)];
    both("queue-list", |screen| queue::list(&queues, screen));
    both("queue-list-empty", |screen| queue::list(&[], screen));
}

#[test]
fn a_queue_says_why_each_lane_waits() {
    let description = LaneList {
        summary: summary("default", false, [15, 3, 2], 4),
        lanes_total: 3,
        counted_all: true,
        lanes: vec![
            lane(WorkKind::Run, "process_order", [2, 1, 0], [4, 0], Wait::WorkersBusy),
            lane(WorkKind::Task, "charge", [0, 2, 2], [4, 6], Wait::RetryingAt(Timestamp(NOW.0 + 12_000))),
            lane(WorkKind::Task, "send_receipt", [13, 0, 0], [0, 0], Wait::NoWorker),
            lane(WorkKind::Task, "ship", [0, 0, 0], [4, 6], Wait::No),
        ],
    };
    both("queue-describe", |screen| queue::describe(&description, screen));
}

#[test]
fn a_queue_of_more_lanes_than_are_listed_or_counted_says_so() {
    let description = LaneList {
        summary: summary("default", false, [12_000, 3, 0], 0),
        lanes: vec![lane(WorkKind::Task, "charge", [12, 0, 0], [0, 0], Wait::NoWorker)],
        lanes_total: 10_000,
        counted_all: false,
    };
    both("queue-describe-many", |screen| queue::describe(&description, screen));
}

#[test]
fn a_queue_that_nobody_knows() {
    let summary = summary("emial", false, [0; 3], 0);
    let description = LaneList { summary, lanes: Vec::new(), lanes_total: 0, counted_all: true };
    both("queue-describe-unknown", |screen| queue::describe(&description, screen));
}

fn a_run(state: WorkState, waits: Wait) -> RunDescription {
    let step = |name: &str, kind, state, attempts, last_failure| StepDescription {
        name: name.into(),
        kind,
        state,
        attempts,
        last_failure,
    };
    RunDescription {
        run: RunId([1; 16]),
        workflow: "process_order".into(),
        queue: "default".into(),
        state,
        waits,
        attempt: 1,
        steps_pending: 1,
        steps_ended: 2,
        created: ago(5_400_000),
        outcome: None,
        steps: vec![
            step("reserve", StepKind::Task, WorkState::Succeeded, 1, None),
            step("price", StepKind::Inline, WorkState::Succeeded, 1, None),
            step("charge", StepKind::Task, WorkState::Retrying, 3, Some(failure())),
        ],
        truncated: false,
    }
}

#[test]
fn a_run_that_waits_for_a_step() {
    both("run-describe", |screen| run::describe(&a_run(WorkState::Parked, Wait::Steps), screen));
}

#[test]
fn a_run_that_has_ended() {
    let succeeded = RunDescription {
        outcome: Some(Ok(Payload::json("{\"receipt\": 77}"))),
        ..a_run(WorkState::Succeeded, Wait::No)
    };
    both("run-describe-succeeded", |screen| run::describe(&succeeded, screen));
    let failed = RunDescription {
        outcome: Some(Err(failure())),
        steps: Vec::new(),
        truncated: true,
        ..a_run(WorkState::Failed, Wait::No)
    };
    both("run-describe-failed", |screen| run::describe(&failed, screen));
}

#[test]
fn a_task_that_is_tried_again() {
    let description = TaskDescription {
        task: TaskId([2; 16]),
        name: "charge".into(),
        queue: "default".into(),
        state: WorkState::Retrying,
        waits: Wait::RetryingAt(Timestamp(NOW.0 + 500)),
        attempts: 3,
        created: ago(9_000),
        last_failure: Some(failure()),
        outcome: None,
    };
    both("task-describe", |screen| task::describe(&description, screen));
}

#[test]
fn the_status_of_a_node() {
    let description = NodeDescription {
        node: NodeId(1),
        version: "0.1.0".into(),
        uptime_ms: 183_600_000,
        groups: vec![
            GroupDescription { group: 0, leader: Some(NodeId(1)), term: 3, applied: 120_345 },
            GroupDescription { group: 1, leader: Some(NodeId(2)), term: 12, applied: 99 },
            GroupDescription { group: 2, leader: None, term: 4, applied: 0 },
        ],
        sessions: 5,
        counters: Counters { entries: 10, commands: 200, log_syncs: 9, log_bytes: 12_345, leases: 100, rejects: 1 },
    };
    both("node-status", |screen| node::status(&description, screen));
}

#[test]
fn colours_are_there_only_when_wanted() {
    let queues = [summary("emails", true, [1, 0, 0], 0)];
    let coloured = Screen { colours: true, ..screen(Format::Table) };
    assert!(queue::list(&queues, &coloured).contains("\u{1b}["));
    assert!(!queue::list(&queues, &screen(Format::Table)).contains('\u{1b}'));
}

fn certificate(days_left: u64) -> cert::Shown {
    let cluster = "7f3d9c1e-52a4-4b0e-9f63-0d7a4e5b8c21".parse().unwrap();
    let node = PeerIdentity::Node { cluster, node: NodeId(3) };
    let certificate = Certificate {
        subject: "coda node 3".into(),
        holder: Some(Holder::Peer(node)),
        hosts: vec!["coda".into(), "node-3.example".into()],
        not_before: ago(DAY_MS),
        not_after: Timestamp(NOW.0 + days_left * DAY_MS),
        is_authority: false,
        for_servers: true,
        for_clients: true,
    };
    cert::Shown { certificate, key: cert::Key::Matches("certs/node.key".into()) }
}

#[test]
fn certificates() {
    let expired = || {
        let mut shown = certificate(0);
        (shown.certificate.not_after, shown.certificate.holder) = (ago(1), None);
        shown.certificate.hosts.clear();
        cert::Shown { key: cert::Key::NotThere, ..shown }
    };
    both("certificates", |screen| cert::list(&[certificate(364), expired()], screen));
    assert_eq!(certificate(364).state(NOW), cert::State::Valid);
    assert_eq!(certificate(0).state(NOW), cert::State::EndsSoon);
    assert_eq!(expired().state(NOW), cert::State::Ended);
    assert_eq!(certificate(1).state(ago(2 * DAY_MS)), cert::State::NotYet);
}

#[test]
fn a_configuration() {
    let sources = Sources {
        file: None,
        variables: vec![("CODA_NODE__ID".into(), "3".into()), ("CODA_LOG__FORMAT".into(), "json".into())],
        options: vec![("--listen".into(), "listen.client".into(), "127.0.0.1:4747".into())],
    };
    let effective = sources.load().unwrap();
    both("config", |screen| config::effective(&effective, screen));
    both("config-keys", config::keys);
}
