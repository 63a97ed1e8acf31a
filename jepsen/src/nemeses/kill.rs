//! kill -9 of a node that leads, and its restart after a moment.

use std::time::Duration;

use rand::Rng;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::stage::Stage;

/// How long the node is gone. Within the time that an election takes, and beyond.
const AWAY_MS_MAX: u64 = 3_000;

pub const KINDS: &[Kind] = &[Kind {
    name: "kill",
    about: "kill -9 of a node that leads, and a restart after up to 3 s",
    needs: &[],
    mixes: true,
    make: || Box::new(Kill::default()),
}];

#[derive(Default)]
struct Kill {
    node: u64,
    pid: u32,
}

impl Nemesis for Kill {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let (node, led) = stage.leader()?;
        self.node = node;
        let lasts = Duration::from_millis(stage.chance.random_range(0..=AWAY_MS_MAX));
        Some(Plan {
            nodes: vec![node],
            led,
            more: format!("back after {} ms", lasts.as_millis()),
            lasts,
            ..Plan::default()
        })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            self.pid = stage.cluster.process(self.node)?.pid();
            stage.cluster.kill(self.node).await
        })
    }

    fn verify<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, Bite> {
        // Killing waits for the end.
        Box::pin(async { Ok(Ok(format!("process {} is gone", self.pid))) })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move { stage.cluster.start(self.node).await })
    }
}
