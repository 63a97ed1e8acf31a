//! Answers to questions: what state says, completed by what only the leader knows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coda_engine::query;
use coda_protocol::ids::{Name, NodeId, Position, RunId, TaskId, WorkKind};
use coda_protocol::limits::LIST_ROWS_MAX;
use coda_protocol::reject::Reject;
use coda_protocol::reply::{
    Counters, GroupDescription, LaneDescription, NodeDescription, QueueDescription, QueueSummary, Reply, Wait,
};
use coda_protocol::request::Subscribe;

use crate::router::Router;

type Described = Result<(Position, Reply), Reject>;

pub fn queues(router: &Router) -> Described {
    let group = router.shared.group.id();
    let (position, mut summaries) = router.read(|view, position| (position, query::queues(view, group)));
    for (name, queue) in router.shared.queues.read().iter() {
        let workers = queue.dispatch.lock().workers();
        match summaries.binary_search_by(|summary| summary.queue.cmp(name)) {
            Ok(i) => summaries[i].workers = workers,
            Err(i) if workers > 0 => summaries.insert(i, QueueSummary { workers, ..empty(name.clone()) }),
            Err(_) => {}
        }
    }
    Ok((position, Reply::Queues(summaries)))
}

fn empty(queue: Name) -> QueueSummary {
    QueueSummary { queue, paused: false, ready: 0, leased: 0, delayed: 0, workers: 0 }
}

pub fn queue(router: &Router, name: &Name) -> Described {
    let group = router.shared.group.id();
    let (position, summaries, mut lanes) =
        router.read(|view, position| (position, query::queues(view, group), query::lanes(view, group, name)));
    let mut summary = summaries.into_iter().find(|one| one.queue == *name).unwrap_or_else(|| empty(name.clone()));
    if let Some(queue) = router.shared.queues.read().get(name) {
        let dispatch = queue.dispatch.lock();
        summary.workers = dispatch.workers();
        // Names that are served and have no work are worth knowing too.
        for (kind, name) in dispatch.served() {
            if lanes.len() < LIST_ROWS_MAX && !lanes.iter().any(|lane| lane.kind == kind && lane.name == name) {
                lanes.push(idle(kind, name));
            }
        }
        lanes.iter_mut().for_each(|lane| dispatch.refine(lane));
    } else {
        for lane in lanes.iter_mut().filter(|lane| lane.waits == Wait::Soon) {
            lane.waits = Wait::NoWorker;
        }
    }
    Ok((position, Reply::Queue(QueueDescription { summary, lanes })))
}

fn idle(kind: WorkKind, name: Name) -> LaneDescription {
    LaneDescription {
        kind,
        name,
        ready: 0,
        leased: 0,
        delayed: 0,
        workers: 0,
        free_slots: 0,
        oldest: None,
        waits: Wait::No,
    }
}

pub fn run(router: &Router, run: RunId) -> Described {
    let group = router.shared.group.id();
    let (position, described) = router.read(|view, position| (position, query::run(view, group, run)));
    let mut run = described?;
    run.waits = refine(router, run.waits, &run.queue, WorkKind::Run, &run.workflow);
    Ok((position, Reply::Run(run)))
}

pub fn task(router: &Router, task: TaskId) -> Described {
    let group = router.shared.group.id();
    let (position, described) = router.read(|view, position| (position, query::task(view, group, task)));
    let mut task = described?;
    task.waits = refine(router, task.waits, &task.queue, WorkKind::Task, &task.name);
    Ok((position, Reply::Task(task)))
}

fn refine(router: &Router, waits: Wait, queue: &Name, kind: WorkKind, name: &Name) -> Wait {
    if waits != Wait::Soon {
        return waits;
    }
    router.shared.queues.read().get(queue).map_or(Wait::NoWorker, |queue| queue.dispatch.lock().why(kind, name))
}

pub fn node(router: &Router, node: NodeId, uptime: Duration) -> Described {
    let shared = &router.shared;
    let status = shared.group.status();
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = Counters {
        entries: total(&shared.counters.entries),
        commands: total(&shared.counters.commands),
        log_syncs: total(&shared.store.counters().log_syncs),
        log_bytes: total(&shared.store.counters().log_bytes),
        leases: total(&shared.counters.leases),
        rejects: total(&shared.counters.rejects),
    };
    let group = GroupDescription {
        group: shared.group.id().0,
        leader: status.leader,
        term: status.term,
        applied: status.applied.unwrap_or_default(),
    };
    let position = Position { group: group.group, term: group.term, index: group.applied };
    let description = NodeDescription {
        node,
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: uptime.as_millis() as u64,
        groups: vec![group],
        sessions: shared.sessions.count() as u32,
        counters,
    };
    Ok((position, Reply::Node(description)))
}

/// Checks what a worker says it can do.
///
/// # Errors
/// [`Reject::BadName`] and [`Reject::TooMany`].
pub fn check_subscribe(subscribe: &Subscribe) -> Result<(), Reject> {
    use coda_protocol::ids::check_name;
    use coda_protocol::limits::SUBSCRIPTION_NAMES_MAX;
    let count = subscribe.tasks.len() + subscribe.workflows.len();
    if count > SUBSCRIPTION_NAMES_MAX {
        return Err(Reject::TooMany { what: "names".into(), count: count as u64, max: SUBSCRIPTION_NAMES_MAX as u64 });
    }
    check_name(&subscribe.queue)?;
    subscribe.tasks.iter().chain(&subscribe.workflows).try_for_each(|name| check_name(name))
}
