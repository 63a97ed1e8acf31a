//! Workers that run beside the test, and what they count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coda_client::{ClientError, WorkerBuilder};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::soon;

/// A worker that runs until it is stopped.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ClientError>>,
}

#[must_use]
pub fn run(worker: WorkerBuilder) -> Running {
    let worker = worker.build().expect("a worker");
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(worker.run_until(async move { drop(stopped.await) }));
    Running { stop, task }
}

impl Running {
    /// Drains and stops.
    pub async fn stop(self) {
        drop(self.stop);
        soon("the worker drains", self.task).await.expect("no panic").expect("worked");
    }
}

/// How often something was called, and with what.
#[derive(Clone, Default)]
pub struct Calls {
    count: Arc<AtomicUsize>,
    with: Arc<Mutex<Vec<u64>>>,
}

impl Calls {
    /// Counts a call; which it is, from 1.
    pub fn call(&self, with: u64) -> usize {
        self.with.lock().push(with);
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    #[must_use]
    pub fn sorted(&self) -> Vec<u64> {
        let mut with = self.with.lock().clone();
        with.sort_unstable();
        with
    }
}
