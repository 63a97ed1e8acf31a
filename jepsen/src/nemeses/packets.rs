//! The network loses packets, delays them, sends them twice, in another order, or changed: between all nodes, on all ways
//! of one node, or everywhere.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::needs::Need;
use crate::network::{Count, Host, Rule};
use crate::stage::Stage;

const LASTS_MS: std::ops::Range<u64> = 4_000..12_000;
const LOSS: std::ops::Range<f64> = 0.02..0.3;
const DELAY_MS: std::ops::Range<f64> = 10.0..120.0;
const DUPLICATES: std::ops::Range<f64> = 0.05..0.5;
const REORDERS: std::ops::Range<f64> = 0.05..0.4;
const CORRUPTS: std::ops::Range<f64> = 0.01..0.1;

pub const KINDS: &[Kind] = &[
    kind("packet-loss", "2 to 30 % of the packets are lost", || of(Harm::Loss)),
    kind("packet-delay", "packets take 10 to 120 ms longer, some more, some less", || of(Harm::Delay)),
    kind("packet-duplicates", "5 to 50 % of the packets arrive twice", || of(Harm::Duplicates)),
    kind("packet-order", "5 to 40 % of the packets are overtaken by others", || of(Harm::Order)),
    kind("packet-corruption", "in 1 to 10 % of the packets a bit is flipped, and the checksum does not tell", || {
        of(Harm::Corruption)
    }),
    kind("packets", "all of these at once, milder", || of(Harm::All)),
];

const fn kind(name: &'static str, about: &'static str, make: fn() -> Box<dyn Nemesis>) -> Kind {
    Kind { name, about, needs: &[Need::Network], mixes: true, make }
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Loss,
    Delay,
    Duplicates,
    Order,
    Corruption,
    All,
}

/// On which ways.
#[derive(Clone, Copy, Debug)]
enum Extent {
    /// From and to one node.
    Node,
    /// Among all nodes.
    Nodes,
    Everywhere,
}

fn of(harm: Harm) -> Box<dyn Nemesis> {
    Box::new(Packets { harm, rule: Rule::default(), links: Vec::new(), before: Count::default() })
}

struct Packets {
    harm: Harm,
    rule: Rule,
    links: Vec<(Host, Host)>,
    before: Count,
}

impl Nemesis for Packets {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let extent = *[Extent::Node, Extent::Nodes, Extent::Everywhere].choose(&mut stage.chance)?;
        let nodes = stage.cluster.running();
        let (one, led) = stage.some_leader()?;
        self.rule = draw(self.harm, &mut stage.chance);
        self.links = links(extent, one, &nodes);
        let lasts = Duration::from_millis(stage.chance.random_range(LASTS_MS));
        let Rule { loss, duplicates, corrupts, reorders, delay_ms, jitter_ms, .. } = self.rule;
        let more = format!(
            "{extent:?}: loss {loss:.2}, duplicates {duplicates:.2}, order {reorders:.2}, corruption {corrupts:.2}, delay \
             {delay_ms:.0} ± {jitter_ms:.0} ms, for {} ms",
            lasts.as_millis()
        );
        let nodes = if matches!(extent, Extent::Node) { vec![one] } else { nodes };
        Some(Plan { nodes, led, more, lasts, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            let network = stage.cluster.network()?;
            self.before = network.count_of(&self.links);
            for (from, to) in &self.links {
                // A cut of another nemesis stays.
                network.change(*from, *to, |rule| *rule = Rule { cut: rule.cut, ..self.rule });
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            let now = stage.cluster.network()?.count_of(&self.links);
            let before = self.before;
            let harmed = match self.harm {
                Harm::Loss => now.lost - before.lost,
                Harm::Delay => now.delayed - before.delayed,
                Harm::Duplicates => now.duplicated - before.duplicated,
                Harm::Order => now.reordered - before.reordered,
                Harm::Corruption => now.corrupted - before.corrupted,
                Harm::All => {
                    let harms = [
                        now.lost - before.lost,
                        now.duplicated - before.duplicated,
                        now.reordered - before.reordered,
                        now.corrupted - before.corrupted,
                    ];
                    harms.into_iter().min().unwrap_or_default()
                }
            };
            let what = format!("{harmed} of {} frames", now.carried - before.carried);
            Ok(if harmed > 0 { Ok(what) } else { Err(what) })
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            let network = stage.cluster.network()?;
            for (from, to) in &self.links {
                network.change(*from, *to, |rule| *rule = Rule { cut: rule.cut, ..Rule::default() });
            }
            Ok(())
        })
    }
}

fn draw(harm: Harm, chance: &mut StdRng) -> Rule {
    let none = Rule::default();
    let delay_ms = chance.random_range(DELAY_MS);
    let jitter_ms = delay_ms * chance.random_range(0.0..=1.0);
    match harm {
        Harm::Loss => Rule { loss: chance.random_range(LOSS), ..none },
        Harm::Delay => Rule { delay_ms, jitter_ms, ..none },
        Harm::Duplicates => Rule { duplicates: chance.random_range(DUPLICATES), ..none },
        Harm::Order => Rule { reorders: chance.random_range(REORDERS), ..none },
        Harm::Corruption => Rule { corrupts: chance.random_range(CORRUPTS), ..none },
        Harm::All => {
            const MILDER: f64 = 0.25;
            Rule {
                cut: false,
                loss: MILDER * chance.random_range(LOSS),
                duplicates: MILDER * chance.random_range(DUPLICATES),
                corrupts: MILDER * chance.random_range(CORRUPTS),
                reorders: MILDER * chance.random_range(REORDERS),
                delay_ms: MILDER * delay_ms,
                jitter_ms: MILDER * jitter_ms,
            }
        }
    }
}

fn links(extent: Extent, one: u64, nodes: &[u64]) -> Vec<(Host, Host)> {
    let mut hosts: Vec<Host> = nodes.iter().map(|node| Host::Node(*node)).collect();
    if !matches!(extent, Extent::Nodes) {
        hosts.push(Host::Outside);
    }
    let one = Host::Node(one);
    let is_meant = |a: Host, b: Host| a != b && (!matches!(extent, Extent::Node) || a == one || b == one);
    let pairs = hosts.iter().flat_map(|a| hosts.iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| is_meant(*a, *b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_are_those_of_the_extent() {
        let count = |extent| links(extent, 2, &[1, 2, 3]).len();
        assert_eq!((count(Extent::Node), count(Extent::Nodes), count(Extent::Everywhere)), (6, 6, 12));
    }
}
