//! An operator who cannot decide: leadership of all groups is moved about, as fast as it goes.

use std::time::{Duration, Instant};

use coda_protocol::ids::GroupId;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Bite, Doing, Kind, Nemesis, Plan, nothing};
use crate::stage::Stage;

const STORM_MS: std::ops::Range<u64> = 3_000..8_000;

pub const KINDS: &[Kind] = &[Kind {
    name: "transfer-storm",
    about: "leadership of all groups is moved about as fast as it goes, for up to 8 s",
    needs: &[],
    mixes: false,
    make: || Box::new(Storm::default()),
}];

#[derive(Default)]
struct Storm {
    length: Duration,
    moved: u64,
    refused: u64,
}

impl Nemesis for Storm {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        self.length = Duration::from_millis(stage.chance.random_range(STORM_MS));
        let nodes = stage.cluster.running();
        let led = stage.led_by(&nodes);
        Some(Plan { nodes, led, more: format!("for {} ms", self.length.as_millis()), ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            let voters: Vec<(GroupId, Vec<_>)> =
                stage.operator.report().await?.groups.into_iter().map(|group| (group.group, group.voters)).collect();
            let until = Instant::now() + self.length;
            while Instant::now() < until {
                let Some((group, voters)) = voters.choose(&mut stage.chance) else { return Ok(()) };
                let Some(to) = voters.choose(&mut stage.chance) else { continue };
                match stage.operator.transfer(*group, *to).await {
                    Ok(()) => self.moved += 1,
                    // It may have moved again before it was there.
                    Err(_) => self.refused += 1,
                }
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, Bite> {
        let what = format!("{} transfers, {} refused", self.moved, self.refused);
        let bite = if self.moved > 0 { Ok(what) } else { Err(what) };
        Box::pin(async { Ok(bite) })
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, ()> {
        nothing()
    }
}
