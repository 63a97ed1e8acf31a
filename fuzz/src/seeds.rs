//! Writes what fuzzing starts from into a folder for each target: `seeds FOLDER`; and says which targets there are.

use std::fs;
use std::path::PathBuf;

use coda_fuzz_targets::{TARGETS, seeds};

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder"));
    for target in &TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder).expect("a folder");
        let kept = seeds::kept(target.name);
        for (i, seed) in seeds::of(target.name).iter().chain(&kept).enumerate() {
            fs::write(folder.join(format!("seed-{i:03}")), seed).expect("a file");
        }
        println!("{}", target.name);
    }
}
