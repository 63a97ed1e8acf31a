use bytes::BytesMut;
use coda_protocol::cache_key::CacheKey;
use coda_protocol::ids::{Position, RunId, TaskId};
use coda_protocol::payload::Payload;
use coda_protocol::push::TaskLease;
use coda_protocol::reject::Reject;
use coda_protocol::reply::{Reply, StepState};
use coda_protocol::request::StepKind;
use proptest::prelude::*;

use super::*;
use crate::link::Answered;
use crate::routes::tests::map;

const NODE: NodeId = NodeId(1);
const QUEUE: &str = "emails";
const SLOTS: u32 = 4;

/// A worker with a node's view of it: what credit the node has left.
struct World {
    leases: Leases<&'static str>,
    events: Vec<WorkerEvent>,
    back: Vec<Hold>,
    credit: [u32; 2],
}

/// What a node is offered with the next write.
fn credits(leases: &mut Leases<&'static str>, node: NodeId) -> Vec<Credit> {
    let mut out = Vec::new();
    leases.credits(node, Instant::now(), &mut out);
    let mut buffer = BytesMut::from(&out[..]);
    let mut credits = Vec::new();
    while let Some(frame) = Frame::take(&mut buffer).unwrap() {
        let Frame::Request { id: 0, request: Request::Credit(credit) } = frame else { panic!("{frame:?}") };
        credits.push(credit);
    }
    credits
}

impl World {
    fn new() -> Self {
        Self::with_task_slots(SLOTS)
    }

    fn with_task_slots(task_slots: u32) -> Self {
        let names = |name: &str| vec![name.into()];
        let subscribe = Subscribe { queue: QUEUE.into(), tasks: names("send"), workflows: names("flow") };
        let served = Served { subscribe, task_slots, run_slots: SLOTS };
        let mut world = Self {
            leases: Leases::new(vec![served], Salt(0)).unwrap(),
            events: Vec::new(),
            back: Vec::new(),
            credit: [0; 2],
        };
        world.connect();
        world
    }

    /// Connects to the node, which leads the only group. Returns what its leader is told to be held.
    fn connect(&mut self) -> Vec<LeaseId> {
        self.credit = [0; 2];
        self.leases.greeting(NODE);
        self.leases.leading(&BTreeSet::from([NODE]));
        self.write();
        self.leases.resume(GroupId(1), None).0.held
    }

    /// The link writes: the node learns of credit.
    fn write(&mut self) {
        for credit in credits(&mut self.leases, NODE) {
            self.credit[credit.kind as usize] += credit.slots;
        }
    }

    fn push(&mut self, push: Push) {
        self.leases.on_push(NODE, push, &mut self.events, &mut self.back);
    }

    fn lease_task(&mut self, n: u8) -> Hold {
        self.credit[0] = self.credit[0].saturating_sub(1);
        self.push(task(n));
        hold(n)
    }

    fn lease_run(&mut self, n: u8, memo_pages: u32) -> Hold {
        self.credit[1] -= 1;
        self.push(Push::Run(RunLease {
            run: RunId([n; 16]),
            lease: LeaseId(u64::from(n)),
            queue: QUEUE.into(),
            workflow: "flow".into(),
            input: Payload::json("1"),
            attempt: 1,
            memo_pages,
            steps_ended: 0,
        }));
        (Work::Run(RunId([n; 16])), LeaseId(u64::from(n)))
    }

    fn page(&mut self, n: u8, keys: &[u32]) {
        let items = keys.iter().map(|n| (key(*n), Ok(Payload::json("2")))).collect();
        let page =
            MemoPage { run: RunId([n; 16]), lease: LeaseId(u64::from(n)), steps_ended: keys.len() as u32, items };
        self.push(Push::Memo(page));
    }

    fn memo_end(&mut self, n: u8, steps_ended: u32) {
        self.push(Push::MemoEnd { run: RunId([n; 16]), lease: LeaseId(u64::from(n)), steps_ended });
    }

    fn begin(&mut self, intent: &Intent) -> Verdict {
        self.leases.begin(intent)
    }

    fn finish(&mut self, intent: &Intent, mut result: Answered) -> (Answered, Option<&'static str>) {
        let freed = self.leases.finish(intent, &mut result, &mut self.events);
        (result, freed)
    }

    fn end(&mut self, hold: Hold) -> Verdict {
        let verdict = self.begin(&Intent::End { hold });
        self.write();
        verdict
    }

    fn names(&mut self) -> Vec<&'static str> {
        let name = |event: WorkerEvent| match event {
            WorkerEvent::TaskStart(_) => "task",
            WorkerEvent::RunStart { .. } => "run",
            WorkerEvent::StepEnded { .. } => "step",
            WorkerEvent::StepsSeen { .. } => "seen",
            WorkerEvent::LeaseLost { .. } => "lost",
            _ => "other",
        };
        self.events.drain(..).map(name).collect()
    }
}

fn task(n: u8) -> Push {
    Push::Task(TaskLease {
        task: TaskId([n; 16]),
        lease: LeaseId(u64::from(n)),
        queue: QUEUE.into(),
        name: "send".into(),
        args: Payload::json("1"),
        attempt: 1,
        retries_left: 0,
        run: None,
    })
}

fn hold(n: u8) -> Hold {
    (Work::Task(TaskId([n; 16])), LeaseId(u64::from(n)))
}

fn key(n: u32) -> StepKey {
    StepKey { kind: StepKind::Task, name: "send".into(), cache_key: CacheKey::auto(n) }
}

fn step(n: u8, key_n: u32, steps_ended: u32) -> Push {
    let (run, lease) = (RunId([n; 16]), LeaseId(u64::from(n)));
    Push::Step(StepEnded { run, lease, key: key(key_n), outcome: Ok(Payload::json("2")), steps_ended })
}

fn done() -> Answered {
    Ok((Reply::Done, Position::default()))
}

#[test]
fn a_completion_frees_its_slot_before_its_answer() {
    let mut w = World::new();
    assert_eq!(w.credit, [SLOTS, SLOTS]);
    let first = w.lease_task(1);
    assert_eq!(w.credit, [SLOTS - 1, SLOTS]);
    assert_eq!(w.end(first), Verdict::Send);
    assert_eq!(w.credit, [SLOTS, SLOTS]);
    assert_eq!(w.end(first), Verdict::Superseded);
    let _ = w.finish(&Intent::End { hold: first }, done());
    assert_eq!(w.end(first), Verdict::Superseded);
    assert_eq!(w.credit, [SLOTS, SLOTS]);
}

#[test]
fn a_lease_that_is_pushed_again_is_delivered_once() {
    let mut w = World::new();
    w.lease_task(1);
    w.push(task(1));
    assert_eq!(w.names(), ["task"]);
    w.write();
    assert_eq!(w.credit, [SLOTS - 1, SLOTS]);
}

#[test]
fn a_run_starts_when_all_pages_of_its_memo_are_there() {
    let mut w = World::new();
    w.lease_run(1, 2);
    w.page(1, &[1, 2]);
    w.push(step(1, 7, 4));
    assert!(w.events.is_empty());
    w.page(1, &[3]);
    let Some(WorkerEvent::RunStart { lease, memo }) = w.events.pop() else { panic!() };
    assert_eq!(memo.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&key(1), &key(2), &key(7), &key(3)]);
    assert_eq!(lease.steps_ended, 4);
}

#[test]
fn a_run_with_an_open_memo_starts_at_its_end_and_not_before() {
    let mut w = World::new();
    w.lease_run(1, MEMO_PAGES_OPEN);
    for n in 0..10 {
        w.page(1, &[n]);
        w.push(step(1, 100 + n, 4));
        assert!(w.events.is_empty());
    }
    w.memo_end(1, 3);
    let Some(WorkerEvent::RunStart { lease, memo }) = w.events.pop() else { panic!() };
    assert_eq!((memo.len(), lease.steps_ended), (20, 4));
    // Cut off: not named when the connection is back.
    w.lease_run(2, MEMO_PAGES_OPEN);
    w.page(2, &[1]);
    w.leases.on_disconnected(NODE);
    assert_eq!(w.connect(), [LeaseId(1)]);
    w.memo_end(2, 9);
    assert!(w.events.is_empty());
}

#[test]
fn a_run_that_goes_on_has_seen_what_its_memo_said_once_all_of_it_is_there() {
    let mut w = World::new();
    let run = w.lease_run(1, 0);
    w.begin(&Intent::Spawn { hold: run, keys: vec![key(1), key(2)] });
    w.names();
    // Both ended while the connection was gone, and a third that an earlier execution had spawned.
    w.page(1, &[1]);
    w.page(1, &[2, 3]);
    assert_eq!(w.names(), ["step", "step"]);
    w.memo_end(1, 3);
    assert!(matches!(w.events.pop(), Some(WorkerEvent::StepsSeen { steps_ended: 3, .. })));
}

#[test]
fn a_run_whose_pages_were_cut_off_is_forgotten_and_not_resumed() {
    let mut w = World::new();
    w.lease_run(1, 2);
    let kept = w.lease_task(2);
    w.page(1, &[1]);
    w.leases.on_disconnected(NODE);
    assert_eq!(w.connect(), [kept.1]);
    assert_eq!(w.credit, [SLOTS - 1, SLOTS]);
}

#[test]
fn a_step_is_told_once_and_only_to_the_execution_that_spawned_it() {
    let mut w = World::new();
    let run = w.lease_run(1, 0);
    w.push(step(1, 1, 1));
    let spawn = Intent::Spawn { hold: run, keys: vec![key(1), key(2), key(3)] };
    w.begin(&spawn);
    w.push(step(1, 2, 2));
    w.push(step(1, 2, 2));
    let ended = StepState::Ended(Ok(Payload::json("1")));
    let states = vec![ended, StepState::Pending, StepState::Pending];
    let _ = w.finish(&spawn, Ok((Reply::Spawned(states), Position::default())));
    w.push(step(1, 1, 1));
    // After a reconnect the node sends the memo again.
    w.page(1, &[1, 2, 3]);
    assert_eq!(w.names(), ["run", "seen", "step", "seen", "seen", "step"]);
}

#[test]
fn a_run_does_not_end_before_its_spawns_are_answered() {
    let mut w = World::new();
    let run = w.lease_run(1, 0);
    let spawn = Intent::Spawn { hold: run, keys: vec![key(1)] };
    let record = Intent::Record { hold: run };
    w.begin(&spawn);
    w.begin(&record);
    let end = Intent::End { hold: run };
    assert_eq!(w.begin(&end), Verdict::Defer);
    w.leases.defer(run, "the end");
    assert_eq!(w.finish(&spawn, Ok((Reply::Spawned(vec![StepState::Pending]), Position::default()))).1, None);
    w.write();
    assert_eq!(w.credit[1], SLOTS - 1);
    assert_eq!(w.finish(&record, done()).1, Some("the end"));
    assert_eq!(w.begin(&end), Verdict::Send);
    w.write();
    assert_eq!(w.credit[1], SLOTS);
}

#[test]
fn a_lost_lease_keeps_its_slot_until_it_is_abandoned_and_is_not_resumed() {
    let mut w = World::new();
    let (lost, ending) = (w.lease_task(1), w.lease_task(2));
    w.end(ending);
    let resume = Intent::Resume { holds: vec![lost, ending] };
    let _ = w.finish(&resume, Ok((Reply::Resumed { lost: vec![lost.1, ending.1] }, Position::default())));
    assert_eq!(w.names(), ["task", "task", "lost"]);
    assert_eq!(w.connect(), [ending.1]);
    assert_eq!(w.credit[0], SLOTS - 1);
    assert!(w.leases.abandon(lost));
    w.write();
    assert_eq!(w.credit[0], SLOTS);
}

#[test]
fn an_end_that_another_attempt_superseded_is_no_error_and_a_bad_outcome_can_be_mended() {
    let mut w = World::new();
    let (stale, bad) = (w.lease_task(1), w.lease_task(2));
    for hold in [stale, bad] {
        assert_eq!(w.end(hold), Verdict::Send);
    }
    assert_eq!(w.finish(&Intent::End { hold: stale }, Err(Reject::StaleLease.into())).0, done());
    let refused = Err(ClientError::Refused(Reject::BadCacheKey));
    assert_eq!(w.finish(&Intent::End { hold: bad }, refused.clone()).0, refused);
    assert_eq!(w.leases.count(), 1);
    assert_eq!(w.end(bad), Verdict::Send);
}

#[test]
fn a_run_with_news_is_not_parked_and_goes_on() {
    let mut w = World::new();
    let run = w.lease_run(1, 0);
    let park = Intent::Park { hold: run };
    assert_eq!(w.begin(&park), Verdict::Send);
    let _ = w.finish(&park, Err(Reject::NotIdle.into()));
    assert_eq!((w.leases.count(), w.begin(&park)), (1, Verdict::Send));
    let _ = w.finish(&park, done());
    w.write();
    assert_eq!((w.leases.count(), w.credit[1]), (0, SLOTS));
}

#[test]
fn a_draining_worker_hands_new_work_back_and_offers_nothing() {
    let mut w = World::new();
    let kept = w.lease_task(1);
    w.lease_run(2, 1);
    let (assembling, unsubscribe) = w.leases.drain();
    assert_eq!((assembling.len(), unsubscribe.len()), (1, 1));
    let late = w.lease_task(3);
    assert_eq!(w.back, [late]);
    w.end(kept);
    assert_eq!(w.credit[0], SLOTS - 2);
    assert!(w.leases.greeting(NODE).is_empty());
    w.connect();
    assert_eq!(w.credit, [0, 0]);
}

#[test]
fn each_group_hears_of_its_own_leases() {
    let mut w = World::with_task_slots(40);
    let holds: Vec<Hold> = (1..=40).map(|n| w.lease_task(n)).collect();
    let map = map(1, 3);
    let mut heard = 0;
    for group in 1..=3 {
        let (Resume { group, held }, resumed) = w.leases.resume(GroupId(group), Some(&map));
        let mine = |hold: &&Hold| map.group_of(hold.0.slot()) == group;
        assert_eq!(held, holds.iter().filter(mine).map(|hold| hold.1).collect::<Vec<_>>());
        assert_eq!(resumed.len(), held.len());
        heard += held.len();
    }
    assert_eq!(heard, holds.len());
}

#[test]
fn slots_are_spread_over_those_that_lead_and_come_back_from_those_that_do_no_more() {
    const OTHER: NodeId = NodeId(2);
    let mut w = World::new();
    w.leases.on_disconnected(NODE);
    for node in [NODE, OTHER] {
        w.leases.greeting(node);
    }
    assert!(w.leases.leading(&BTreeSet::from([NODE, OTHER])).is_empty());
    let slots = |w: &mut World, node| {
        let tasks = credits(&mut w.leases, node).into_iter().filter(|credit| credit.kind == WorkKind::Task);
        tasks.map(|credit| credit.slots).sum::<u32>()
    };
    assert_eq!([slots(&mut w, NODE), slots(&mut w, OTHER), slots(&mut w, NODE)], [2, 2, 0]);
    let task = w.lease_task(1);
    assert_eq!([slots(&mut w, NODE), slots(&mut w, OTHER)], [0, 0], "the other one's are not taken from it");
    w.begin(&Intent::End { hold: task });
    assert_eq!([slots(&mut w, OTHER), slots(&mut w, NODE)], [0, 1]);
    let anew = w.leases.leading(&BTreeSet::from([NODE]));
    assert!(matches!(&anew[..], [(OTHER, Request::Subscribe(_))]), "{anew:?}");
    assert_eq!([slots(&mut w, OTHER), slots(&mut w, NODE)], [0, 2]);
    // Pushed while it led, and late: its slots are another's.
    w.leases.on_push(OTHER, self::task(2), &mut w.events, &mut w.back);
    assert_eq!((w.back.as_slice(), w.leases.count()), (&[hold(2)][..], 0));
    w.leases.on_disconnected(NODE);
    assert!(w.leases.leading(&BTreeSet::from([OTHER])).is_empty());
    assert_eq!(slots(&mut w, OTHER), SLOTS);
}

#[test]
fn options_over_the_bounds_are_refused() {
    let served = |queue: &str, task_slots| Served {
        subscribe: Subscribe { queue: queue.into(), tasks: vec!["t".into()], workflows: vec![] },
        task_slots,
        run_slots: 0,
    };
    let code = |served: Vec<Served>| Leases::<()>::new(served, Salt(0)).unwrap_err().code();
    assert_eq!(code(vec![served("a", 1), served("a", 1)]), "CODA4013");
    assert_eq!(code(vec![served("a", 20_000)]), "CODA4013");
    assert_eq!(code(vec![served("", 1)]), "CODA2001");
    assert_eq!(code((0..65).map(|i| served(&i.to_string(), 1)).collect()), "CODA4013");
}

proptest! {
    /// Whatever happens in whatever order: the node's credit and the leases at work never exceed the slots, and once
    /// the link has written and everything is answered they are exactly the slots.
    #[test]
    fn credit_and_leases_always_add_up_to_the_slots(steps in proptest::collection::vec((0u8..6, any::<prop::sample::Index>()), 0..200)) {
        let mut w = World::new();
        let (mut held, mut ending, mut next) = (Vec::<Hold>::new(), Vec::<Hold>::new(), 0u8);
        for (what, which) in steps {
            match what {
                0 | 1 if w.credit[0] > 0 && next < 255 => {
                    next += 1;
                    held.push(w.lease_task(next));
                }
                2 if !held.is_empty() => {
                    let hold = held.swap_remove(which.index(held.len()));
                    prop_assert_eq!(w.end(hold), Verdict::Send);
                    ending.push(hold);
                }
                3 if !ending.is_empty() => {
                    let hold = ending.swap_remove(which.index(ending.len()));
                    let _ = w.finish(&Intent::End { hold }, done());
                }
                4 if !held.is_empty() => {
                    let hold = held.swap_remove(which.index(held.len()));
                    w.push(Push::LeaseLost { work: hold.0, lease: hold.1 });
                    w.leases.abandon(hold);
                }
                5 => {
                    w.leases.on_disconnected(NODE);
                    w.connect();
                }
                _ => {}
            }
            prop_assert!(w.credit[0] + held.len() as u32 <= SLOTS);
            w.write();
            prop_assert_eq!(w.credit[0] + held.len() as u32, SLOTS);
            prop_assert_eq!(w.leases.count(), held.len());
        }
    }
}
