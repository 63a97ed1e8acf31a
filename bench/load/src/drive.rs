//! Repeats a workload's piece at a given concurrency, and remembers how long each took.
//!
//! A closed loop: the next piece starts when one has ended. Latencies are those of a system that is as busy as it can
//! be at this concurrency, and a stall delays the pieces that would have come; W6 measures an idle system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use hdrhistogram::Histogram;

use crate::args::Until;
use crate::workloads::{Asker, Sample};

const LONGEST_US: u64 = 600_000_000;
const DIGITS: u8 = 3;

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

pub struct Measured {
    pub count: u64,
    pub wall: Duration,
    pub accepted: Latencies,
    pub began: Latencies,
    pub ended: Latencies,
    /// How long submitting alone took, where it is a phase of its own.
    pub submitting: Option<Duration>,
}

impl Measured {
    fn new() -> anyhow::Result<Self> {
        let none = || Latencies::new_with_bounds(1, LONGEST_US, DIGITS);
        let (accepted, began, ended) = (none()?, none()?, none()?);
        Ok(Self { count: 0, wall: Duration::ZERO, accepted, began, ended, submitting: None })
    }

    fn note(&mut self, sample: Sample) {
        self.count += 1;
        note(&mut self.accepted, sample.accepted);
        note(&mut self.ended, sample.ended);
        if let Some(began) = sample.began {
            note(&mut self.began, began);
        }
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.count += other.count;
        self.accepted.add(&other.accepted)?;
        self.began.add(&other.began)?;
        self.ended.add(&other.ended)?;
        Ok(())
    }
}

fn note(latencies: &mut Latencies, took: Duration) {
    latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US));
}

/// Keeps `concurrency` pieces in flight until it is over.
pub async fn closed_loop(asker: &Arc<Asker>, concurrency: usize, until: Until) -> anyhow::Result<Measured> {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let one = || {
        let (asker, next) = (asker.clone(), next.clone());
        tokio::spawn(async move {
            let mut mine = Measured::new()?;
            while until.duration.is_none_or(|duration| started.elapsed() < duration) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if until.n.is_some_and(|n| i >= n) {
                    break;
                }
                mine.note(asker.once(i).await?);
            }
            anyhow::Ok(mine)
        })
    };
    let tasks: Vec<_> = (0..concurrency).map(|_| one()).collect();
    let mut all = Measured::new()?;
    for measured in try_join_all(tasks).await? {
        all.add(&measured?)?;
    }
    all.wall = started.elapsed();
    Ok(all)
}

/// Submits everything, then fetches everything: a queue with a backlog.
pub async fn backlog(asker: &Arc<Asker>, concurrency: usize, n: u64) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let lane = |first: usize| {
        let asker = asker.clone();
        tokio::spawn(async move {
            let mut tasks = Vec::new();
            for i in (first as u64..n).step_by(concurrency) {
                let asked = Instant::now();
                let task = asker.submit(i).await?;
                tasks.push((i, asked, asked.elapsed(), task));
            }
            anyhow::Ok(tasks)
        })
    };
    let mut submitted = Vec::new();
    for tasks in try_join_all((0..concurrency).map(lane).collect::<Vec<_>>()).await? {
        submitted.push(tasks?);
    }
    let submitting = started.elapsed();
    let fetch = |tasks: Vec<(u64, Instant, Duration, coda_client::TaskHandle)>| {
        tokio::spawn(async move {
            let mut mine = Measured::new()?;
            for (i, asked, accepted, task) in tasks {
                Asker::fetch(i, &task).await?;
                mine.note(Sample { accepted, began: None, ended: asked.elapsed() });
            }
            anyhow::Ok(mine)
        })
    };
    let mut all = Measured::new()?;
    for measured in try_join_all(submitted.into_iter().map(fetch).collect::<Vec<_>>()).await? {
        all.add(&measured?)?;
    }
    all.wall = started.elapsed();
    all.submitting = Some(submitting);
    Ok(all)
}
