//! The power of one node, some, or all of them goes, at one moment, and comes back. What they have not synced is gone.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use rustix::process::Signal;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::needs::Need;
use crate::stage::Stage;

const DARK_MS: std::ops::Range<u64> = 200..3_000;

pub const KINDS: &[Kind] = &[
    Kind {
        name: "power-one",
        about: "the power of a node that leads goes: what it has not synced is gone",
        needs: &[Need::Disks],
        mixes: true,
        make: || Box::new(Power::of(Extent::One)),
    },
    Kind {
        name: "power-some",
        about: "the same of two nodes or more at one moment, but not of all",
        needs: &[Need::Disks, Need::Nodes(3)],
        mixes: false,
        make: || Box::new(Power::of(Extent::Some)),
    },
    Kind {
        name: "power-all",
        about: "the same of all nodes at one moment",
        needs: &[Need::Disks],
        mixes: false,
        make: || Box::new(Power::of(Extent::All)),
    },
];

#[derive(Clone, Copy)]
enum Extent {
    One,
    Some,
    All,
}

struct Power {
    extent: Extent,
    nodes: Vec<u64>,
    /// Where something that was not synced survived.
    lit: Vec<u64>,
}

impl Power {
    fn of(extent: Extent) -> Self {
        Self { extent, nodes: Vec::new(), lit: Vec::new() }
    }
}

impl Nemesis for Power {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let led = match self.extent {
            Extent::One => {
                let (node, led) = stage.leader()?;
                self.nodes = vec![node];
                led
            }
            Extent::Some | Extent::All => {
                let mut nodes = stage.cluster.running();
                if matches!(self.extent, Extent::Some) {
                    nodes.shuffle(&mut stage.chance);
                    let some = stage.chance.random_range(2..nodes.len());
                    nodes.truncate(some);
                }
                self.nodes = nodes;
                stage.led_by(&self.nodes)
            }
        };
        let lasts = Duration::from_millis(stage.chance.random_range(DARK_MS));
        let more = format!("dark for {} ms", lasts.as_millis());
        Some(Plan { nodes: self.nodes.clone(), led, more, lasts, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            // They stand still first, so that all lose their power at one moment of theirs.
            for node in &self.nodes {
                stage.cluster.signal(*node, Signal::STOP)?;
            }
            for node in &self.nodes {
                stage.cluster.disk(*node)?.cut()?;
            }
            for node in &self.nodes {
                stage.cluster.kill(*node).await?;
            }
            for node in &self.nodes {
                if !stage.cluster.disk(*node)?.restore().await? {
                    self.lit.push(*node);
                }
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, Bite> {
        let lit = &self.lit;
        let bite = match lit.is_empty() {
            true => Ok(format!("what was not synced is gone on nodes {:?}", self.nodes)),
            false => Err(format!("what was not synced is still there on nodes {lit:?}")),
        };
        Box::pin(async { Ok(bite) })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move { stage.cluster.start_all(&self.nodes).await })
    }
}
