//! Scripts in `tests/scripts/*.txt`: what is said, and beneath it, indented, what the engine answers and does. They are
//! read to learn the system and run to keep them true. `UPDATE_EXPECT=1` rewrites the indented lines.
//!
//! `&` joins commands into one log entry. Ids are names: `order-7` is a run or task of its own, `order-7/charge[e1]` its
//! step. `charge[e1]` is a step under the cache key `["e1"]`, `charge#0` under an automatic key, `charge!0` without
//! caching, `run:invoice[7]` a child run. Leases are numbered in the order in which they are granted.
#![expect(clippy::disallowed_methods, reason = "scripts are files, and an environment variable rewrites them")]

#[path = "../support/mod.rs"]
mod support;

mod book;
mod play;
mod words;

use std::path::{Path, PathBuf};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

#[test]
fn every_script_says_what_happens() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for path in scripts() {
        let script = std::fs::read_to_string(&path).unwrap();
        let played = play::play(&path.file_name().unwrap().to_string_lossy(), &script);
        if played != script && update {
            std::fs::write(&path, &played).unwrap();
        } else if played != script {
            let first = played.lines().zip(script.lines()).position(|(now, then)| now != then);
            let at = first.unwrap_or_else(|| played.lines().count().min(script.lines().count()));
            let line = |text: &str| text.lines().nth(at).unwrap_or("<the end>").to_owned();
            wrong.push(format!(
                "{}:{}: the script says {:?}, it is {:?}",
                path.display(),
                at + 1,
                line(&script),
                line(&played)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_EXPECT=1 rewrites them\n", wrong.join("\n"));
}
