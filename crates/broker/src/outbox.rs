//! What waits to be sent to one session. Bounded by bytes: a session that reads too slowly is closed, not buffered.
//!
//! A frame counts until its bytes were handed to the connection, which takes no more than the peer's windows allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coda_protocol::frame::Frame;
use coda_protocol::payload::{Failure, WorkOutcome, outcome_bytes};
use coda_protocol::push::Push;
use coda_protocol::reply::{Answer, Reply, StepState};
use tokio::sync::{Notify, mpsc};

use crate::config::OUTBOX_BYTES_MAX;

/// Sends frames towards a session. Cheap to clone; sending never waits.
#[derive(Clone)]
pub struct Outbox {
    frames: mpsc::UnboundedSender<Frame>,
    gauge: Arc<Gauge>,
}

/// The writer's end.
pub struct Outgoing {
    frames: mpsc::UnboundedReceiver<Frame>,
    gauge: Arc<Gauge>,
}

/// The bytes of frames on their way from the outbox to the connection. They count until this is dropped.
pub struct InTransit {
    gauge: Arc<Gauge>,
    bytes: usize,
}

#[derive(Default)]
struct Gauge {
    bytes: AtomicUsize,
    /// Requests that were not answered yet.
    unanswered: AtomicUsize,
    overrun: AtomicBool,
    overran: Notify,
    closed: AtomicBool,
}

#[must_use]
pub fn channel() -> (Outbox, Outgoing) {
    #[expect(clippy::disallowed_methods, reason = "bounded by the bytes that the gauge counts, not by frames")]
    let (sender, receiver) = mpsc::unbounded_channel();
    let gauge = Arc::new(Gauge::default());
    (Outbox { frames: sender, gauge: gauge.clone() }, Outgoing { frames: receiver, gauge })
}

impl Outbox {
    /// Queues a frame; whether the session is still there to get it.
    pub fn send(&self, frame: Frame) -> bool {
        let gauge = &self.gauge;
        if matches!(frame, Frame::Answer { .. }) {
            gauge.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        // Once a frame is missing, those behind it would tell a false story.
        if self.is_closed() {
            return false;
        }
        let waiting = gauge.bytes.fetch_add(weight(&frame), Ordering::Relaxed);
        if waiting > OUTBOX_BYTES_MAX {
            gauge.overrun.store(true, Ordering::SeqCst);
            gauge.overran.notify_one();
            return false;
        }
        self.frames.send(frame).is_ok()
    }

    pub fn push(&self, push: Push) -> bool {
        self.send(Frame::Push(push))
    }

    /// Counts a request that will be answered; how many there are now.
    pub fn expect_answer(&self) -> usize {
        self.gauge.unanswered.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The connection is gone or will be. Comes before its traces are cleared away, so that whoever leaves a new one
    /// can see it and clear it away himself.
    pub fn close(&self) {
        self.gauge.closed.store(true, Ordering::SeqCst);
    }

    /// Whether nothing will be sent any more: nobody needs to look up an answer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.gauge.closed.load(Ordering::SeqCst) || self.gauge.overrun.load(Ordering::SeqCst)
    }
}

impl Outgoing {
    /// Waits for frames and takes up to `max`; none when all senders are gone.
    pub async fn take(&mut self, frames: &mut Vec<Frame>, max: usize) -> usize {
        self.frames.recv_many(frames, max).await
    }

    /// A frame that was taken is on its way.
    #[must_use]
    pub fn transit(&self, frame: &Frame) -> InTransit {
        InTransit { gauge: self.gauge.clone(), bytes: weight(frame) }
    }

    /// Resolves when more waits than may wait: the session must be closed.
    pub fn overrun(&self) -> impl Future<Output = ()> + Send + 'static {
        let gauge = self.gauge.clone();
        async move { gauge.overran.notified().await }
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        self.gauge.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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
            Reply::Queues(queues) => queues.len() * ROW_BYTES,
            Reply::Queue(queue) => queue.lanes.len() * ROW_BYTES,
            Reply::Run(run) => {
                let steps = run.steps.iter().map(|step| failed(&step.last_failure) + ROW_BYTES);
                ended(&run.outcome) + steps.sum::<usize>()
            }
            Reply::Task(task) => ended(&task.outcome) + failed(&task.last_failure),
            Reply::Done | Reply::Started { .. } | Reply::Node(_) => 0,
        },
        Frame::Push(Push::LeaseLost { .. })
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
        let (outbox, mut outgoing) = channel();
        outbox.expect_answer();
        outbox.send(result(1_000));
        let mut frames = Vec::new();
        assert_eq!(outgoing.take(&mut frames, 9).await, 1);
        let transit = outgoing.transit(&frames[0]);
        drop(frames);
        assert!(waiting(&outbox) >= 1_000, "a slow stream holds them still");
        drop(transit);
        assert_eq!(waiting(&outbox), 0);
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_noticed_at_the_bound_without_asking_anything_more() {
        let (outbox, outgoing) = channel();
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

    #[test]
    fn a_closed_outbox_takes_nothing() {
        let (outbox, _outgoing) = channel();
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
