//! The cluster grows by two nodes, shrinks by two, and has one replaced by a new one.

use coda_checkers::properties as p;
use coda_protocol::cluster::NodeState;
use rand::seq::IndexedRandom;

use super::{Bite, Doing, Kind, Nemesis, Plan, nothing};
use crate::stage::Stage;

const MORE: u64 = 2;

pub const KINDS: &[Kind] = &[Kind {
    name: "grow",
    about: "no fault: two nodes join, two leave, and one is replaced",
    needs: &[],
    mixes: false,
    make: || Box::new(Grow::default()),
}];

#[derive(Default)]
struct Grow {
    joined: Vec<u64>,
    left: Vec<u64>,
}

impl Nemesis for Grow {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        Some(Plan { nodes: stage.cluster.running(), ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            for _ in 0..MORE {
                self.join(stage).await?;
            }
            for _ in 0..MORE {
                self.leave(stage).await?;
            }
            self.join(stage).await?;
            self.leave(stage).await
        })
    }

    fn verify<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async { Ok(Ok(format!("joined {:?}, left {:?}", self.joined, self.left))) })
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, ()> {
        nothing()
    }
}

impl Grow {
    /// A new node, and its share of everything.
    async fn join(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        let node = stage.next_node();
        stage.cluster.add(node).await?;
        stage.operator.join(stage.cluster.options(&[node])?).await?;
        stage.operator.until_state(node, NodeState::Active).await?;
        self.joined.push(node);
        stage.well().await;
        Ok(())
    }

    /// Any node, emptied, taken out, and only then stopped.
    async fn leave(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        let running = stage.cluster.running();
        let Some(node) = running.choose(&mut stage.chance).copied() else { return Ok(()) };
        stage.operator.drain(node).await?;
        stage.operator.remove(node).await?;
        if let Err(error) = stage.cluster.stop(node).await {
            stage.findings.violation(p::NODES_STAY_UP, format!("node {node} did not stop cleanly: {error:#}"));
        }
        self.left.push(node);
        stage.well().await;
        Ok(())
    }
}
