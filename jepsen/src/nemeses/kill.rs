//! kill -9 of the node that leads most, and its restart after a moment.

use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;

use crate::operator::leads_most;
use crate::stage::Stage;

/// How long the node is gone. Within the time that an election takes, and beyond.
const AWAY_MS_MAX: u64 = 3_000;

pub async fn round(stage: &mut Stage) -> anyhow::Result<()> {
    let (node, led) = leads_most(&stage.operator.report().await?)?;
    let away = Duration::from_millis(stage.chance.random_range(0..=AWAY_MS_MAX));
    let fault = stage.begin("kill", node, &led, format!("back after {} ms", away.as_millis()));
    stage.cluster.kill(node).await?;
    sleep(away).await;
    stage.cluster.start(node).await?;
    stage.settle(fault).await
}
