//! Who looks at the disk: a task that never waits for it. What may hang is asked on a thread for blocking calls, and a
//! question that stays unanswered is itself an answer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::disk::{Disk, DiskState, Judge, Looked, Seen};
use crate::workshop::Workshop;

/// Between two looks at how much the node's own files take.
const DATA_BYTES_EVERY: Duration = Duration::from_secs(10);
/// How long a look may take before the judge is asked without it.
const LOOK_PATIENCE: Duration = Duration::from_millis(50);

/// Watches a node's disk until it is dropped.
#[derive(Debug)]
pub struct DiskWatch(JoinHandle<()>);

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DiskWatch {
    pub(crate) fn start(disk: Arc<Disk>, workshop: Workshop) -> Self {
        Self(tokio::spawn(watch(disk, workshop)))
    }
}

/// A question to the file system, and when it was put.
struct Look {
    began: Instant,
    answer: JoinHandle<io::Result<Looked>>,
}

async fn watch(disk: Arc<Disk>, workshop: Workshop) {
    let mut judge = Judge::new(disk.options());
    let mut look: Option<Look> = None;
    let mut data_read: Option<Instant> = None;
    loop {
        // One at a time: threads that hang are not to pile up.
        let asked = look.take().unwrap_or_else(|| {
            let began = Instant::now();
            let with_data = data_read.is_none_or(|read| began.duration_since(read) >= DATA_BYTES_EVERY);
            if with_data {
                data_read = Some(began);
            }
            let (disk, workshop) = (disk.clone(), workshop.clone());
            let ask = async move { workshop.run(move || read(&disk, with_data)).await };
            Look { began, answer: tokio::spawn(ask) }
        });
        look = finish(asked, &disk).await;

        let asked = look.as_ref().map(|look| look.began);
        let syncing = disk.syncs().under_way();
        let waiting_since = asked.into_iter().chain(syncing).min();
        let seen = Seen { now: Instant::now(), space: disk.looked().space, waiting_since };
        let state = judge.on(seen);
        if let Some(before) = disk.publish(state) {
            tell(before, state, &disk);
        }
        tokio::time::sleep(judge.next_look(&seen, disk.options().check_every)).await;
    }
}

/// Takes the answer if it comes in time; else the question is put off.
async fn finish(mut look: Look, disk: &Disk) -> Option<Look> {
    let Ok(answer) = tokio::time::timeout(LOOK_PATIENCE, &mut look.answer).await else { return Some(look) };
    if let Ok(Ok(looked)) = answer {
        disk.set_looked(looked);
    }
    None
}

/// Blocks.
fn read(disk: &Disk, with_data: bool) -> Looked {
    let before = disk.looked();
    let space = disk.options().probe.space(disk.dir());
    if let Err(error) = &space
        && !before.failed
    {
        tracing::warn!(%error, dir = %disk.dir().display(), "CODA4153 how much is free on the disk cannot be read");
    }
    Looked {
        failed: space.is_err(),
        // What was known is too old to refuse writes by.
        space: space.ok(),
        data_bytes: if with_data { disk.options().probe.data_bytes(disk.dir()) } else { before.data_bytes },
    }
}

fn tell(before: DiskState, now: DiskState, disk: &Disk) {
    let dir = disk.dir().display();
    match (before, now) {
        (DiskState::Full { .. }, DiskState::Full { .. }) => {}
        (_, DiskState::Full { free_bytes, reserve_bytes }) => {
            tracing::error!(%dir, free_bytes, reserve_bytes, "CODA4150 the disk is full, writes are refused");
        }
        (_, DiskState::Hung { since }) => {
            let waited_ms = since.elapsed().as_millis() as u64;
            tracing::error!(%dir, waited_ms, "CODA4151 the disk does not answer");
        }
        (DiskState::Full { .. }, DiskState::Good) => tracing::info!(%dir, "the disk has room again"),
        (DiskState::Hung { .. } | DiskState::Good, DiskState::Good) => tracing::info!(%dir, "the disk answers again"),
    }
}
