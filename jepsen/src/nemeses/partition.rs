//! Nodes cannot reach each other: halves, rings, one way, or one alone. Clients reach everybody, but where it says so.

use std::time::Duration;

use anyhow::Context;
use coda_checkers::properties as p;
use coda_client::{Client, SubmitOptions};
use coda_protocol::ids::{GroupId, TaskId};
use coda_protocol::slots::SlotMap;
use futures::future::join_all;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::groups::{data_groups, task_id_in};
use crate::needs::Need;
use crate::network::Host;
use crate::stage::Stage;
use crate::witness::{Witness, beside};

const CUT_MS: std::ops::Range<u64> = 3_000..10_000;
/// What was on its way when the cut was made may still be answered.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// The others elect a leader and answer well within it.
const OTHERS_ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The witness is done so long before the cut is healed.
const DONE_BEFORE: Duration = Duration::from_millis(500);
const _: () = assert!(DONE_BEFORE.as_millis() < CUT_MS.start as u128);
const WITNESS_PATIENCE: Duration = Duration::from_secs(30);
/// A queue that nobody serves.
const QUEUE: &str = "cut";
/// A majority of a ring sees itself and a neighbour on either side.
const RING_NODES: u64 = 5;

pub const KINDS: &[Kind] = &[
    kind("partition", "any of the following", || of(&ANY)),
    kind("partition-halves", "two sides, as even as they can be, both ways", || of(&[Shape::Halves])),
    Kind {
        needs: &[Need::Network, Need::Nodes(RING_NODES)],
        ..kind("partition-ring", "each node sees a majority, and no two the same one", || of(&[Shape::Ring]))
    },
    kind("partition-bridge", "two sides, and one node that sees both", || of(&[Shape::Bridge])),
    kind("partition-leader", "a node that leads is cut off from the others, both ways", || of(&[Shape::Leader])),
    kind("partition-one-way", "the same, but it hears the others, or they hear it", || of(&[Shape::Mute, Shape::Deaf])),
    kind("partition-minority", "a minority with that node is cut off from everybody, clients too, both ways", || {
        of(&[Shape::Minority, Shape::Alone])
    }),
];

const fn kind(name: &'static str, about: &'static str, make: fn() -> Box<dyn Nemesis>) -> Kind {
    Kind { name, about, needs: &[Need::Network, Need::Nodes(3)], mixes: true, make }
}

/// Who cannot reach whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Halves,
    Ring,
    Bridge,
    /// A node that leads, cut off from the others, both ways: clients reach both sides.
    Leader,
    /// It hears the others, and they do not hear it.
    Mute,
    /// They hear it, and it does not hear them.
    Deaf,
    /// As many as can be without being a majority, that node among them, from everybody.
    Minority,
    /// That node alone, from everybody.
    Alone,
}

const ANY: [Shape; 8] =
    [Shape::Halves, Shape::Ring, Shape::Bridge, Shape::Leader, Shape::Mute, Shape::Deaf, Shape::Minority, Shape::Alone];

fn of(shapes: &'static [Shape]) -> Box<dyn Nemesis> {
    Box::new(Partition {
        shapes,
        shape: Shape::Leader,
        lasts: Duration::ZERO,
        cuts: Vec::new(),
        cut_before: 0,
        alone: None,
        witness: None,
    })
}

struct Partition {
    shapes: &'static [Shape],
    shape: Shape,
    lasts: Duration,
    cuts: Vec<(Host, Host)>,
    cut_before: u64,
    /// A node that can agree with nobody, and those that can without it.
    alone: Option<(u64, Vec<u64>)>,
    witness: Option<oneshot::Receiver<anyhow::Result<usize>>>,
}

impl Nemesis for Partition {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let mut nodes = stage.cluster.running();
        let fits = |shape: &&Shape| **shape != Shape::Ring || nodes.len() as u64 >= RING_NODES;
        let shapes: Vec<Shape> = self.shapes.iter().filter(fits).copied().collect();
        self.shape = *shapes.choose(&mut stage.chance)?;
        let (leader, led) = stage.some_leader()?;
        nodes.shuffle(&mut stage.chance);
        // The leader is with those that are fewer.
        nodes.sort_by_key(|node| *node != leader);
        self.cuts = cuts(self.shape, &nodes);
        if matches!(self.shape, Shape::Leader | Shape::Mute | Shape::Deaf | Shape::Alone) {
            self.alone = Some((leader, nodes[1..].to_vec()));
        }
        let lasts = Duration::from_millis(stage.chance.random_range(CUT_MS));
        self.lasts = lasts;
        let more = format!("{:?} of {nodes:?} for {} ms", self.shape, lasts.as_millis());
        Some(Plan { nodes: vec![leader], led, more, lasts, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            self.cut_before = cut_so_far(stage, &self.cuts)?;
            match self.alone.clone() {
                // Together with other faults, nobody has to be able to write.
                Some((node, others)) if stage.is_single() => self.cut_watched(stage, node, &others).await,
                _ => cut(stage, &self.cuts),
            }
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            let cut = cut_so_far(stage, &self.cuts)? - self.cut_before;
            Ok(if cut > 0 { Ok(format!("{cut} frames were cut off")) } else { Err("no frame was cut off".into()) })
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            for (from, to) in &self.cuts {
                stage.cluster.network()?.change(*from, *to, |rule| rule.cut = false);
            }
            if let Some(witness) = self.witness.take() {
                let seen = timeout(WITNESS_PATIENCE, witness).await.context("the witness does not come back")???;
                stage.measured("witness", json!({ "shape": format!("{:?}", self.shape), "unanswered": seen }));
            }
            Ok(())
        })
    }
}

impl Partition {
    /// Meanwhile a client that reaches nobody but that node must get no acknowledgement from it, and no answer that leaves
    /// out what the others have acknowledged since.
    async fn cut_watched(&mut self, stage: &mut Stage, node: u64, others: &[u64]) -> anyhow::Result<()> {
        let slots = SlotMap::even(stage.args.groups);
        let groups: Vec<GroupId> = data_groups(stage.args.groups).collect();
        let mut draw = || -> Vec<(GroupId, TaskId)> {
            groups.iter().map(|group| (*group, task_id_in(*group, &slots, &mut stage.chance))).collect()
        };
        let (minority, majority) = (draw(), draw());
        let options = stage.cluster.options(&[node])?;
        let outside = Client::connect(stage.cluster.options(others)?).await?;
        let (ready, is_ready) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let witness = Witness { options, findings: stage.findings.clone(), minority, ready, told };
        self.witness = Some(beside(node, move || witness.watch())?);
        timeout(WITNESS_PATIENCE, is_ready).await.context("the witness does not connect")??;

        cut(stage, &self.cuts)?;
        sleep(ON_ITS_WAY).await;
        // What the others acknowledge now, the one that is cut off must not deny.
        let acknowledged = join_all(majority.iter().map(|(group, task)| {
            let submitted = outside.submit(SubmitOptions::new("cut").id(*task).queue(QUEUE));
            async move { (*group, *task, timeout(OTHERS_ANSWER_WITHIN, submitted).await) }
        }));
        let shape = self.shape;
        let mut known = Vec::new();
        for (group, task, answer) in acknowledged.await {
            let findings = &stage.findings;
            match answer {
                Ok(Ok(_)) => known.push((group, task)),
                Ok(Err(error)) => {
                    let what = format!("group {group}: the majority's client was told {error}");
                    findings.violation(p::TROUBLE_IS_NOT_TOLD, what);
                }
                Err(_) => {
                    let what = format!(
                        "group {group}: the majority has acknowledged nothing within {OTHERS_ANSWER_WITHIN:?} while node \
                         {node} is cut off ({shape:?})"
                    );
                    findings.violation(p::WELL_AGAIN_IN_TIME, what);
                }
            }
        }
        outside.close().await;
        let _ = tell.send((known, Instant::now() + self.lasts - DONE_BEFORE));
        Ok(())
    }
}

fn cut(stage: &mut Stage, cuts: &[(Host, Host)]) -> anyhow::Result<()> {
    let network = stage.cluster.network()?;
    for (from, to) in cuts {
        network.change(*from, *to, |rule| rule.cut = true);
    }
    Ok(())
}

fn cut_so_far(stage: &mut Stage, cuts: &[(Host, Host)]) -> anyhow::Result<u64> {
    Ok(stage.cluster.network()?.count_of(cuts).cut)
}

/// Directed links that carry nothing. The first node is the one that leads.
fn cuts(shape: Shape, nodes: &[u64]) -> Vec<(Host, Host)> {
    let hosts: Vec<Host> = nodes.iter().map(|node| Host::Node(*node)).collect();
    let minority = (hosts.len() - 1) / 2;
    let across = |one: &[Host], other: &[Host]| -> Vec<(Host, Host)> {
        one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))).collect()
    };
    let between = |one: &[Host], other: &[Host]| [across(one, other), across(other, one)].concat();
    let (first, others) = hosts.split_at(1);
    match shape {
        Shape::Leader => between(first, others),
        Shape::Mute => across(first, others),
        Shape::Deaf => across(others, first),
        Shape::Alone => between(first, &[others, &[Host::Outside]].concat()),
        Shape::Halves => {
            let (one, other) = hosts.split_at(hosts.len() / 2);
            between(one, other)
        }
        Shape::Minority => {
            let (few, many) = hosts.split_at(minority);
            between(few, &[many, &[Host::Outside]].concat())
        }
        Shape::Bridge => {
            let (one, rest) = hosts.split_at(minority);
            let (_bridge, other) = rest.split_at(1);
            between(one, other)
        }
        Shape::Ring => {
            // Everybody sees as many neighbours on either side as make a majority with itself.
            let reach = hosts.len() / 2 / 2;
            let away = |a: usize, b: usize| (a + hosts.len() - b) % hosts.len();
            let is_near = |a: usize, b: usize| away(a, b).min(away(b, a)) <= reach.max(1);
            let pairs = (0..hosts.len()).flat_map(|a| (0..hosts.len()).map(move |b| (a, b)));
            pairs.filter(|(a, b)| !is_near(*a, *b)).map(|(a, b)| (hosts[a], hosts[b])).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom a node can exchange words with, of five.
    fn sees(shape: Shape, node: u64) -> Vec<u64> {
        let cuts = cuts(shape, &[1, 2, 3, 4, 5]);
        let is_cut = |a, b| cuts.contains(&(Host::Node(a), Host::Node(b)));
        (1..=5).filter(|other| *other != node && !is_cut(node, *other) && !is_cut(*other, node)).collect()
    }

    #[test]
    fn shapes_are_what_their_names_say() {
        assert_eq!((sees(Shape::Halves, 1), sees(Shape::Halves, 3)), (vec![2], vec![4, 5]));
        assert_eq!((sees(Shape::Ring, 1), sees(Shape::Ring, 3)), (vec![2, 5], vec![2, 4]));
        assert_eq!((sees(Shape::Bridge, 1), sees(Shape::Bridge, 3)), (vec![2, 3], vec![1, 2, 4, 5]));
        assert_eq!((sees(Shape::Leader, 1), sees(Shape::Leader, 2)), (vec![], vec![3, 4, 5]));
        assert_eq!((sees(Shape::Minority, 2), sees(Shape::Minority, 3)), (vec![1], vec![4, 5]));
    }

    #[test]
    fn a_cut_of_one_way_is_one_way_and_one_of_both_ways_is_both() {
        let mute = cuts(Shape::Mute, &[1, 2, 3]);
        assert_eq!(mute, [(Host::Node(1), Host::Node(2)), (Host::Node(1), Host::Node(3))]);
        for shape in [Shape::Halves, Shape::Ring, Shape::Bridge, Shape::Leader, Shape::Minority, Shape::Alone] {
            let cuts = cuts(shape, &[1, 2, 3, 4, 5]);
            assert!(!cuts.is_empty() && cuts.iter().all(|(a, b)| cuts.contains(&(*b, *a))), "{shape:?}");
        }
        assert!(cuts(Shape::Minority, &[1, 2, 3]).contains(&(Host::Outside, Host::Node(1))));
    }
}
