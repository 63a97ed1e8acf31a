//! A clean restart of each node in turn, as an upgrade does it.

use crate::operator::leads;
use crate::stage::Stage;

pub async fn round(stage: &mut Stage) -> anyhow::Result<()> {
    for node in stage.cluster.running() {
        let led = leads(&stage.operator.report().await?).remove(&node).unwrap_or_default();
        let fault = stage.begin("rolling", node, &led, String::new());
        if let Err(error) = stage.cluster.stop(node).await {
            stage.findings.violation(format!("node {node} did not stop cleanly: {error:#}"));
        }
        stage.cluster.start(node).await?;
        stage.settle(fault).await?;
    }
    Ok(())
}
