//! What goes wrong. One file each: it says what it does, does it so many times, and leaves a cluster that is well.

pub mod grow;
pub mod kill;
pub mod lag;
pub mod partition;
pub mod pause;
pub mod rolling;

use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;
use tracing::info;

use crate::args::NemesisName;
use crate::stage::Stage;

/// Between being well and the next fault.
const BETWEEN_MS: std::ops::Range<u64> = 500..2_000;

pub async fn unleash(nemesis: NemesisName, stage: &mut Stage) -> anyhow::Result<()> {
    info!(?nemesis, rounds = stage.args.rounds, "begins");
    for round in 1..=stage.args.rounds {
        match nemesis {
            NemesisName::None => {}
            NemesisName::Kill => kill::round(stage).await?,
            NemesisName::Rolling => rolling::round(stage).await?,
            NemesisName::Partition => partition::round(stage).await?,
            NemesisName::Grow => grow::round(stage).await?,
            NemesisName::Lag => lag::round(stage).await?,
            NemesisName::Pause => pause::round(stage).await?,
        }
        info!(?nemesis, round, runs = stage.runs(), "round is over");
        let pause = Duration::from_millis(stage.chance.random_range(BETWEEN_MS));
        sleep(pause).await;
    }
    Ok(())
}
