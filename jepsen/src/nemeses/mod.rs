//! What goes wrong. One file each, and one line in [`kinds`]: it says what it needs, draws what to do from the seed, does
//! it, shows that it did something, and ends it.

mod all;
mod clock;
mod disk;
mod grow;
mod handover;
mod kill;
mod lag;
mod packets;
mod partition;
mod pause;
mod power;
mod rolling;
mod rot;
mod transfer;

use std::time::Duration;

use coda_protocol::ids::GroupId;
use futures::future::LocalBoxFuture;
use rand::Rng;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::needs::Need;
use crate::stage::Stage;

/// Between being well and the next fault.
const BETWEEN_MS: std::ops::Range<u64> = 500..2_000;

/// A nemesis that can be asked for by its name.
pub struct Kind {
    pub name: &'static str,
    pub about: &'static str,
    pub needs: &'static [Need],
    /// It goes together with others.
    pub mixes: bool,
    pub make: fn() -> Box<dyn Nemesis>,
}

pub type Doing<'a, T> = LocalBoxFuture<'a, anyhow::Result<T>>;

/// One fault, from its plan to its end.
pub trait Nemesis {
    /// Draws what to do. None if it cannot be done now, because of what else goes wrong.
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan>;

    /// Does it.
    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()>;

    /// Asked when it has lasted: what shows that it did something, or why it seems that it did not.
    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite>;

    /// Ends it. From now on the cluster has to get well by itself.
    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()>;
}

/// What shows that a fault did something; or why not.
pub type Bite = Result<String, String>;

#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Whom it is done to.
    pub nodes: Vec<u64>,
    /// Groups that they led.
    pub led: Vec<GroupId>,
    pub more: String,
    /// From its installation to its end.
    pub lasts: Duration,
    /// These nodes may say that they cannot work, and end.
    pub excuses: bool,
}

pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    let families = [
        kill::KINDS,
        pause::KINDS,
        rolling::KINDS,
        transfer::KINDS,
        partition::KINDS,
        packets::KINDS,
        power::KINDS,
        handover::KINDS,
        disk::KINDS,
        rot::KINDS,
        clock::KINDS,
        grow::KINDS,
        lag::KINDS,
        all::KINDS,
    ];
    families.into_iter().flatten()
}

/// The names of all kinds, and of doing nothing.
pub fn names() -> Vec<&'static str> {
    kinds().map(|kind| kind.name).chain(["none"]).collect()
}

pub fn find(name: &str) -> Option<&'static Kind> {
    kinds().find(|kind| kind.name == name)
}

/// What this machine lacks for it, if anything.
pub fn lacks(kind: &Kind, nodes: u64) -> Option<String> {
    kind.needs.iter().find_map(|need| need.missing(nodes))
}

/// Lets them loose, one after the other, until the time is over or each has had its rounds.
pub async fn unleash(stage: &mut Stage, kinds: &[&'static Kind]) -> anyhow::Result<()> {
    let deadline = Instant::now() + stage.args.time;
    let rounds = stage.args.rounds;
    let is_over = |round: u32| rounds.map_or_else(|| Instant::now() >= deadline, |rounds| round > rounds);
    for round in 1.. {
        for kind in kinds {
            if round > 1 && is_over(round) {
                return Ok(());
            }
            strike(stage, kind).await?;
            let between = Duration::from_millis(stage.chance.random_range(BETWEEN_MS));
            sleep(between).await;
        }
        if kinds.is_empty() {
            sleep(stage.args.time).await;
        }
        info!(round, operations = stage.operations.count(), "round is over");
        if is_over(round + 1) {
            return Ok(());
        }
    }
    Ok(())
}

/// One fault, and until the cluster is well again.
async fn strike(stage: &mut Stage, kind: &'static Kind) -> anyhow::Result<()> {
    stage.look_around().await?;
    let mut nemesis = (kind.make)();
    let Some(plan) = nemesis.plan(stage) else {
        warn!(nemesis = kind.name, "there is nobody to strike");
        return Ok(());
    };
    let mut fault = stage.begin(kind.name, &plan);
    nemesis.install(stage).await?;
    sleep(plan.lasts).await;
    let bite = nemesis.verify(stage).await?;
    nemesis.heal(stage).await?;
    stage.healed(&mut fault, bite);
    stage.settle(fault).await
}

/// For what is over when it is installed.
fn nothing<'a>() -> Doing<'a, ()> {
    Box::pin(async { Ok(()) })
}
