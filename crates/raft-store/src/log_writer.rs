//! Who writes what waits for the log: a thread of its own; or, in a simulation, a task that lets others go on while the
//! disk works.

use std::io;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::committer::{Desk, or_stop};

/// Takes what waits, batch after batch, until it is stopped.
pub(crate) enum Writer {
    Thread(Mutex<Option<JoinHandle<()>>>),
    #[cfg(feature = "sim")]
    Task(crate::sim::LogTask),
}

impl Writer {
    pub fn start(desk: Desk) -> io::Result<Self> {
        #[cfg(feature = "sim")]
        if let Some(life) = desk.db.workshop().life().cloned() {
            return Ok(Self::Task(crate::sim::LogTask::start(life, desk)));
        }
        let thread = std::thread::Builder::new().name("coda-log".into()).spawn(move || or_stop(|| run(&desk)))?;
        Ok(Self::Thread(Mutex::new(Some(thread))))
    }

    /// Something waits.
    pub fn wake(&self) {
        match self {
            // The queue wakes it.
            Self::Thread(_) => {}
            #[cfg(feature = "sim")]
            Self::Task(task) => task.wake(),
        }
    }

    /// Whether whoever brings something may write it and wait for the disk.
    pub fn may_be_spared(&self) -> bool {
        match self {
            Self::Thread(_) => true,
            #[cfg(feature = "sim")]
            Self::Task(task) => task.may_be_spared(),
        }
    }

    /// Ends it once what waits is written. `tell` puts the word behind that.
    pub fn stop(&self, tell: impl FnOnce()) {
        match self {
            Self::Thread(thread) => {
                if let Some(thread) = thread.lock().take() {
                    tell();
                    let _ = thread.join();
                }
            }
            #[cfg(feature = "sim")]
            Self::Task(task) => {
                tell();
                task.stop();
            }
        }
    }
}

/// The thread's loop: whatever waits becomes one batch.
fn run(desk: &Desk) {
    let mut stop = false;
    while !stop {
        let Ok(job) = desk.queue.recv() else { return };
        let mut committer = desk.committer.lock();
        let found = desk.gather(job);
        stop = found.stop;
        let unsynced = committer.write(found.batch);
        let jobs = unsynced.jobs;
        committer.sync(unsynced);
        desk.written(jobs);
    }
}
