//! Room for large frames while they arrive. A frame that claims megabytes gets none of them before there is room, on its
//! connection and on the node; until then its bytes wait at their sender. Who sends slowly keeps its room for as long as
//! nobody else waits: then the one that has had its room for longest, and for longer than [`INTAKE_GRACE`], loses it and
//! its connection.
//!
//! Frames of up to [`FRAME_INLINE_BYTES_MAX`](coda_protocol::limits::FRAME_INLINE_BYTES_MAX) bytes on the main stream need
//! no room: nobody who sends large ones makes them wait.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::config::{INTAKE_BYTES_MAX, INTAKE_BYTES_PER_CONNECTION_MAX, INTAKE_GRACE};

/// The room of a node. Cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    grace: Duration,
    places: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    /// By number, which is by age.
    rooms: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// What one connection may take of it.
#[derive(Clone)]
pub struct Share {
    intake: Intake,
    places: Arc<Semaphore>,
}

/// Room for one frame, until this is dropped.
pub struct Room {
    intake: Intake,
    number: u64,
    lost: Arc<Notify>,
    _places: [OwnedSemaphorePermit; 2],
}

impl Intake {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::of(clock, INTAKE_BYTES_MAX, INTAKE_GRACE)
    }

    fn of(clock: Arc<dyn Clock>, bytes_max: usize, grace: Duration) -> Self {
        Self(Arc::new(Inner { clock, grace, places: Arc::new(Semaphore::new(bytes_max)), held: Mutex::default() }))
    }

    /// For a new connection.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { intake: self.clone(), places: Arc::new(Semaphore::new(INTAKE_BYTES_PER_CONNECTION_MAX)) }
    }

    /// Somebody waits: the oldest room is taken back, if it is old.
    fn make_room(&self) {
        let held = self.0.held.lock();
        if let Some((since, lost)) = held.rooms.values().next()
            && self.0.clock.instant() >= *since + self.0.grace
        {
            lost.notify_one();
        }
    }
}

impl Share {
    /// Waits for room for a frame of so many bytes, which are no more than the largest frame has.
    pub async fn room(&self, bytes: usize) -> Room {
        const OPEN: &str = "nobody closes it";
        let own = self.places.clone().acquire_many_owned(bytes as u32).await.expect(OPEN);
        let inner = &self.intake.0;
        let mut turn = pin!(inner.places.clone().acquire_many_owned(bytes as u32));
        let common = loop {
            match timeout(inner.grace / 10, &mut turn).await {
                Ok(places) => break places.expect(OPEN),
                Err(_) => self.intake.make_room(),
            }
        };
        let lost = Arc::new(Notify::new());
        let mut held = inner.held.lock();
        let number = held.next;
        held.next += 1;
        held.rooms.insert(number, (inner.clock.instant(), lost.clone()));
        Room { intake: self.intake.clone(), number, lost, _places: [own, common] }
    }
}

impl Room {
    /// Resolves when others wait for it and it was kept for too long.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.intake.0.held.lock().rooms.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::limits::FRAME_BYTES_MAX;

    use super::*;
    use crate::clock::SystemClock;

    const GRACE: Duration = Duration::from_millis(50);
    const SOON: Duration = Duration::from_secs(20);

    /// For three of the largest frames.
    fn small(grace: Duration) -> Intake {
        Intake::of(Arc::new(SystemClock), 3 * FRAME_BYTES_MAX, grace)
    }

    #[tokio::test]
    async fn who_is_slow_keeps_its_room_until_others_wait_and_then_the_oldest_goes_first() {
        let intake = small(GRACE);
        let slow = intake.share();
        let first = slow.room(FRAME_BYTES_MAX).await;
        let second = slow.room(FRAME_BYTES_MAX).await;
        let third = slow.room(FRAME_BYTES_MAX).await;
        assert!(timeout(GRACE * 3, first.lost()).await.is_err(), "nobody waits for it");
        let others = intake.share();
        let mut waiting = pin!(others.room(1));
        let end = timeout(SOON, async {
            tokio::select! {
                _ = &mut waiting => panic!("there is none"),
                () = second.lost() => panic!("it is not the oldest"),
                () = first.lost() => {}
            }
        });
        end.await.unwrap();
        drop(first);
        let got = timeout(SOON, waiting).await.unwrap();
        drop((second, third, got));
        assert!(intake.0.held.lock().rooms.is_empty());
    }

    #[tokio::test]
    async fn room_that_is_new_is_not_taken_away() {
        let intake = small(SOON);
        let share = intake.share();
        let mut rooms = Vec::new();
        for _ in 0..3 {
            rooms.push(share.room(FRAME_BYTES_MAX).await);
        }
        let others = intake.share();
        let waiting = tokio::spawn(async move { others.room(1).await });
        intake.make_room();
        assert!(timeout(GRACE, rooms[0].lost()).await.is_err());
        drop(rooms);
        drop(timeout(SOON, waiting).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn one_connection_waits_for_itself_before_it_keeps_others_waiting() {
        let intake = Intake::of(Arc::new(SystemClock), 2 * INTAKE_BYTES_PER_CONNECTION_MAX, SOON);
        let greedy = intake.share();
        let mut rooms = Vec::new();
        while let Ok(room) = timeout(GRACE, greedy.room(FRAME_BYTES_MAX)).await {
            rooms.push(room);
        }
        assert_eq!(rooms.len(), INTAKE_BYTES_PER_CONNECTION_MAX / FRAME_BYTES_MAX);
        drop(timeout(SOON, intake.share().room(FRAME_BYTES_MAX)).await.unwrap());
    }
}
