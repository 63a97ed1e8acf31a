//! The node that leads most stands still (SIGSTOP) and goes on, believing that no time has passed.

use std::time::Duration;

use rand::Rng;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::operator::leads_most;
use crate::stage::Stage;

/// From what nobody notices to what ends sessions.
const PAUSE_MS: std::ops::Range<u64> = 200..12_000;

pub async fn round(stage: &mut Stage) -> anyhow::Result<()> {
    let (node, led) = leads_most(&stage.operator.report().await?)?;
    let pause = Duration::from_millis(stage.chance.random_range(PAUSE_MS));
    let fault = stage.begin("pause", node, &led, format!("for {} ms", pause.as_millis()));
    stage.cluster.signal(node, Signal::STOP)?;
    sleep(pause).await;
    stage.cluster.signal(node, Signal::CONT)?;
    stage.settle(fault).await
}
