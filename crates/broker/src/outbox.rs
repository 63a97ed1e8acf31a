//! What waits to be sent to one session. Bounded by bytes: a session that reads too slowly is closed, not buffered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coda_protocol::frame::Frame;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::Push;
use coda_protocol::reply::{Answer, Reply, StepState};
use tokio::sync::mpsc;

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

#[derive(Default)]
struct Gauge {
    bytes: AtomicUsize,
    /// Requests that were not answered yet.
    unanswered: AtomicUsize,
    overrun: AtomicBool,
}

#[must_use]
pub fn channel() -> (Outbox, Outgoing) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let gauge = Arc::new(Gauge::default());
    (Outbox { frames: sender, gauge: gauge.clone() }, Outgoing { frames: receiver, gauge })
}

impl Outbox {
    /// Queues a frame; whether the session is still there to get it.
    pub fn send(&self, frame: Frame) -> bool {
        let waiting = self.gauge.bytes.fetch_add(weight(&frame), Ordering::Relaxed);
        if waiting > OUTBOX_BYTES_MAX {
            self.gauge.overrun.store(true, Ordering::Relaxed);
            return false;
        }
        if matches!(frame, Frame::Answer { .. }) {
            self.gauge.unanswered.fetch_sub(1, Ordering::Relaxed);
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

    /// Whether more waited than may wait: the session must be closed.
    #[must_use]
    pub fn is_overrun(&self) -> bool {
        self.gauge.overrun.load(Ordering::Relaxed)
    }
}

impl Outgoing {
    /// Waits for frames and takes up to `max`; none when all senders are gone.
    pub async fn take(&mut self, frames: &mut Vec<Frame>, max: usize) -> usize {
        let taken = self.frames.recv_many(frames, max).await;
        let weights: usize = frames[frames.len() - taken..].iter().map(weight).sum();
        self.gauge.bytes.fetch_sub(weights, Ordering::Relaxed);
        taken
    }
}

/// Roughly how many bytes a frame holds in memory.
fn weight(frame: &Frame) -> usize {
    const ENVELOPE_BYTES: usize = 128;
    let outcome = |outcome: &WorkOutcome| match outcome {
        Ok(payload) => payload.data.len(),
        Err(failure) => failure.message.len() + failure.traceback.len(),
    };
    let payload = match frame {
        Frame::Push(Push::Task(lease)) => lease.args.data.len(),
        Frame::Push(Push::Run(lease)) => lease.input.data.len(),
        Frame::Push(Push::Memo(page)) => page.items.iter().map(|(_, o)| outcome(o) + ENVELOPE_BYTES).sum(),
        Frame::Push(Push::Step(step)) => outcome(&step.outcome),
        Frame::Answer { answer: Answer { result: Ok(reply), .. }, .. } => match reply {
            Reply::Ended(ended) => outcome(ended),
            Reply::Recorded(payload) => payload.data.len(),
            Reply::Spawned(states) => states
                .iter()
                .map(|state| match state {
                    StepState::Pending => 1,
                    StepState::Ended(ended) => outcome(ended),
                })
                .sum(),
            Reply::Done
            | Reply::Started { .. }
            | Reply::Resumed { .. }
            | Reply::Queues(_)
            | Reply::Queue(_)
            | Reply::Run(_)
            | Reply::Task(_)
            | Reply::Node(_) => 0,
        },
        Frame::Push(Push::LeaseLost { .. })
        | Frame::Answer { .. }
        | Frame::Hello { .. }
        | Frame::Welcome(_)
        | Frame::Request { .. } => 0,
    };
    payload + ENVELOPE_BYTES
}
