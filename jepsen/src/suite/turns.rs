//! Whose turn it is: rounds in which each nemesis has one turn, each round in an order of its own, cut into runs. A run is known
//! by the seed and its number alone, so that a suite can go on where it stopped.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Faults of one cluster: enough that one comes after the other, and few enough that a run is short.
pub const FAULTS_PER_RUN: usize = 5;
/// So many copies, in turn.
const COPIES: [u8; 2] = [3, 5];

#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    pub nemeses: Vec<String>,
    pub copies: u8,
    pub seed: u64,
}

/// What the run of this number does; they count from 1.
pub fn turn(seed: u64, number: usize, nemeses: &[String], nodes: u64) -> Turn {
    let first = (number - 1) * FAULTS_PER_RUN;
    let of = |turn: usize| -> String {
        let round = turn / nemeses.len();
        let mut order: Vec<&String> = nemeses.iter().collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(round as u64)));
        order[turn % nemeses.len()].clone()
    };
    Turn {
        nemeses: (first..first + FAULTS_PER_RUN).map(of).collect(),
        copies: COPIES[number % COPIES.len()].min(u8::try_from(nodes).unwrap_or(u8::MAX)),
        seed: StdRng::seed_from_u64(seed.rotate_left(32) ^ number as u64).random(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn everybody_has_a_turn_before_anybody_has_two_and_runs_differ() {
        let nemeses: Vec<String> = (0..7).map(|n| format!("nemesis-{n}")).collect();
        let turns: Vec<Turn> = (1..=14).map(|number| turn(42, number, &nemeses, 5)).collect();
        let all: Vec<&String> = turns.iter().flat_map(|turn| &turn.nemeses).collect();
        for round in all.chunks(7) {
            let mut seen: Vec<&String> = round.to_vec();
            seen.sort();
            assert_eq!(seen, nemeses.iter().collect::<Vec<_>>());
        }
        let orders: BTreeMap<&[&String], ()> = all.chunks(7).map(|round| (round, ())).collect();
        assert!(orders.len() > 5, "orders differ: {orders:?}");
        assert_eq!((turns[0].copies, turns[1].copies), (5, 3));
        assert_ne!(turns[0].seed, turns[1].seed);
        assert_eq!(turn(42, 9, &nemeses, 5), turns[8], "whatever ran before");
        assert_ne!(turn(43, 9, &nemeses, 5).nemeses, turns[8].nemeses);
    }
}
