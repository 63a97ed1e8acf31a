//! What waits to be sent to one session. Bounded by bytes: a session that reads too slowly is closed, not buffered.
//!
//! A frame counts until its bytes were handed to the connection, which takes no more than the peer's windows allow.
//! Memos, which have no bound of their own, get a small part of it, and wait to be read until there is room in that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coda_protocol::frame::Frame;
use coda_protocol::ids::{LeaseId, RunId};
use coda_protocol::limits::FRAME_BYTES_MAX;
use coda_protocol::operate::{ClusterReply, MemberReport};
use coda_protocol::payload::{Failure, WorkOutcome, outcome_bytes};
use coda_protocol::push::{MemoPage, Push};
use coda_protocol::reply::{Answer, LaneList, QueueDescription, QueuePage, Reply, StepState};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::{
    LEASE_WINDOW_BYTES_MAX, MEMO_WINDOW_BYTES_MAX, OUTBOX_BYTES_MAX, OUTBOX_CROWDED_BYTES_MAX, OUTBOXES_BYTES_MAX,
};

/// Sends frames towards a session. Cheap to clone; sending never waits.
#[derive(Clone)]
pub struct Outbox {
    frames: mpsc::UnboundedSender<Queued>,
    gauge: Arc<Gauge>,
}

/// The writer's end.
pub struct Outgoing {
    frames: mpsc::UnboundedReceiver<Queued>,
    gauge: Arc<Gauge>,
}

/// A frame that waits for the writer.
pub struct Queued {
    pub frame: Frame,
    room: Option<MemoRoom>,
}

/// Room for pages of a memo in bytes, until this is dropped.
pub struct MemoRoom(OwnedSemaphorePermit);

/// The bytes of frames on their way from the outbox to the connection. They count until this is dropped.
pub struct InTransit {
    gauge: Arc<Gauge>,
    bytes: usize,
    _room: Option<MemoRoom>,
}

/// What waits to be sent to all sessions of a node. Cheap to clone.
#[derive(Clone, Default)]
pub struct Outboxes(Arc<AtomicUsize>);

struct Gauge {
    bytes: AtomicUsize,
    all: Outboxes,
    /// Requests that were not answered yet.
    unanswered: AtomicUsize,
    overrun: AtomicBool,
    overran: Notify,
    /// Notified when less than [`CAUGHT_UP_BYTES`] wait again, and at the end.
    drained: Notify,
    closed: AtomicBool,
    /// Bytes that are left for pages of memos.
    memo_room: Arc<Semaphore>,
    /// Runs whose memo is on its way, and whether it is wanted once more.
    memos: Mutex<BTreeMap<(RunId, LeaseId), bool>>,
}

/// What may wait of a session that was behind when it is leased work again.
const CAUGHT_UP_BYTES: usize = LEASE_WINDOW_BYTES_MAX / 2;

impl Gauge {
    /// Nobody needs to wait any more.
    fn end(&self) {
        self.memo_room.close();
        self.drained.notify_waiters();
    }
}

impl Gauge {
    fn new(all: Outboxes) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            all,
            unanswered: AtomicUsize::new(0),
            overrun: AtomicBool::new(false),
            overran: Notify::new(),
            drained: Notify::new(),
            closed: AtomicBool::new(false),
            memo_room: Arc::new(Semaphore::new(MEMO_WINDOW_BYTES_MAX)),
            memos: Mutex::default(),
        }
    }
}

/// What was never taken is gone with the last who could have.
impl Drop for Gauge {
    fn drop(&mut self) {
        self.all.0.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[must_use]
pub fn channel(all: &Outboxes) -> (Outbox, Outgoing) {
    #[expect(clippy::disallowed_methods, reason = "bounded by the bytes that the gauge counts, not by frames")]
    let (sender, receiver) = mpsc::unbounded_channel();
    let gauge = Arc::new(Gauge::new(all.clone()));
    (Outbox { frames: sender, gauge: gauge.clone() }, Outgoing { frames: receiver, gauge })
}

impl Outbox {
    /// Queues a frame; whether the session is still there to get it.
    pub fn send(&self, frame: Frame) -> bool {
        self.queue(Queued { frame, room: None })
    }

    fn queue(&self, queued: Queued) -> bool {
        let frame = &queued.frame;
        let gauge = &self.gauge;
        if matches!(frame, Frame::Answer { .. }) {
            gauge.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        // Once a frame is missing, those behind it would tell a false story.
        if self.is_closed() {
            return false;
        }
        let bytes = weight(frame);
        let waiting = gauge.bytes.fetch_add(bytes, Ordering::Relaxed);
        let crowded = gauge.all.0.fetch_add(bytes, Ordering::Relaxed) > OUTBOXES_BYTES_MAX;
        if waiting > OUTBOX_BYTES_MAX || crowded && waiting > OUTBOX_CROWDED_BYTES_MAX {
            gauge.overrun.store(true, Ordering::SeqCst);
            gauge.overran.notify_one();
            gauge.end();
            return false;
        }
        self.frames.send(queued).is_ok()
    }

    pub fn push(&self, push: Push) -> bool {
        self.send(Frame::Push(push))
    }

    /// Whether a memo has to be read for it: if it is on its way already, it will be sent once more behind that.
    pub fn want_memo(&self, run: RunId, lease: LeaseId) -> bool {
        match self.gauge.memos.lock().entry((run, lease)) {
            Entry::Vacant(none) => {
                none.insert(false);
                true
            }
            Entry::Occupied(mut again) => {
                again.insert(true);
                false
            }
        }
    }

    /// Room for the largest page. `None` when there is none at the moment, or never will be.
    #[must_use]
    pub fn try_memo_room(&self) -> Option<MemoRoom> {
        self.gauge.memo_room.clone().try_acquire_many_owned(FRAME_BYTES_MAX as u32).ok().map(MemoRoom)
    }

    /// Waits for room for the largest page; each of several memos gets its turn. `None` when the connection is gone.
    pub async fn memo_room(&self) -> Option<MemoRoom> {
        self.gauge.memo_room.clone().acquire_many_owned(FRAME_BYTES_MAX as u32).await.ok().map(MemoRoom)
    }

    /// Queues a page, which keeps what it needs of the room.
    pub fn push_memo(&self, page: MemoPage, room: MemoRoom) -> bool {
        let frame = Frame::Push(Push::Memo(page));
        let MemoRoom(mut room) = room;
        let spare = room.num_permits().saturating_sub(weight(&frame));
        drop(room.split(spare));
        self.queue(Queued { frame, room: Some(MemoRoom(room)) })
    }

    /// The memo is sent, or nobody needs it; whether it is wanted once more.
    pub fn memo_sent(&self, run: RunId, lease: LeaseId) -> bool {
        let mut memos = self.gauge.memos.lock();
        let again = memos.remove(&(run, lease)) == Some(true);
        if again {
            memos.insert((run, lease), false);
        }
        again
    }

    /// Whether so much waits that no more work should be leased to it.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.bytes() > LEASE_WINDOW_BYTES_MAX
    }

    /// Resolves when half of that has been sent, or nothing will be.
    pub async fn caught_up(&self) {
        loop {
            let mut drained = pin!(self.gauge.drained.notified());
            drained.as_mut().enable();
            if self.is_closed() || self.bytes() <= CAUGHT_UP_BYTES {
                return;
            }
            drained.await;
        }
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.gauge.bytes.load(Ordering::Relaxed)
    }

    /// Counts a request that will be answered; how many there are now.
    pub fn expect_answer(&self) -> usize {
        self.gauge.unanswered.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The connection is gone or will be. Comes before its traces are cleared away, so that whoever leaves a new one
    /// can see it and clear it away himself.
    pub fn close(&self) {
        self.gauge.closed.store(true, Ordering::SeqCst);
        self.gauge.end();
    }

    /// Whether nothing will be sent any more: nobody needs to look up an answer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.gauge.closed.load(Ordering::SeqCst) || self.gauge.overrun.load(Ordering::SeqCst)
    }
}

impl Outgoing {
    /// Waits for frames and takes up to `max`; none when all senders are gone.
    pub async fn take(&mut self, frames: &mut Vec<Queued>, max: usize) -> usize {
        self.frames.recv_many(frames, max).await
    }

    /// A frame that was taken is on its way.
    #[must_use]
    pub fn transit(&self, queued: Queued) -> (Frame, InTransit) {
        let Queued { frame, room } = queued;
        let transit = InTransit { gauge: self.gauge.clone(), bytes: weight(&frame), _room: room };
        (frame, transit)
    }

    /// Resolves when more waits than may wait: the session must be closed.
    pub fn overrun(&self) -> impl Future<Output = ()> + Send + 'static {
        let gauge = self.gauge.clone();
        async move { gauge.overran.notified().await }
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        let before = self.gauge.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.gauge.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        if before > CAUGHT_UP_BYTES && before.saturating_sub(self.bytes) <= CAUGHT_UP_BYTES {
            self.gauge.drained.notify_waiters();
        }
    }
}

/// Roughly how many bytes a frame holds in memory.
fn weight(frame: &Frame) -> usize {
    const ENVELOPE_BYTES: usize = 128;
    const ROW_BYTES: usize = 256;
    let ended = |outcome: &Option<WorkOutcome>| outcome.as_ref().map_or(0, outcome_bytes);
    let failed = |failure: &Option<Failure>| failure.as_ref().map_or(0, Failure::bytes);
    let payload = match frame {
        Frame::Push(Push::Task(lease)) => lease.args.data.len(),
        Frame::Push(Push::Run(lease)) => lease.input.data.len(),
        Frame::Push(Push::Memo(page)) => page.items.iter().map(|(_, o)| outcome_bytes(o) + ROW_BYTES).sum(),
        Frame::Push(Push::Step(step)) => outcome_bytes(&step.outcome),
        Frame::Answer { answer: Answer { result: Ok(reply), .. }, .. } => match reply {
            Reply::Ended(outcome) => outcome_bytes(outcome),
            Reply::Recorded(payload) => payload.data.len(),
            Reply::Spawned(states) => states
                .iter()
                .map(|state| match state {
                    StepState::Pending => 1,
                    StepState::Ended(outcome) => outcome_bytes(outcome),
                })
                .sum(),
            Reply::Resumed { lost } => lost.len() * size_of::<u64>(),
            Reply::Queues(queues) | Reply::QueuePage(QueuePage { queues, .. }) => {
                queues.iter().map(|row| row.queue.len() + ROW_BYTES).sum()
            }
            Reply::Queue(QueueDescription { lanes, .. }) | Reply::Lanes(LaneList { lanes, .. }) => {
                lanes.iter().map(|row| row.name.len() + ROW_BYTES).sum()
            }
            Reply::Run(run) => {
                let steps = run.steps.iter().map(|step| failed(&step.last_failure) + step.name.len() + ROW_BYTES);
                ended(&run.outcome) + steps.sum::<usize>()
            }
            Reply::Task(task) => ended(&task.outcome) + failed(&task.last_failure),
            Reply::Cluster(ClusterReply::Cluster(report)) => {
                let replicas = |member: &MemberReport| member.report.as_ref().map_or(0, |node| node.replicas.len());
                report.members.iter().map(|member| (replicas(member) + 1) * ROW_BYTES).sum()
            }
            Reply::Cluster(_) => ROW_BYTES,
            Reply::Done
            | Reply::Started { .. }
            | Reply::Node(_)
            | Reply::TokenCreated { .. }
            | Reply::Withdrawn { .. } => 0,
        },
        Frame::Push(Push::Map(map)) => {
            map.nodes.iter().map(|node| node.client_addr.len() + ROW_BYTES).sum::<usize>()
                + map.groups.len() * ROW_BYTES
                + map.slots.ranges().count() * size_of::<u64>()
        }
        Frame::Push(
            Push::LeaseLost { .. } | Push::MemoEnd { .. } | Push::Leader(_) | Push::Wants(_) | Push::Outside,
        )
        | Frame::Answer { .. }
        | Frame::Hello { .. }
        | Frame::Welcome(_)
        | Frame::Request { .. } => 0,
    };
    payload + ENVELOPE_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coda_protocol::ids::Position;
    use coda_protocol::payload::Payload;
    use tokio::time::timeout;

    use super::*;

    fn result(bytes: usize) -> Frame {
        let reply = Reply::Ended(Ok(Payload::json(vec![b'7'; bytes])));
        Frame::Answer { id: 1, answer: Answer { position: Position::default(), result: Ok(reply) } }
    }

    fn waiting(outbox: &Outbox) -> usize {
        outbox.gauge.bytes.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn bytes_count_until_the_connection_has_them_and_not_only_until_the_writer_has_them() {
        let (outbox, mut outgoing) = channel(&Outboxes::default());
        outbox.expect_answer();
        outbox.send(result(1_000));
        let mut frames = Vec::new();
        assert_eq!(outgoing.take(&mut frames, 9).await, 1);
        let transit = outgoing.transit(frames.remove(0)).1;
        assert!(waiting(&outbox) >= 1_000, "a slow stream holds them still");
        drop(transit);
        assert_eq!(waiting(&outbox), 0);
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_noticed_at_the_bound_without_asking_anything_more() {
        let (outbox, outgoing) = channel(&Outboxes::default());
        let overrun = outgoing.overrun();
        let sent = (0..100).take_while(|_| {
            outbox.expect_answer();
            outbox.send(result(4 << 20))
        });
        let sent = sent.count();
        assert!((31..=33).contains(&sent), "{sent}");
        assert!(outbox.is_closed());
        assert!(!outbox.push(Push::Task(task())), "nothing follows a frame that is missing");
        timeout(Duration::from_secs(5), overrun).await.unwrap();
        assert!(waiting(&outbox) < OUTBOX_BYTES_MAX + (10 << 20));
    }

    #[tokio::test]
    async fn a_session_that_was_behind_has_caught_up_when_half_has_gone_or_it_has() {
        let (outbox, mut outgoing) = channel(&Outboxes::default());
        while !outbox.is_behind() {
            outbox.expect_answer();
            assert!(outbox.send(result(1 << 20)));
        }
        let mut caught_up = pin!(outbox.caught_up());
        let mut frames = Vec::new();
        outgoing.take(&mut frames, 16).await;
        let mut transits: Vec<_> = frames.into_iter().map(|queued| outgoing.transit(queued).1).collect();
        assert!(timeout(Duration::from_millis(1), &mut caught_up).await.is_err());
        transits.clear();
        assert!(timeout(Duration::from_millis(1), &mut caught_up).await.is_err(), "more than half waits still");
        let mut frames = Vec::new();
        outgoing.take(&mut frames, 2).await;
        drop(frames.into_iter().map(|queued| outgoing.transit(queued)).collect::<Vec<_>>());
        timeout(Duration::from_secs(5), &mut caught_up).await.unwrap();
        while !outbox.is_behind() {
            outbox.expect_answer();
            outbox.send(result(1 << 20));
        }
        let (gone, ()) = tokio::join!(timeout(Duration::from_secs(5), outbox.caught_up()), async { outbox.close() });
        gone.unwrap();
    }

    #[tokio::test]
    async fn of_many_that_do_not_read_those_with_the_most_go_first_and_others_stay() {
        let all = Outboxes::default();
        let payload = result(4 << 20);
        let mut slow: Vec<_> = (0..40).map(|_| channel(&all)).collect();
        for _ in 0..31 {
            for (outbox, _) in &slow {
                outbox.expect_answer();
                outbox.send(payload.clone());
            }
        }
        assert!(slow.iter().all(|(outbox, _)| outbox.is_closed()));
        let bound = OUTBOXES_BYTES_MAX + slow.len() * (OUTBOX_CROWDED_BYTES_MAX + (8 << 20));
        let waiting = all.0.load(Ordering::Relaxed);
        assert!((OUTBOXES_BYTES_MAX..bound).contains(&waiting), "{waiting}");
        let (modest, outgoing) = channel(&all);
        modest.expect_answer();
        assert!(modest.send(payload), "it has no more than it needs");
        slow.clear();
        drop((modest, outgoing));
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_closed_outbox_takes_nothing() {
        let (outbox, _outgoing) = channel(&Outboxes::default());
        outbox.close();
        assert!(!outbox.push(Push::Task(task())));
        assert_eq!(waiting(&outbox), 0);
    }

    fn task() -> coda_protocol::push::TaskLease {
        coda_protocol::push::TaskLease {
            task: coda_protocol::ids::TaskId([1; 16]),
            lease: coda_protocol::ids::LeaseId(1),
            queue: "q".into(),
            name: "n".into(),
            args: Payload::json("1"),
            attempt: 1,
            retries_left: 0,
            run: None,
        }
    }
}
