//! A clean restart of each node in turn, as an upgrade does it.

use coda_checkers::properties as p;

use super::{Bite, Doing, Kind, Nemesis, Plan, nothing};
use crate::stage::Stage;

pub const KINDS: &[Kind] = &[Kind {
    name: "rolling",
    about: "a clean restart of each node in turn",
    needs: &[],
    mixes: false,
    make: || Box::new(Rolling::default()),
}];

#[derive(Default)]
struct Rolling {
    nodes: Vec<u64>,
}

impl Nemesis for Rolling {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        self.nodes = stage.cluster.running();
        Some(Plan { nodes: self.nodes.clone(), ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            for node in self.nodes.clone() {
                if let Err(error) = stage.cluster.stop(node).await {
                    let what = format!("node {node} did not stop cleanly: {error:#}");
                    stage.findings.violation(p::NODES_STAY_UP, what);
                }
                stage.cluster.start(node).await?;
                stage.well().await;
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async { Ok(Ok(format!("{} nodes stopped and started", self.nodes.len()))) })
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> Doing<'a, ()> {
        nothing()
    }
}
