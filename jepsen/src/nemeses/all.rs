//! Several at once: some nemeses begin one after the other, last together, and end in another order.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use super::{Bite, Doing, Kind, Nemesis, Plan, kinds, lacks};
use crate::stage::Stage;

const AT_ONCE: std::ops::RangeInclusive<usize> = 2..=4;
/// Between the beginnings of two.
const APART_MS: std::ops::Range<u64> = 0..2_000;

pub const KINDS: &[Kind] = &[Kind {
    name: "all",
    about: "two to four of the others at once, on a minority of the nodes and on the network",
    needs: &[],
    mixes: false,
    make: || Box::new(All::default()),
}];

#[derive(Default)]
struct All {
    faults: Vec<(&'static str, Box<dyn Nemesis>)>,
}

impl Nemesis for All {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        stage.mix();
        let mut possible: Vec<&Kind> = kinds()
            .filter(|kind| kind.mixes && stage.can_have(kind) && lacks(kind, stage.args.common.nodes).is_none())
            .collect();
        possible.shuffle(&mut stage.chance);
        let wanted = stage.chance.random_range(AT_ONCE);
        let mut whole = Plan::default();
        for kind in possible {
            if self.faults.len() >= wanted || self.faults.iter().any(|(name, _)| family(name) == family(kind.name)) {
                continue;
            }
            let mut nemesis = (kind.make)();
            let Some(plan) = nemesis.plan(stage) else { continue };
            whole.nodes.extend(plan.nodes);
            whole.led.extend(plan.led);
            whole.more += &format!("{}{}: {}", if self.faults.is_empty() { "" } else { "; " }, kind.name, plan.more);
            whole.lasts = whole.lasts.max(plan.lasts);
            whole.excuses |= plan.excuses;
            self.faults.push((kind.name, nemesis));
        }
        whole.nodes.sort_unstable();
        whole.nodes.dedup();
        (!self.faults.is_empty()).then_some(whole)
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            for (_, nemesis) in &mut self.faults {
                nemesis.install(stage).await?;
                let apart = Duration::from_millis(stage.chance.random_range(APART_MS));
                sleep(apart).await;
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            let mut bites = Vec::new();
            for (name, nemesis) in &mut self.faults {
                match nemesis.verify(stage).await? {
                    Ok(bite) => bites.push(format!("{name}: {bite}")),
                    Err(why) => return Ok(Err(format!("{name}: {why}"))),
                }
            }
            Ok(Ok(bites.join("; ")))
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            self.faults.shuffle(&mut stage.chance);
            for (_, nemesis) in &mut self.faults {
                nemesis.heal(stage).await?;
            }
            Ok(())
        })
    }
}

/// Only one of a family: two partitions would heal each other.
fn family(name: &str) -> &str {
    name.split('-').next().unwrap_or(name).trim_end_matches('s')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_family() {
        assert_eq!([family("packets"), family("packet-loss"), family("kill")], ["packet", "packet", "kill"]);
        assert_ne!(family("power-one"), family("partition-ring"));
    }
}
