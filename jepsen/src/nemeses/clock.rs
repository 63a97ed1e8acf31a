//! Clocks of some nodes are wrong: they jump, or go to and fro. No promise depends on clocks; only delays may.

use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::clock::FakeClock;
use crate::needs::Need;
use crate::stage::Stage;

const LASTS_MS: std::ops::Range<u64> = 4_000..12_000;
/// Powers of ten: from what nobody notices to some minutes.
const OFF_SECONDS_LOG: std::ops::Range<f64> = -1.0..2.3;
const TO_AND_FRO_MS: std::ops::Range<u64> = 50..400;
/// A clock that is so close to where it was set is there.
const CLOSE_SECONDS: f64 = 0.05;

pub const KINDS: &[Kind] = &[
    kind("clock-jump", "clocks of some nodes jump by up to some minutes, forth or back, and return", || of(false)),
    kind("clock-strobe", "clocks of some nodes go to and fro several times a second", || of(true)),
];

const fn kind(name: &'static str, about: &'static str, make: fn() -> Box<dyn Nemesis>) -> Kind {
    Kind { name, about, needs: &[Need::FakeTime], mixes: true, make }
}

fn of(strobes: bool) -> Box<dyn Nemesis> {
    Box::new(Clock { strobes, off: Vec::new(), strobing: Vec::new() })
}

struct Clock {
    strobes: bool,
    /// Nodes, and by how many seconds their clocks are off.
    off: Vec<(u64, f64)>,
    strobing: Vec<JoinHandle<()>>,
}

impl Nemesis for Clock {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let mut nodes = stage.cluster.running();
        nodes.shuffle(&mut stage.chance);
        let some = stage.chance.random_range(1..=nodes.len());
        nodes.truncate(some);
        let chance = &mut stage.chance;
        let mut draw = |node: u64| {
            let off = 10_f64.powf(chance.random_range(OFF_SECONDS_LOG));
            (node, if chance.random_bool(0.5) { off } else { -off })
        };
        self.off = nodes.iter().map(|node| draw(*node)).collect();
        let lasts = Duration::from_millis(stage.chance.random_range(LASTS_MS));
        let offs: Vec<String> = self.off.iter().map(|(node, off)| format!("node {node} by {off:+.2} s")).collect();
        let more = format!("{} for {} ms", offs.join(", "), lasts.as_millis());
        Some(Plan { led: stage.led_by(&nodes), nodes, more, lasts, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            for (node, off) in &self.off {
                let clock = stage.cluster.clock(*node)?.clone();
                clock.set(*off)?;
                if self.strobes {
                    let chance = StdRng::from_rng(&mut stage.chance);
                    self.strobing.push(tokio::spawn(strobe(clock, *off, chance)));
                }
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            self.strobing.drain(..).for_each(|strobing| strobing.abort());
            let mut down = 0;
            for (node, off) in &self.off {
                // Another fault at the same time may have ended it: nobody is there to see its clock.
                if !stage.cluster.running().contains(node) || stage.cluster.has_fallen(*node) {
                    down += 1;
                    continue;
                }
                let clock = stage.cluster.clock(*node)?;
                clock.set(*off)?;
                if !clock.is_worn_by(stage.cluster.process(*node)?.pid()) {
                    return Ok(Err(format!("node {node} sees the system's clock")));
                }
                let seen = clock.seen()?;
                if (seen - off).abs() > CLOSE_SECONDS {
                    return Ok(Err(format!("the clock of node {node} is off by {seen} s")));
                }
            }
            let down = if down > 0 { format!(", {down} of which are down by now") } else { String::new() };
            Ok(Ok(format!("clocks of {} nodes were off{down}", self.off.len())))
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            for (node, _) in &self.off {
                stage.cluster.clock(*node)?.set(0.0)?;
            }
            Ok(())
        })
    }
}

/// Until it is aborted.
async fn strobe(clock: FakeClock, off: f64, mut chance: StdRng) {
    for turn in 0_u64.. {
        sleep(Duration::from_millis(chance.random_range(TO_AND_FRO_MS))).await;
        if clock.set(if turn % 2 == 0 { 0.0 } else { off }).is_err() {
            return;
        }
    }
}
