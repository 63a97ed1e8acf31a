//! The model test: random histories of clients, workers and leaders against one engine, judged by invariants after each
//! entry and by an oracle that shares no rule with the engine. A failure prints its seed.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "the number of seeds comes from outside")]

mod oracle;
mod program;
mod sim;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use coda_engine::apply::apply;
use coda_engine::kv::{Kv, MemKv, Overlay};
use coda_engine::recover::recover;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sim::{GROUP, Sim};

const DEEDS: usize = 170;

fn history(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.run(DEEDS);
    sim
}

/// Every history ends well, is the same twice, and is the same through an overlay that flushes now and then.
fn check(seed: u64) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let sim = history(seed);
        let flushed = through_overlay(seed, &sim);
        assert!(flushed == sim.kv, "an overlay ends in other bytes");
    }));
    if let Err(panic) = result {
        eprintln!("\nseed {seed} fails: paste it into `a_seed_that_failed`\n");
        resume_unwind(panic);
    }
}

#[test]
fn random_histories_keep_every_promise() {
    let seeds: u64 = std::env::var("CODA_MODEL_SEEDS").ok().map_or(200, |n| n.parse().expect("a number"));
    let first: u64 = std::env::var("CODA_MODEL_FIRST").ok().map_or(0, |n| n.parse().expect("a number"));
    (first..first + seeds).for_each(check);
}

/// Paste the seed here.
#[test]
fn a_seed_that_failed() {
    check(0);
}

#[test]
fn the_same_seed_is_the_same_history_byte_for_byte() {
    for seed in [1, 2, 3] {
        let (one, two) = (history(seed), history(seed));
        assert!(one.log == two.log && one.kv == two.kv, "seed {seed}");
    }
}

#[test]
fn histories_hold_what_they_are_for() {
    let work: usize = (0..10).map(|seed| sim::leased(&history(seed).log).len()).sum();
    assert!(work > 10 * 20, "only {work} pieces of work in 10 histories");
}

/// Applies a history again, on an overlay over what was flushed every few entries.
fn through_overlay(seed: u64, sim: &Sim) -> MemKv {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut base = MemKv::default();
    let mut rest = sim.log.iter().zip(1u64..).peekable();
    while rest.peek().is_some() {
        let count = rng.random_range(1..10);
        let mut overlay = Overlay::new(&base);
        for ((entry, applied), index) in rest.by_ref().take(count) {
            assert_eq!(apply(&mut overlay, GROUP, index, entry), *applied, "index {index}");
        }
        let hints = recover(&overlay, GROUP);
        let writes: Vec<_> = overlay.into_writes().collect();
        for (key, value) in writes {
            match value {
                Some(value) => base.put(key, value.to_vec()),
                None => base.delete(key),
            }
        }
        assert_eq!(recover(&base, GROUP), hints);
    }
    base
}
