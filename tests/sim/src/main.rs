//! `coda-sim`: runs seeds.

use coda_sim::log;
use coda_sim::plan::Plan;
use coda_sim::run::run;

fn main() {
    let seed: u64 = std::env::args().nth(1).map_or(1, |seed| seed.parse().expect("a number"));
    if let Ok(level) = std::env::var("LOG") {
        log::print(level.parse().expect("a level"));
    }
    let plan = Plan::of(seed);
    println!("{plan}");
    let verdict = run(plan, std::env::var("TRACE").is_ok());
    println!("{verdict:?}");
    std::process::exit(i32::from(!verdict.problems.is_empty()));
}
