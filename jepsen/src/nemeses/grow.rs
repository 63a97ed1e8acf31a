//! The cluster grows by two nodes, shrinks by two, and has one replaced by a new one.

use rand::seq::IndexedRandom;

use coda_protocol::cluster::NodeState;

use crate::stage::Stage;

const MORE: u64 = 2;

pub async fn round(stage: &mut Stage) -> anyhow::Result<()> {
    for _ in 0..MORE {
        join(stage).await?;
    }
    for _ in 0..MORE {
        leave(stage).await?;
    }
    join(stage).await?;
    leave(stage).await
}

/// A new node, and its share of everything.
async fn join(stage: &mut Stage) -> anyhow::Result<()> {
    let node = stage.next_node();
    stage.cluster.add(node).await?;
    let fault = stage.begin("join", node, &[], String::new());
    stage.operator.join(stage.cluster.options(&[node])?).await?;
    stage.operator.until_state(node, NodeState::Active).await?;
    stage.settle(fault).await
}

/// Any node, emptied, taken out, and only then stopped.
async fn leave(stage: &mut Stage) -> anyhow::Result<()> {
    let running = stage.cluster.running();
    let Some(node) = running.choose(&mut stage.chance).copied() else { return Ok(()) };
    let led = crate::operator::leads(&stage.operator.report().await?).remove(&node).unwrap_or_default();
    let fault = stage.begin("leave", node, &led, String::new());
    stage.operator.drain(node).await?;
    stage.operator.remove(node).await?;
    if let Err(error) = stage.cluster.stop(node).await {
        stage.findings.violation(format!("node {node} did not stop cleanly: {error:#}"));
    }
    stage.settle(fault).await
}
