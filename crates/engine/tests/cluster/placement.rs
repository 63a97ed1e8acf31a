//! Plans for random clusters: every step is safe, the end is as even as it can be and stays so, nothing moves that need
//! not, and a plan that is interrupted anywhere, by anything, is made anew and comes to the same end.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "the number of seeds comes from outside")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use coda_engine::placement::{Host, Layout, Replicas};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::limits::{CLUSTER_NODES_MAX, GROUPS_MAX};
use coda_protocol::rebalance::{Plan, Step, StuckReason};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

fn seeds(test: impl Fn(StdRng)) {
    let seeds: u64 = std::env::var("CODA_MODEL_SEEDS").ok().map_or(400, |n| n.parse().expect("a number"));
    let first: u64 = std::env::var("CODA_MODEL_FIRST").ok().map_or(0, |n| n.parse().expect("a number"));
    for seed in first..first + seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(StdRng::seed_from_u64(seed)))) {
            eprintln!("\nseed {seed} fails\n");
            resume_unwind(panic);
        }
    }
}

fn survives(voters: usize) -> usize {
    voters.saturating_sub(1) / 2
}

/// What a random cluster may have.
#[derive(Clone, Copy)]
struct Wild {
    zones: bool,
    draining: bool,
    faults: bool,
}

const TAME: Wild = Wild { zones: false, draining: false, faults: false };
const ALL: Wild = Wild { zones: true, draining: true, faults: true };

fn state(rng: &mut StdRng, wild: Wild) -> NodeState {
    match rng.random_range(0..10) {
        0..=1 if wild.draining => NodeState::Draining,
        2 if wild.faults => NodeState::Joining,
        3 if wild.faults => NodeState::Removed,
        _ => NodeState::Active,
    }
}

fn cluster(rng: &mut StdRng, wild: Wild) -> Layout {
    let zones = rng.random_range(1..=4);
    let mut nodes = BTreeMap::new();
    for node in 1..=rng.random_range(1..=7) {
        let zone = if wild.zones { format!("z{}", rng.random_range(0..zones)) } else { String::new() };
        let reachable = !wild.faults || rng.random_bool(0.85);
        nodes.insert(NodeId(node), Host { state: state(rng, wild), zone: zone.into(), reachable });
    }
    // Somebody is there.
    let first = nodes.get_mut(&NodeId(1)).unwrap();
    (first.state, first.reachable) = (NodeState::Active, true);
    let ids: Vec<NodeId> =
        nodes.keys().copied().filter(|id| wild.faults || nodes[id].state != NodeState::Joining).collect();
    let mut groups = BTreeMap::new();
    for group in 0..rng.random_range(1..=9) {
        let size = rng.random_range(1..=ids.len().min(5));
        let voters: BTreeSet<NodeId> = ids.choose_multiple(rng, size).copied().collect();
        let learner = ids.choose(rng).copied().filter(|node| !voters.contains(node) && rng.random_bool(0.2));
        let leader = voters.iter().copied().collect::<Vec<_>>().choose(rng).copied();
        let leader = leader.filter(|_| !wild.faults || rng.random_bool(0.9));
        groups.insert(GroupId(group), Replicas { voters, learners: learner.into_iter().collect(), leader });
    }
    let replication_factor = *[1, 3, 3, 5].choose(rng).unwrap();
    Layout { replication_factor, nodes, groups }
}

/// One step, checked against what makes a step safe.
fn take(layout: &mut Layout, step: &Step) {
    let before = layout.groups[&step.group()].clone();
    let is_open = |node: &NodeId| layout.nodes[node].state == NodeState::Active && layout.nodes[node].reachable;
    let is_live = |node: &NodeId| layout.nodes.get(node).is_some_and(|host| host.reachable);
    let slack = |voters: &BTreeSet<NodeId>| {
        voters.iter().filter(|node| is_live(node)).count() as i64 - (voters.len() as i64 / 2 + 1)
    };
    assert!(slack(&before.voters) >= 0, "{step:?} in a group without a quorum: {before:?}");
    assert!(before.leader.is_some_and(|leader| is_live(&leader)), "{step:?} in a group without a leader: {before:?}");
    match step {
        Step::AddLearner { node, .. } => {
            assert!(is_open(node) && !before.voters.contains(node) && !before.learners.contains(node), "{step:?}");
        }
        Step::Promote { node, .. } => assert!(is_open(node) && before.learners.contains(node), "{step:?}"),
        Step::RemoveVoter { node, .. } => {
            assert!(before.voters.contains(node) && before.leader != Some(*node), "{step:?} of {before:?}");
        }
        Step::RemoveLearner { node, .. } => assert!(before.learners.contains(node), "{step:?}"),
        Step::TransferLeader { from, to, .. } => {
            assert!(
                before.leader == Some(*from) && from != to && before.voters.contains(to) && is_live(to),
                "{step:?}"
            );
        }
    }
    let mut next = layout.clone();
    next.take(step);
    let after = &next.groups[&step.group()];
    let wanted = survives(usize::from(layout.replication_factor));
    let nominal = survives(after.voters.len()) >= survives(before.voters.len()).min(wanted);
    let live = slack(&after.voters) >= slack(&before.voters).min(wanted as i64);
    assert!(nominal && live, "{step:?} of {before:?} is not safe");
    let most = before.voters.len().max(usize::from(layout.replication_factor) + 1);
    assert!(after.voters.len() <= most, "{step:?} makes {} voters", after.voters.len());
    *layout = next;
}

fn follow(layout: &mut Layout) -> Plan {
    let plan = layout.plan();
    plan.steps.iter().for_each(|step| take(layout, step));
    plan
}

fn active(layout: &Layout) -> Vec<NodeId> {
    let active = layout.nodes.iter().filter(|(_, host)| host.state == NodeState::Active);
    active.map(|(node, _)| *node).collect()
}

fn copies(layout: &Layout, node: NodeId) -> usize {
    layout.groups.values().filter(|group| group.voters.contains(&node)).count()
}

fn leads(layout: &Layout, node: NodeId) -> usize {
    layout.groups.values().filter(|group| group.leader == Some(node)).count()
}

fn spread(layout: &Layout, count: fn(&Layout, NodeId) -> usize) -> usize {
    let counts: Vec<usize> = active(layout).into_iter().map(|node| count(layout, node)).collect();
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

/// Whether there are too few nodes to survive anything: nothing is moved yet.
fn is_forming(layout: &Layout) -> bool {
    layout.replication_factor > 1 && active(layout).len() < 3
}

fn moves(steps: &[Step]) -> usize {
    steps.iter().filter(|step| matches!(step, Step::AddLearner { .. })).count()
}

/// What is true of every cluster once its plan was followed.
fn judge(layout: &Layout, plan: &Plan) {
    let again = layout.plan();
    assert_eq!(again.steps, [], "there is more to do in {layout:#?}");
    let stuck: BTreeSet<GroupId> = plan.stuck.iter().map(|stuck| stuck.group).collect();
    for (group, replicas) in &layout.groups {
        if stuck.contains(group) {
            continue;
        }
        assert!(replicas.learners.is_empty() && replicas.voters.len() % 2 == 1, "{group:?} {replicas:?}");
        for node in &replicas.voters {
            let host = &layout.nodes[node];
            assert!(matches!(host.state, NodeState::Active | NodeState::Joining), "{group:?} is still on {node:?}");
        }
    }
    for stuck in &plan.stuck {
        // No room means what it says: there are no others that could take the copy.
        if let StuckReason::NoRoom { .. } = stuck.reason {
            let replicas = &layout.groups[&stuck.group];
            let open = active(layout).into_iter().filter(|node| layout.nodes[node].reachable);
            let others = open.filter(|node| !replicas.voters.contains(node)).count();
            assert_eq!(others, 0, "{stuck:?} in {layout:#?}");
        }
    }
}

#[test]
fn a_cluster_without_trouble_ends_even_in_copies_and_leaders() {
    seeds(|mut rng| {
        let draining = rng.random();
        let mut layout = cluster(&mut rng, Wild { draining, ..TAME });
        let plan = follow(&mut layout);
        judge(&layout, &plan);
        if plan.stuck.is_empty() {
            let size = 2 * survives(active(&layout).len().min(usize::from(layout.replication_factor))) + 1;
            assert!(layout.groups.values().all(|group| group.voters.len() == size), "{layout:#?}");
            let is_even = spread(&layout, copies) <= 1 && spread(&layout, leads) <= 1;
            assert!(is_even || is_forming(&layout), "{layout:#?}");
        }
    });
}

#[test]
fn copies_are_in_different_zones_wherever_there_are_as_many() {
    seeds(|mut rng| {
        let draining = rng.random();
        let mut layout = cluster(&mut rng, Wild { zones: true, draining, ..TAME });
        let plan = follow(&mut layout);
        judge(&layout, &plan);
        let zone = |node: &NodeId| layout.nodes[node].zone.clone();
        let zones: BTreeSet<_> = active(&layout).iter().map(zone).collect();
        if plan.stuck.is_empty() {
            for group in layout.groups.values() {
                let used: BTreeSet<_> = group.voters.iter().map(zone).collect();
                assert_eq!(used.len(), zones.len().min(group.voters.len()), "{layout:#?}");
            }
        }
    });
}

#[test]
fn whatever_the_trouble_each_step_is_safe_and_the_end_is_an_end() {
    seeds(|mut rng| {
        let mut layout = cluster(&mut rng, ALL);
        let plan = follow(&mut layout);
        judge(&layout, &plan);
    });
}

/// A plan remembers nothing: after any of its steps, the plan of that moment copies exactly what is left to copy.
#[test]
fn a_plan_that_is_interrupted_goes_on_where_it_was() {
    seeds(|mut rng| {
        let mut layout = cluster(&mut rng, Wild { faults: false, ..ALL });
        let plan = layout.plan();
        for (done, step) in plan.steps.iter().enumerate() {
            take(&mut layout, step);
            let rest = layout.plan();
            assert_eq!(moves(&rest.steps), moves(&plan.steps[done + 1..]), "after {:?}", &plan.steps[..=done]);
            assert!(rest.steps.len() <= plan.steps.len(), "{rest:#?}\nfor\n{plan:#?}");
        }
    });
}

/// Elections, nodes that vanish and come back, drains that are asked for and taken back, between any two steps.
#[test]
fn whatever_happens_in_between_it_comes_to_an_end() {
    seeds(|mut rng| {
        let mut layout = cluster(&mut rng, ALL);
        for _ in 0..rng.random_range(0..12) {
            let plan = layout.plan();
            let count = rng.random_range(0..=plan.steps.len());
            plan.steps[..count].iter().for_each(|step| take(&mut layout, step));
            happen(&mut rng, &mut layout);
        }
        // One step at a time, each from a plan of its own.
        for round in 0.. {
            assert!(round < 400, "it never ends: {:#?}", layout.plan());
            let plan = layout.plan();
            let Some(step) = plan.steps.first() else { return judge(&layout, &plan) };
            take(&mut layout, step);
        }
    });
}

fn happen(rng: &mut StdRng, layout: &mut Layout) {
    let node = *layout.nodes.keys().collect::<Vec<_>>().choose(rng).copied().unwrap();
    let group = *layout.groups.keys().collect::<Vec<_>>().choose(rng).copied().unwrap();
    let host = layout.nodes.get_mut(&node).unwrap();
    match rng.random_range(0..4) {
        0 => host.reachable = !host.reachable,
        1 => {
            host.state = match host.state {
                NodeState::Active => NodeState::Draining,
                NodeState::Joining | NodeState::Draining => NodeState::Active,
                NodeState::Removed => NodeState::Removed,
            }
        }
        _ => {}
    }
    let live: Vec<NodeId> =
        layout.groups[&group].voters.iter().copied().filter(|node| layout.nodes[node].reachable).collect();
    layout.groups.get_mut(&group).unwrap().leader = live.choose(rng).copied();
    // Who cannot be reached is soon no leader any more.
    let nodes = &layout.nodes;
    for replicas in layout.groups.values_mut() {
        if replicas.leader.is_none_or(|leader| !nodes[&leader].reachable) {
            replicas.leader = replicas.voters.iter().copied().find(|node| nodes[node].reachable);
        }
    }
}

/// Against all placements there are: none is better, and none as good is nearer.
#[test]
fn no_placement_is_better_and_none_as_good_needs_fewer_moves() {
    seeds(|mut rng| {
        let mut layout = cluster(&mut rng, Wild { zones: true, ..TAME });
        layout.nodes.retain(|node, _| node.0 <= 4);
        layout.groups.retain(|group, _| group.0 < 3);
        layout.replication_factor = layout.replication_factor.min(3);
        for replicas in layout.groups.values_mut() {
            replicas.voters.retain(|node| node.0 <= 4);
            replicas.voters.insert(NodeId(1));
            replicas.learners.clear();
            replicas.leader = replicas.voters.first().copied();
        }
        let before = layout.clone();
        let plan = follow(&mut layout);
        judge(&layout, &plan);
        if is_forming(&layout) {
            return assert_eq!(moves(&plan.steps), 0);
        }
        let size = 2 * survives(before.nodes.len().min(usize::from(before.replication_factor))) + 1;
        let choices: Vec<BTreeSet<NodeId>> = (0u8..1 << before.nodes.len())
            .filter(|bits| bits.count_ones() as usize == size)
            .map(|bits| before.nodes.keys().copied().filter(|node| bits >> (node.0 - 1) & 1 == 1).collect())
            .collect();
        let ours: Vec<BTreeSet<NodeId>> = layout.groups.values().map(|group| group.voters.clone()).collect();
        let best = all(before.groups.len(), choices.len())
            .map(|pick| cost(&before, &pick.iter().map(|i| choices[*i].clone()).collect::<Vec<_>>()))
            .min();
        assert_eq!(Some(cost(&before, &ours)), best, "{before:#?}\nbecame\n{layout:#?}");
        assert_eq!(moves(&plan.steps), cost(&before, &ours).2, "a copy that is made is used");
        let leaders = |layout: &Layout| layout.groups.values().map(|group| group.leader.unwrap()).collect::<Vec<_>>();
        let (was, is) = (leaders(&before), leaders(&layout));
        let voters: Vec<Vec<NodeId>> = ours.iter().map(|voters| voters.iter().copied().collect()).collect();
        let best = all(voters.len(), size)
            .map(|pick| lead_cost(&was, &pick.iter().zip(&voters).map(|(i, voters)| voters[*i]).collect::<Vec<_>>()))
            .min();
        assert_eq!(Some(lead_cost(&was, &is)), best, "{before:#?}\nbecame\n{layout:#?}");
    });
}

/// All ways to make so many choices out of so many.
fn all(count: usize, choices: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..choices.pow(count as u32)).map(move |n| (0..count as u32).map(|i| n / choices.pow(i) % choices).collect())
}

fn pairs(counts: impl IntoIterator<Item = usize>) -> usize {
    counts.into_iter().map(|n| n * n.saturating_sub(1) / 2).sum()
}

fn count<K: Ord>(items: impl IntoIterator<Item = K>) -> BTreeMap<K, usize> {
    items.into_iter().fold(BTreeMap::new(), |mut counts, item| {
        *counts.entry(item).or_default() += 1;
        counts
    })
}

/// Copies that share a zone, unevenness, moves.
fn cost(before: &Layout, voters: &[BTreeSet<NodeId>]) -> (usize, usize, usize) {
    let crowded =
        voters.iter().map(|voters| pairs(count(voters.iter().map(|node| &before.nodes[node].zone)).into_values()));
    let uneven = pairs(count(voters.iter().flatten()).into_values());
    let moved = before.groups.values().zip(voters).map(|(group, voters)| voters.difference(&group.voters).count());
    (crowded.sum(), uneven, moved.sum())
}

fn lead_cost(before: &[NodeId], leaders: &[NodeId]) -> (usize, usize) {
    (pairs(count(leaders).into_values()), before.iter().zip(leaders).filter(|(was, is)| was != is).count())
}

/// A node joins a cluster that was even: it gets its share, and nothing moves between the others.
#[test]
fn a_new_node_gets_its_share_and_nothing_else_moves() {
    let host = || Host { state: NodeState::Active, zone: "".into(), reachable: true };
    let founder = Replicas { voters: [NodeId(1)].into(), leader: Some(NodeId(1)), ..Replicas::default() };
    let mut layout = Layout {
        replication_factor: 3,
        nodes: (1..=3).map(|node| (NodeId(node), host())).collect(),
        groups: (0..=12).map(|group| (GroupId(group), founder.clone())).collect(),
    };
    follow(&mut layout);
    for node in 4..=8 {
        let before = layout.clone();
        layout.nodes.insert(NodeId(node), host());
        let plan = follow(&mut layout);
        judge(&layout, &plan);
        assert!(spread(&layout, copies) <= 1 && spread(&layout, leads) <= 1, "{layout:#?}");
        let copied: BTreeSet<NodeId> = plan
            .steps
            .iter()
            .filter_map(|step| if let Step::AddLearner { node, .. } = step { Some(*node) } else { None })
            .collect();
        assert_eq!(copied, BTreeSet::from([NodeId(node)]));
        assert_eq!(moves(&plan.steps), copies(&layout, NodeId(node)));
        assert!((1..node).all(|node| copies(&layout, NodeId(node)) <= copies(&before, NodeId(node))));
    }
}

#[test]
fn the_largest_cluster_is_planned() {
    let mut rng = StdRng::seed_from_u64(7);
    let host = |zone: u64| Host { state: NodeState::Active, zone: format!("z{zone}").into(), reachable: true };
    let nodes: BTreeMap<NodeId, Host> =
        (1..=CLUSTER_NODES_MAX as u64).map(|node| (NodeId(node), host(node % 7))).collect();
    let ids: Vec<NodeId> = nodes.keys().copied().collect();
    let replicas = |rng: &mut StdRng| {
        let voters: BTreeSet<NodeId> = ids.choose_multiple(rng, 5).copied().collect();
        Replicas { leader: voters.first().copied(), voters, learners: BTreeSet::new() }
    };
    let groups = (0..=u32::from(GROUPS_MAX)).map(|group| (GroupId(group), replicas(&mut rng))).collect();
    let mut layout = Layout { replication_factor: 5, nodes, groups };
    follow(&mut layout);
    assert!(spread(&layout, copies) <= 1 && spread(&layout, leads) <= 1);
}
