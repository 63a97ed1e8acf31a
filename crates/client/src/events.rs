//! A bounded queue between the link and the program: whole batches in, whole batches out, one wake-up each.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::options::EVENTS_MAX;

/// Where a program receives what a link or a worker has to tell. One consumer; dropping it discards what comes.
#[derive(Debug)]
pub struct Events<T>(Arc<Shared<T>>);

/// The sending half.
#[derive(Debug)]
pub(crate) struct EventsIn<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    no_reader: bool,
    no_writer: bool,
}

pub(crate) fn events<T>() -> (EventsIn<T>, Events<T>) {
    let queue = Queue { items: VecDeque::new(), no_reader: false, no_writer: false };
    let shared = Arc::new(Shared { queue: Mutex::new(queue), filled: Notify::new(), drained: Notify::new() });
    (EventsIn(shared.clone()), Events(shared))
}

impl<T> Events<T> {
    /// Moves up to `max` events to the end of `out`, waiting until there is one. 0 means the link is closed and
    /// everything was received. Cancel safe.
    pub async fn recv_many(&mut self, out: &mut Vec<T>, max: usize) -> usize {
        loop {
            let filled = self.0.filled.notified();
            let (taken, over) = self.take(out, max);
            if taken > 0 || over || max == 0 {
                return taken;
            }
            filled.await;
        }
    }

    /// The next event; `None` when the link is closed and everything was received. Cancel safe.
    pub async fn recv(&mut self) -> Option<T> {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one, 1).await;
        one.pop()
    }

    /// As [`Events::recv_many`], without waiting: 0 may also mean that there is nothing yet.
    pub fn try_recv_many(&mut self, out: &mut Vec<T>, max: usize) -> usize {
        self.take(out, max).0
    }

    fn take(&self, out: &mut Vec<T>, max: usize) -> (usize, bool) {
        let mut queue = self.0.queue.lock();
        let was_full = queue.items.len() >= EVENTS_MAX;
        let count = max.min(queue.items.len());
        out.extend(queue.items.drain(..count));
        if was_full && queue.items.len() < EVENTS_MAX {
            self.0.drained.notify_one();
        }
        (count, queue.no_writer && queue.items.is_empty())
    }
}

impl<T> Drop for Events<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.no_reader = true;
        queue.items.clear();
        self.0.drained.notify_one();
    }
}

impl<T> EventsIn<T> {
    /// Appends a batch and empties it. Never waits: whoever produces waits for [`EventsIn::room`] before the next one.
    pub(crate) fn push_all(&self, batch: &mut Vec<T>) {
        if batch.is_empty() {
            return;
        }
        let mut queue = self.0.queue.lock();
        if queue.no_reader {
            drop(queue);
            batch.clear();
            return;
        }
        let was_empty = queue.items.is_empty();
        queue.items.extend(batch.drain(..));
        drop(queue);
        if was_empty {
            self.0.filled.notify_one();
        }
    }

    /// Waits until fewer than [`EVENTS_MAX`] events wait.
    pub(crate) async fn room(&self) {
        loop {
            let drained = self.0.drained.notified();
            if self.has_room() {
                return;
            }
            drained.await;
        }
    }

    fn has_room(&self) -> bool {
        let queue = self.0.queue.lock();
        queue.no_reader || queue.items.len() < EVENTS_MAX
    }

    /// Takes back the events that nobody has received yet and that `pick` picks.
    pub(crate) fn take_back(&self, mut pick: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut queue = self.0.queue.lock();
        let (taken, kept) = queue.items.drain(..).partition::<Vec<_>, _>(|item| pick(item));
        queue.items.extend(kept);
        self.0.drained.notify_one();
        taken
    }

    /// No event follows.
    pub(crate) fn close(&self) {
        self.0.queue.lock().no_writer = true;
        self.0.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_pass_in_order_and_a_full_queue_makes_its_producer_wait() {
        let (sender, mut events) = events();
        sender.push_all(&mut (0..EVENTS_MAX).collect());
        let full = tokio::time::timeout(std::time::Duration::ZERO, sender.room()).await;
        assert!(full.is_err());
        let mut got = Vec::new();
        assert_eq!(events.recv_many(&mut got, 10).await, 10);
        sender.room().await;
        assert_eq!(events.recv_many(&mut got, usize::MAX).await, EVENTS_MAX - 10);
        assert!(got.into_iter().eq(0..EVENTS_MAX));
        sender.close();
        assert_eq!(events.recv().await, None);
    }
}
