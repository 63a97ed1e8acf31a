//! Answers to questions: what state says, completed by what only the leader knows.

use std::collections::BTreeSet;

use coda_engine::query;
use coda_protocol::ids::{Name, Position, RunId, TaskId, WorkKind};
use coda_protocol::limits::{LIST_ROWS_MAX, LIST_SCAN_ROWS_MAX};
use coda_protocol::reject::{Refusal, Reject};
use coda_protocol::reply::{
    GroupDescription, LaneDescription, LaneList, NodeDescription, QueueCursor, QueuePage, QueuePlace, QueueSummary,
    Reply, RunDescription, TaskDescription, Wait,
};
use coda_protocol::request::Subscribe;

use crate::cluster;
use crate::dispatch::{Service, why};
use crate::host::Host;
use crate::queue::QueueHandle;
use crate::router::Router;

pub type Described = Result<(Position, Reply), Refusal>;

/// What state says of one thing, and where: that it is not there is an observation too.
pub type Seen = (Position, Result<Reply, Reject>);

/// A page of a group's queues: those that state knows, then those that nobody but workers knows.
pub fn queues_of(router: &Router, from: Option<&QueuePlace>) -> (Position, QueuePage) {
    let group = router.shared.group.id();
    let (position, mut page) = router.read(|view, position| (position, query::queues(view, group, from)));
    let served = router.shared.queues.read();
    for summary in &mut page.queues {
        summary.workers = served.get(&summary.queue).map_or(0, |queue| queue.dispatch.lock().workers());
    }
    if page.next.is_some() {
        return (position, page);
    }
    let from = match from {
        Some(QueuePlace::Served(queue)) => queue.clone(),
        Some(QueuePlace::First | QueuePlace::Lane { .. } | QueuePlace::Paused(_)) | None => Name::default(),
    };
    let workers = |(name, queue): (&Name, &QueueHandle)| (name.clone(), queue.dispatch.lock().workers());
    let rest: Vec<(Name, u32)> = served.range(from..).map(workers).take(LIST_SCAN_ROWS_MAX + 1).collect();
    drop(served);
    let full = |page: &QueuePage, i| page.queues.len() == LIST_ROWS_MAX || i == LIST_SCAN_ROWS_MAX;
    router.read(|view, _| {
        for (i, (queue, workers)) in rest.into_iter().enumerate() {
            if full(&page, i) {
                page.next = Some(QueueCursor { group, place: QueuePlace::Served(queue) });
                break;
            }
            if workers > 0 && !query::is_listed(view, group, &queue) {
                page.queues.push(QueueSummary { workers, ..empty(queue) });
            }
        }
    });
    page.queues.sort_by(|a, b| a.queue.cmp(&b.queue));
    (position, page)
}

fn empty(queue: Name) -> QueueSummary {
    QueueSummary { queue, paused: false, ready: 0, leased: 0, delayed: 0, workers: 0 }
}

/// What a group says about a queue.
pub fn lanes_of(router: &Router, name: &Name) -> (Position, LaneList) {
    let group = router.shared.group.id();
    let (position, mut list) = router.read(|view, position| (position, query::lanes(view, group, name)));
    let (workers, services) = router.shared.queues.read().get(name).map_or((0, Vec::new()), |queue| {
        let dispatch = queue.dispatch.lock();
        (dispatch.workers(), dispatch.services())
    });
    list.summary.workers = workers;
    for lane in &mut list.lanes {
        refine(lane, &services);
    }
    // Names that are served and have no work are worth knowing too.
    let mut known: BTreeSet<(WorkKind, Name)> = list.lanes.iter().map(|lane| (lane.kind, lane.name.clone())).collect();
    let served = services.iter().flat_map(|service| service.names.iter().map(|name| (service.kind, name)));
    for (kind, name) in served.take(LIST_SCAN_ROWS_MAX) {
        if list.lanes.len() == LIST_ROWS_MAX {
            break;
        }
        if known.insert((kind, name.clone())) {
            let mut lane = idle(kind, name.clone());
            refine(&mut lane, &services);
            list.lanes.push(lane);
        }
    }
    (position, list)
}

/// Adds what only the leader knows.
fn refine(lane: &mut LaneDescription, services: &[Service]) {
    let serving = |service: &&Service| service.kind == lane.kind && service.names.binary_search(&lane.name).is_ok();
    let serving = services.iter().filter(serving);
    (lane.workers, lane.free_slots) =
        serving.fold((0, 0), |(workers, free), service| (workers + service.workers, free + service.free_slots));
    if lane.waits == Wait::Soon {
        lane.waits = why(lane.workers, lane.free_slots);
    }
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

pub fn run(router: &Router, run: RunId) -> Seen {
    let group = router.shared.group.id();
    let (position, described) = router.read(|view, position| (position, query::run(view, group, run)));
    let refine = |run: RunDescription| {
        let waits = refined(router, run.waits, &run.queue, WorkKind::Run, &run.workflow);
        Reply::Run(RunDescription { waits, ..run })
    };
    (position, described.map(refine))
}

pub fn task(router: &Router, task: TaskId) -> Seen {
    let group = router.shared.group.id();
    let (position, described) = router.read(|view, position| (position, query::task(view, group, task)));
    let refine = |task: TaskDescription| {
        let waits = refined(router, task.waits, &task.queue, WorkKind::Task, &task.name);
        Reply::Task(TaskDescription { waits, ..task })
    };
    (position, described.map(refine))
}

fn refined(router: &Router, waits: Wait, queue: &Name, kind: WorkKind, name: &Name) -> Wait {
    if waits != Wait::Soon {
        return waits;
    }
    router.shared.queues.read().get(queue).map_or(Wait::NoWorker, |queue| queue.dispatch.lock().why(kind, name))
}

/// The node itself, with the groups that it leads. No log says any of it.
pub fn node(host: &Host) -> Reply {
    let describe = |router: Router| {
        let status = router.shared.group.status();
        GroupDescription {
            group: router.shared.group.id().0,
            leader: status.leader,
            term: status.term,
            applied: status.applied.unwrap_or_default(),
        }
    };
    let groups = host.routes.all().into_iter().map(describe).collect();
    let description = NodeDescription {
        node: host.node,
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: host.started.elapsed().as_millis() as u64,
        groups,
        sessions: host.sessions.count() as u32,
        counters: cluster::counters(host),
    };
    Reply::Node(description)
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
