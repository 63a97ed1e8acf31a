//! The log's writer where there are no threads. What waits becomes a batch as it does on the thread; between its write and
//! its sync, others go on, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::disk::Life;
use crate::committer::{Desk, Unsynced, or_stop};

/// The task's handle.
pub(crate) struct LogTask(Arc<Shared>);

struct Shared {
    life: Life,
    desk: Mutex<Desk>,
    unsynced: Mutex<Option<Unsynced>>,
    wake: Notify,
    stopped: AtomicBool,
}

impl LogTask {
    pub fn start(life: Life, desk: Desk) -> Self {
        let shared = Arc::new(Shared {
            life,
            desk: Mutex::new(desk),
            unsynced: Mutex::default(),
            wake: Notify::new(),
            stopped: AtomicBool::new(false),
        });
        tokio::spawn(run(shared.clone()));
        Self(shared)
    }

    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// A sync that is over at once may be waited for by the thread that serves everybody.
    pub fn may_be_spared(&self) -> bool {
        self.0.life.is_instant()
    }

    /// Writes what waits, without waiting, and ends the task.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.sync();
        while self.0.write() {
            self.0.sync();
        }
        self.wake();
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        if shared.write() {
            shared.life.answer().await;
            shared.sync();
        } else if shared.stopped.load(Ordering::Acquire) {
            return;
        } else {
            shared.wake.notified().await;
        }
    }
}

impl Shared {
    /// Makes one batch of whatever waits; false if nothing does.
    fn write(&self) -> bool {
        let desk = self.desk.lock();
        let Ok(job) = desk.queue.try_recv() else { return false };
        let found = desk.gather(job);
        let unsynced = or_stop(|| desk.committer.lock().write(found.batch));
        *self.unsynced.lock() = Some(unsynced);
        true
    }

    fn sync(&self) {
        let Some(unsynced) = self.unsynced.lock().take() else { return };
        let desk = self.desk.lock();
        let jobs = unsynced.jobs;
        or_stop(|| desk.committer.lock().sync(unsynced));
        desk.written(jobs);
    }
}
