//! A node stands still (SIGSTOP) and goes on, believing that no time has passed.

use std::time::Duration;

use rand::Rng;
use rustix::process::Signal;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::stage::Stage;

/// From what nobody notices to what ends sessions.
const PAUSE_MS: std::ops::Range<u64> = 200..12_000;

pub const KINDS: &[Kind] = &[Kind {
    name: "pause",
    about: "SIGSTOP of a node that leads, for up to 12 s, and SIGCONT",
    needs: &[],
    mixes: true,
    make: || Box::new(Pause::default()),
}];

#[derive(Default)]
struct Pause {
    node: u64,
}

impl Nemesis for Pause {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let (node, led) = stage.leader()?;
        self.node = node;
        let lasts = Duration::from_millis(stage.chance.random_range(PAUSE_MS));
        Some(Plan { nodes: vec![node], led, more: format!("for {} ms", lasts.as_millis()), lasts, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move { stage.cluster.signal(self.node, Signal::STOP) })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            let states = stage.cluster.process(self.node)?.states();
            let stands = !states.is_empty() && states.chars().all(|state| state == 'T');
            Ok(if stands {
                Ok(format!("{} threads are stopped", states.len()))
            } else {
                Err(format!("threads: {states}"))
            })
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move { stage.cluster.signal(self.node, Signal::CONT) })
    }
}
