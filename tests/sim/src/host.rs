//! One simulated machine: a tokio runtime of its own, with its own clocks and its own chance, on the one thread that all
//! share. It is driven from outside, a tick at a time.
//!
//! What a runtime gives for nothing: dropping it is `kill -9` (no task gets another turn), not driving it is `SIGSTOP`,
//! and driving it more or less often than others is a clock that goes wrong.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::shims::{self, Surroundings};

/// How far time goes at once. Tokio's timers know nothing shorter.
pub const TICK: Duration = Duration::from_millis(1);
/// Drift is so many parts of this.
pub const DRIFT_PARTS: i32 = 1_000;

pub struct Host {
    pub ip: IpAddr,
    runtime: Option<Runtime>,
    surroundings: Surroundings,
    /// Something was begun on it since it started.
    begun: bool,
    paused: bool,
    /// What it has missed while it was paused.
    behind: Duration,
    /// How much faster its clock goes, in parts of [`DRIFT_PARTS`].
    drift: i32,
    /// What drift has added up to, in parts of a tick.
    drifted: i32,
}

impl Host {
    #[must_use]
    pub fn new(name: &'static str, number: u8, ip: IpAddr, seed: u64) -> Self {
        Self {
            ip,
            runtime: None,
            surroundings: Surroundings { name: (name, number), random: seed, wall_ahead_ms: 0 },
            begun: false,
            paused: false,
            behind: Duration::ZERO,
            drift: 0,
            drifted: 0,
        }
    }

    /// Starts the machine, if it is off.
    pub fn boot(&mut self) {
        let runtime = shims::within(&mut self.surroundings, || {
            // Without I/O: there is none in a simulation, and a timer is found sooner.
            Builder::new_current_thread().enable_time().start_paused(true).build()
        });
        self.runtime = Some(runtime.expect("a runtime of one thread needs nothing"));
        self.begun = false;
        self.paused = false;
        self.behind = Duration::ZERO;
    }

    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.runtime.is_some()
    }

    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Begins something on it.
    ///
    /// # Panics
    /// When it is off.
    pub fn spawn<T: Send + 'static>(&mut self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let runtime = self.runtime.as_ref().expect("the host is up");
        self.begun = true;
        shims::within(&mut self.surroundings, || runtime.spawn(task))
    }

    /// Everything on it ends here and now.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            shims::within(&mut self.surroundings, || runtime.shutdown_background());
        }
    }

    /// Looks at something as this host.
    pub fn within<T>(&mut self, look: impl FnOnce() -> T) -> T {
        let runtime = self.runtime.as_ref();
        shims::within(&mut self.surroundings, || {
            let _inside = runtime.map(Runtime::enter);
            look()
        })
    }

    pub fn pause(&mut self) {
        self.paused = self.runtime.is_some();
    }

    pub fn resume(&mut self) {
        self.paused = false;
    }

    pub fn set_drift(&mut self, drift: i32) {
        self.drift = drift.clamp(-DRIFT_PARTS, DRIFT_PARTS);
    }

    /// Moves the wall clock.
    pub fn jump(&mut self, ms: i64) {
        self.surroundings.wall_ahead_ms += ms;
    }

    /// The wall clock is right again.
    pub fn set_wall_clock(&mut self) {
        self.surroundings.wall_ahead_ms = 0;
    }

    /// Lives through one tick of the world's time.
    pub fn tick(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        if self.paused {
            self.behind += TICK;
            return;
        }
        self.drifted += self.drift;
        let ticks = match self.drifted {
            drifted if drifted >= DRIFT_PARTS => 2,
            drifted if drifted <= -DRIFT_PARTS => 0,
            _ => 1,
        };
        self.drifted -= (ticks - 1) * DRIFT_PARTS;
        let behind = std::mem::take(&mut self.behind);
        shims::within(&mut self.surroundings, || {
            runtime.block_on(async {
                if !behind.is_zero() {
                    tokio::time::advance(behind).await;
                }
                match ticks {
                    0 => tokio::task::yield_now().await,
                    ticks => tokio::time::sleep(TICK * ticks.unsigned_abs()).await,
                }
            });
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
