//! Every target with everything that is kept for it, one good input of every kind, and a fixed number of mutations: the
//! same inputs on every machine. What fails is said with its bytes; put them into `fuzz/corpus/<target>/` and mend it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use coda_fuzz_targets::mutate::Chance;
use coda_fuzz_targets::{Target, seeds};

/// Another one tries other mutations.
const SEED: u64 = 4;

/// Whether the target made sense of it.
fn feed(target: &Target, input: &[u8], which: &str) -> bool {
    catch_unwind(AssertUnwindSafe(|| target.run(input))).unwrap_or_else(|_| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target {} failed with {which} of seed {SEED}, which is {hex}", target.name)
    })
}

fn replay(name: &str) {
    let target = Target::named(name);
    let seeds = seeds::of(name);
    let understood = seeds.iter().enumerate().filter(|(i, seed)| feed(target, seed, &format!("seed {i}"))).count();
    assert!(
        100 * understood >= target.understood_percent * seeds.len(),
        "{name} made sense of {understood} of {} seeds",
        seeds.len()
    );
    let mut inputs = seeds::kept(name);
    for (i, input) in inputs.iter().enumerate() {
        feed(target, input, &format!("kept input {i}"));
    }
    inputs.extend(seeds);
    let mut chance = Chance::new(SEED);
    for i in 0..target.mutations {
        feed(target, &chance.mutate(&inputs), &format!("mutation {i}"));
    }
}

#[test]
fn frames_of_clients() {
    replay("frame");
}

#[test]
fn bodies_of_clients_and_of_the_log() {
    replay("codec");
}

#[test]
fn frames_and_questions_of_peers() {
    replay("peer");
}

#[test]
fn commands_and_requests() {
    replay("command");
}

#[test]
fn storage_keys() {
    replay("keys");
}

#[test]
fn messages_of_raft() {
    replay("raft");
}

#[test]
fn records_of_the_log_and_rows() {
    replay("records");
}

#[test]
fn snapshot_files() {
    replay("snapshot");
}

#[test]
fn certificates() {
    replay("certificate");
}
