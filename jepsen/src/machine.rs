//! What the machine had left for the suite. A bound on time that was missed says nothing of the cluster if the suite itself
//! was stopped meanwhile; and where processes waited for a processor, a finding says so.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::moment::Moment;

const TICK: Duration = Duration::from_millis(100);
/// Whoever looks at the clock so seldom did not run: a suite that was suspended, or a machine that was.
pub const STANDS_STILL_FROM: Duration = Duration::from_secs(2);
/// For how long somebody has waited for a processor since the machine was started, as the kernel counts it.
const PRESSURE: &str = "/proc/pressure/cpu";

/// Looks at the clock as often as it can, until it is dropped.
pub struct Machine {
    longest_us: Arc<AtomicU64>,
    looking: JoinHandle<()>,
}

impl Machine {
    pub fn watched() -> Self {
        let longest_us = Arc::new(AtomicU64::new(0));
        let longest = longest_us.clone();
        let looking = tokio::spawn(async move {
            let mut before = Moment::now();
            loop {
                sleep(TICK).await;
                let now = Moment::now();
                longest.fetch_max(now.since(before).saturating_sub(TICK).as_micros() as u64, Ordering::Relaxed);
                before = now;
            }
        });
        Self { longest_us, looking }
    }

    /// The longest time in which this process did not run, though it wanted to.
    pub fn stood_still(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// For how long some process has waited for a processor, if the kernel counts it.
pub fn waited_for_cpu() -> Option<Duration> {
    total(&fs::read_to_string(PRESSURE).ok()?)
}

fn total(pressure: &str) -> Option<Duration> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let us = some.split(' ').find_map(|field| field.strip_prefix("total="))?;
    us.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=97.29 avg60=57.23 avg300=17.74 total=14320832\nfull avg10=0.00 avg60=0.00 total=7\n";
        assert_eq!(total(text), Some(Duration::from_micros(14_320_832)));
        assert_eq!((total(""), total("some avg10=1"), total("full total=7")), (None, None, None));
    }

    #[tokio::test]
    async fn a_process_that_runs_does_not_stand_still() {
        let machine = Machine::watched();
        sleep(TICK * 3).await;
        assert!(machine.stood_still() < STANDS_STILL_FROM, "{:?}", machine.stood_still());
    }
}
