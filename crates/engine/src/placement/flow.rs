//! Minimum-cost flow: the cheapest way to send so many units through a network, by successive shortest paths.

use std::collections::VecDeque;

/// What a unit costs. Compared by its first field that differs: no amount of a later one outweighs an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Something stays on a node that is to be empty.
    pub leaving: i64,
    /// Replicas of one group share a zone: pairs.
    pub crowded: i64,
    /// Nodes hold many: pairs of what one node holds.
    pub uneven: i64,
    /// A copy has to be made.
    pub copied: i64,
    /// A vote, or leadership, goes to somebody else.
    pub moved: i64,
    /// Something stays on a node that does not answer.
    pub unreachable: i64,
    /// Something other than the leader stays.
    pub follower: i64,
}

impl Cost {
    /// This, and so many times the other.
    fn plus(self, times: i64, other: Self) -> Self {
        Self {
            leaving: self.leaving + times * other.leaving,
            crowded: self.crowded + times * other.crowded,
            uneven: self.uneven + times * other.uneven,
            copied: self.copied + times * other.copied,
            moved: self.moved + times * other.moved,
            unreachable: self.unreachable + times * other.unreachable,
            follower: self.follower + times * other.follower,
        }
    }
}

pub type Vertex = usize;
pub type Edge = usize;

pub const SOURCE: Vertex = 0;
pub const SINK: Vertex = 1;

struct Capacity {
    from: Vertex,
    to: Vertex,
    max: u32,
    flow: u32,
    /// Of the first unit.
    cost: Cost,
    /// How much more each unit costs than the one before.
    growth: Cost,
}

/// An edge of the residual network: one more unit along an edge, or one back.
#[derive(Clone, Copy)]
struct Residual {
    edge: Edge,
    is_back: bool,
}

/// A network from [`SOURCE`] to [`SINK`].
pub struct Network {
    edges: Vec<Capacity>,
    residuals: Vec<Vec<Residual>>,
}

impl Network {
    pub fn new() -> Self {
        Self { edges: Vec::new(), residuals: vec![Vec::new(), Vec::new()] }
    }

    pub fn vertex(&mut self) -> Vertex {
        self.residuals.push(Vec::new());
        self.residuals.len() - 1
    }

    /// An edge on which every unit costs the same.
    pub fn edge(&mut self, from: Vertex, to: Vertex, max: u32, cost: Cost) -> Edge {
        self.convex_edge(from, to, max, cost, Cost::default())
    }

    /// An edge on which each unit costs more than the one before, by what is not negative.
    pub fn convex_edge(&mut self, from: Vertex, to: Vertex, max: u32, cost: Cost, growth: Cost) -> Edge {
        let edge = self.edges.len();
        self.edges.push(Capacity { from, to, max, flow: 0, cost, growth });
        self.residuals[from].push(Residual { edge, is_back: false });
        self.residuals[to].push(Residual { edge, is_back: true });
        edge
    }

    /// Sends as much as there is capacity for, at the least cost.
    pub fn run(&mut self) {
        while let Some(path) = self.shortest_path() {
            for Residual { edge, is_back } in path {
                let flow = &mut self.edges[edge].flow;
                *flow = if is_back { *flow - 1 } else { *flow + 1 };
            }
        }
    }

    /// What flows along an edge.
    pub fn flow(&self, edge: Edge) -> u32 {
        self.edges[edge].flow
    }

    /// Where one unit more would go, and what it would cost; nowhere if there is no capacity.
    fn next(&self, residual: Residual) -> Option<(Vertex, Cost)> {
        let Capacity { from, to, max, flow, cost, growth } = &self.edges[residual.edge];
        if residual.is_back {
            return (*flow > 0).then(|| (*from, Cost::default().plus(-1, cost.plus(i64::from(flow - 1), *growth))));
        }
        (flow < max).then(|| (*to, cost.plus(i64::from(*flow), *growth)))
    }

    /// The cheapest path that has capacity. Costs of ways back are negative, so it is Bellman's and Ford's algorithm; since
    /// every path so far was the cheapest, there is no negative cycle.
    fn shortest_path(&self) -> Option<Vec<Residual>> {
        let mut best: Vec<Option<Cost>> = vec![None; self.residuals.len()];
        let mut came: Vec<Option<(Vertex, Residual)>> = vec![None; self.residuals.len()];
        let mut is_waiting = vec![false; self.residuals.len()];
        let mut waiting = VecDeque::from([SOURCE]);
        best[SOURCE] = Some(Cost::default());
        while let Some(vertex) = waiting.pop_front() {
            is_waiting[vertex] = false;
            let so_far = best[vertex]?;
            for &residual in &self.residuals[vertex] {
                let Some((to, cost)) = self.next(residual) else { continue };
                let cost = so_far.plus(1, cost);
                if best[to].is_some_and(|known| known <= cost) {
                    continue;
                }
                (best[to], came[to]) = (Some(cost), Some((vertex, residual)));
                if !std::mem::replace(&mut is_waiting[to], true) {
                    waiting.push_back(to);
                }
            }
        }
        let mut path = Vec::new();
        let mut vertex = SINK;
        while vertex != SOURCE {
            let (from, residual) = came[vertex]?;
            path.push(residual);
            vertex = from;
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(moved: i64) -> Cost {
        Cost { moved, ..Cost::default() }
    }

    #[test]
    fn a_later_field_never_outweighs_an_earlier_one() {
        let uneven = Cost { uneven: 1, moved: -1_000, ..Cost::default() };
        assert!(uneven > moved(1_000));
        assert_eq!(uneven.plus(-1, uneven), Cost::default());
    }

    /// Two workers, two jobs; the first worker's cheap job is the only one that the second can do.
    #[test]
    fn an_early_choice_is_taken_back_when_that_is_cheaper_overall() {
        let mut network = Network::new();
        let [one, two, easy, hard] = std::array::from_fn(|_| network.vertex());
        for (from, to) in [(SOURCE, one), (SOURCE, two), (easy, SINK), (hard, SINK)] {
            network.edge(from, to, 1, Cost::default());
        }
        let edges =
            [(one, easy, 1), (one, hard, 2), (two, easy, 1)].map(|(from, to, n)| network.edge(from, to, 1, moved(n)));
        network.run();
        assert_eq!(edges.map(|edge| network.flow(edge)), [0, 1, 1]);
    }

    #[test]
    fn what_grows_dearer_is_shared_until_it_costs_as_much_elsewhere() {
        let mut network = Network::new();
        let [hub, cheap, dear] = std::array::from_fn(|_| network.vertex());
        network.edge(SOURCE, hub, 5, Cost::default());
        let edges = [(cheap, 0), (dear, 2)].map(|(to, cost)| {
            network.edge(to, SINK, 5, Cost::default());
            network.convex_edge(hub, to, 5, moved(cost), moved(1))
        });
        network.run();
        assert_eq!(edges.iter().map(|edge| network.flow(*edge)).sum::<u32>(), 5);
        assert!(matches!(edges.map(|edge| network.flow(edge)), [4, 1] | [3, 2]));
    }
}
