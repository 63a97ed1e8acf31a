//! What is committed travels with the entries that follow.
//!
//! After each commit openraft has something to say to every follower, and nothing to send with it: a message, an answer
//! and two wakes on either side, as much as the entry itself has cost. Under load the next entry is a millisecond away
//! and says the same. So a message without entries waits a moment for one with entries, which then stands for both.
//! Nobody waits for it meanwhile: a leader answers by its own state, and who is elected next finds out by itself what
//! is committed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::Fuse;
use futures::{FutureExt, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Sleep, sleep};

use crate::types::{LogId, Types};

/// How much later than it could a follower learns what is committed, if nothing follows.
pub(crate) const COMMIT_HOLD: Duration = Duration::from_millis(5);

type Request = AppendEntriesRequest<Types>;

/// A leader's requests to one follower, without those that the next one makes needless.
///
/// Openraft does not count answers: the answer to a later request acknowledges all before it.
pub(crate) struct WithCommits<S> {
    requests: Fuse<S>,
    /// The last entry that the follower has, once it has accepted what went out.
    sent: Option<Option<LogId>>,
    held: Option<(Request, Pin<Box<Sleep>>)>,
}

impl<S: Stream<Item = Request> + Unpin> WithCommits<S> {
    pub fn new(requests: S) -> Self {
        Self { requests: requests.fuse(), sent: None, held: None }
    }

    fn pass(&mut self, request: Request) -> Poll<Option<Request>> {
        self.sent = Some(request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id));
        Poll::Ready(Some(request))
    }

    /// Whether a request says nothing but what is committed: one with another position asks whether the follower has it.
    fn is_commit(&self, request: &Request) -> bool {
        request.entries.is_empty() && self.sent == Some(request.prev_log_id)
    }
}

impl<S: Stream<Item = Request> + Unpin> Stream for WithCommits<S> {
    type Item = Request;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let this = &mut *self;
        while let Poll::Ready(next) = this.requests.poll_next_unpin(cx) {
            match next {
                Some(request) if this.is_commit(&request) => match &mut this.held {
                    Some((held, _)) => *held = request,
                    None => this.held = Some((request, Box::pin(sleep(COMMIT_HOLD)))),
                },
                Some(request) => {
                    this.held = None;
                    return this.pass(request);
                }
                // The last word, if there was one; the stream then ends when it is asked again.
                None => return Poll::Ready(this.held.take().map(|(request, _)| request)),
            }
        }
        match &mut this.held {
            Some((_, moment)) => moment.poll_unpin(cx).map(|()| this.held.take().map(|(request, _)| request)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use coda_engine::entry::Entry;
    use futures::channel::mpsc;
    use openraft::EntryPayload;
    use tokio::time::Instant;

    use super::*;
    use crate::rows::LogPoint;
    use crate::types::{Proposal, RaftEntry, Vote, log_id};

    type Sender = mpsc::UnboundedSender<Request>;

    fn at(index: u64) -> Option<LogId> {
        (index > 0).then(|| log_id(LogPoint { term: 1, index }))
    }

    /// A request behind entry `prev` with this many entries, which says that all up to `committed` is.
    fn request(prev: u64, entries: u64, committed: u64) -> Request {
        let entry = |index| RaftEntry {
            log_id: log_id(LogPoint { term: 1, index }),
            payload: EntryPayload::Normal(Proposal::new(Entry::default())),
        };
        let entries = (prev + 1..=prev + entries).map(entry).collect();
        Request { vote: Vote::new_committed(1, 1), prev_log_id: at(prev), entries, leader_commit: at(committed) }
    }

    fn stream() -> (Sender, WithCommits<mpsc::UnboundedReceiver<Request>>) {
        let (sender, requests) = mpsc::unbounded();
        (sender, WithCommits::new(requests))
    }

    /// Where it is, what it carries and what it says is committed.
    fn seen(request: &Request) -> (Option<LogId>, usize, Option<LogId>) {
        (request.prev_log_id, request.entries.len(), request.leader_commit)
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_waits_for_the_entries_that_follow() {
        let (sender, mut stream) = stream();
        sender.unbounded_send(request(0, 1, 0)).unwrap();
        assert_eq!(seen(&stream.next().await.unwrap()), (None, 1, None));
        sender.unbounded_send(request(1, 0, 1)).unwrap();
        assert!(stream.next().now_or_never().is_none());
        sender.unbounded_send(request(1, 2, 1)).unwrap();
        assert_eq!(seen(&stream.next().await.unwrap()), (at(1), 2, at(1)), "which say the same");
        tokio::time::advance(10 * COMMIT_HOLD).await;
        assert!(stream.next().now_or_never().is_none(), "and nothing is left of it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_commit_goes_alone_when_nothing_follows_the_first_in_time() {
        let (sender, mut stream) = stream();
        sender.unbounded_send(request(0, 3, 0)).unwrap();
        stream.next().await.unwrap();
        let held = Instant::now();
        sender.unbounded_send(request(3, 0, 1)).unwrap();
        assert!(stream.next().now_or_never().is_none());
        tokio::time::advance(COMMIT_HOLD / 2).await;
        sender.unbounded_send(request(3, 0, 3)).unwrap();
        assert_eq!(seen(&stream.next().await.unwrap()), (at(3), 0, at(3)));
        // Tokio counts in milliseconds, and rounds up.
        assert!(held.elapsed() <= COMMIT_HOLD + Duration::from_millis(1), "{:?}", held.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_about_the_log_does_not_wait() {
        let (sender, mut stream) = stream();
        sender.unbounded_send(request(4, 0, 2)).unwrap();
        assert_eq!(seen(&stream.next().await.unwrap()), (at(4), 0, at(2)), "the first says where the follower is");
        sender.unbounded_send(request(2, 0, 2)).unwrap();
        assert_eq!(seen(&stream.next().await.unwrap()), (at(2), 0, at(2)), "another position is a question");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_commit_is_said_before_the_end() {
        let (sender, mut stream) = stream();
        sender.unbounded_send(request(0, 1, 0)).unwrap();
        sender.unbounded_send(request(1, 0, 1)).unwrap();
        drop(sender);
        stream.next().await.unwrap();
        assert_eq!(seen(&stream.next().await.unwrap()), (at(1), 0, at(1)));
        assert!(stream.next().await.is_none());
        assert!(stream.next().await.is_none());
    }
}
