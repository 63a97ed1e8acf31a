//! Majorities that share one node, which loses its power in between. Of a group on A, B and C, first A is away while B and C
//! acknowledge; then B loses its power; then C is away while A and B go on. What B had acknowledged without syncing it is
//! gone now with one power cut, and A never had it.

use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::needs::Need;
use crate::network::Host;
use crate::stage::Stage;

/// Long enough that others lead what A led, and acknowledge.
const FIRST_AWAY_MS: std::ops::Range<u64> = 3_000..6_000;
const LASTS_MS: std::ops::Range<u64> = 4_000..8_000;
const NEEDS: &[Need] = &[Need::Network, Need::Disks, Need::Nodes(3)];

pub const KINDS: &[Kind] = &[
    kind("handover-partition", "one node cut off, another loses its power, then a third is cut off instead", || {
        of(false)
    }),
    kind("handover-pause", "the same with nodes that stand still instead of being cut off", || of(true)),
];

const fn kind(name: &'static str, about: &'static str, make: fn() -> Box<dyn Nemesis>) -> Kind {
    Kind { name, about, needs: NEEDS, mixes: false, make }
}

fn of(pauses: bool) -> Box<dyn Nemesis> {
    Box::new(Handover { pauses, parts: [0; 3], away_first: Duration::ZERO, cut_before: 0, is_dark: false })
}

struct Handover {
    pauses: bool,
    /// A, B and C.
    parts: [u64; 3],
    away_first: Duration,
    cut_before: u64,
    is_dark: bool,
}

impl Nemesis for Handover {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let groups: Vec<(u32, Vec<u64>)> = stage.voters().into_iter().filter(|(_, nodes)| nodes.len() >= 3).collect();
        let (group, mut nodes) = groups.choose(&mut stage.chance)?.clone();
        nodes.shuffle(&mut stage.chance);
        self.parts = *nodes.first_chunk()?;
        self.away_first = Duration::from_millis(stage.chance.random_range(FIRST_AWAY_MS));
        let lasts = Duration::from_millis(stage.chance.random_range(LASTS_MS));
        let [a, b, c] = self.parts;
        let more = format!(
            "of group {group}, {a} away for {} ms, {b} dark, {c} away for {} ms",
            self.away_first.as_millis(),
            lasts.as_millis()
        );
        Some(Plan { led: stage.led_by(&self.parts), nodes: self.parts.to_vec(), more, lasts, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            let [a, b, c] = self.parts;
            self.cut_before = stage.cluster.network()?.count().cut;
            self.away(stage, a, true)?;
            sleep(self.away_first).await;
            stage.cluster.signal(b, Signal::STOP)?;
            stage.cluster.disk(b)?.cut()?;
            stage.cluster.kill(b).await?;
            self.is_dark = stage.cluster.disk(b)?.restore().await?;
            // Nobody is there now who knows all that was acknowledged, but C. What comes back must not see it: of two cuts the
            // later holds, where both are of one link.
            if self.pauses {
                self.away(stage, c, true)?;
                self.away(stage, a, false)?;
            } else {
                self.away(stage, a, false)?;
                self.away(stage, c, true)?;
            }
            stage.cluster.start(b).await
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            let [_, b, c] = self.parts;
            if !self.is_dark {
                return Ok(Err(format!("what was not synced is still there on node {b}")));
            }
            if self.pauses {
                let states = stage.cluster.process(c)?.states();
                let stands = !states.is_empty() && states.chars().all(|state| state == 'T');
                return Ok(if stands {
                    Ok(format!("node {c} stood still"))
                } else {
                    Err(format!("threads: {states}"))
                });
            }
            let cut = stage.cluster.network().context("nodes were cut off")?.count().cut - self.cut_before;
            Ok(if cut > 0 { Ok(format!("{cut} frames were cut off")) } else { Err("no frame was cut off".into()) })
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move { self.away(stage, self.parts[2], false) })
    }
}

impl Handover {
    /// Whether others can do with a node.
    fn away(&self, stage: &mut Stage, node: u64, is_away: bool) -> anyhow::Result<()> {
        if self.pauses {
            return stage.cluster.signal(node, if is_away { Signal::STOP } else { Signal::CONT });
        }
        let others = stage.cluster.nodes();
        let network = stage.cluster.network()?;
        for other in others.into_iter().filter(|other| *other != node) {
            let (one, other) = (Host::Node(node), Host::Node(other));
            network.change(one, other, |rule| rule.cut = is_away);
            network.change(other, one, |rule| rule.cut = is_away);
        }
        Ok(())
    }
}
