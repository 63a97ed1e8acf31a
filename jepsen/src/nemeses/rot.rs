//! Bits flip in files of a stopped node that it has closed: sorted tables, old logs, snapshots. When it starts again it
//! must repair what is wrong, or stop and say so; wrong data it must never serve. A node that stops is replaced.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coda_checkers::properties as p;
use coda_protocol::cluster::NodeState;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::sleep;
use tracing::info;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::needs::Need;
use crate::stage::Stage;

const FILES_MAX: usize = 4;
const FLIPS_PER_FILE: u32 = 3;
/// How long a node that has started may take to find it.
const FINDS_WITHIN: Duration = Duration::from_secs(8);
/// What a node says that has found it.
const SAYS: [&str; 3] = ["CODA4103", "CODA4104", "CODA4107"];
/// How such a node is replaced.
const HELPS: &str = "coda-admin node replace";
/// A copy elsewhere is needed.
const NODES: u64 = 3;

pub const KINDS: &[Kind] = &[Kind {
    name: "bit-rot",
    about: "bits flip in closed files of one stopped node: it repairs them, or stops and says so, and is replaced",
    needs: &[Need::Disks, Need::Nodes(NODES)],
    mixes: false,
    make: || Box::new(Rot::default()),
}];

#[derive(Default)]
struct Rot {
    node: u64,
    flipped: Vec<PathBuf>,
    /// What became of the node.
    fate: String,
    is_lost: bool,
}

impl Nemesis for Rot {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let (node, led) = stage.some_node()?;
        self.node = node;
        Some(Plan { nodes: vec![node], led, lasts: FINDS_WITHIN, excuses: true, ..Plan::default() })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            // A clean stop leaves files that are whole.
            if let Err(error) = stage.cluster.stop(self.node).await {
                let what = format!("node {} did not stop cleanly: {error:#}", self.node);
                stage.findings.violation(p::NODES_STAY_UP, what);
            }
            let mut files = closed_files(stage.cluster.disk(self.node)?.folder());
            files.shuffle(&mut stage.chance);
            for file in files.into_iter().take(FILES_MAX) {
                if flip(&file, &mut stage.chance)? {
                    self.flipped.push(file);
                }
            }
            let started = stage.cluster.start(self.node).await;
            if let Err(error) = &started {
                info!(node = self.node, %error, "does not start");
            }
            self.is_lost = started.is_err();
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            if self.flipped.is_empty() {
                return Ok(Err("there was no closed file".into()));
            }
            self.is_lost |= stage.cluster.has_fallen(self.node) || self.has_failed(stage).await;
            let folder = stage.cluster.folder(self.node)?;
            let said = ["node.err", "node.out"].map(|file| fs::read(folder.join(file)).unwrap_or_default()).concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            let code = SAYS.iter().find(|code| said.contains(**code));
            if self.is_lost && !said.contains(HELPS) {
                let what = format!("node {} stopped and did not say how it is replaced", self.node);
                stage.findings.violation(p::NODES_STAY_UP, what);
            }
            self.fate = match (self.is_lost, code) {
                (false, None) => "it went on, and found nothing".to_owned(),
                (false, Some(code)) => format!("it went on after {code}"),
                (true, Some(code)) => format!("it stopped with {code}, and was replaced"),
                (true, None) => {
                    let what = format!("node {} stopped and did not say that it is corrupt", self.node);
                    stage.findings.violation(p::NODES_STAY_UP, what);
                    "it stopped without a word".to_owned()
                }
            };
            let names: Vec<_> = self.flipped.iter().filter_map(|path| path.file_name()).collect();
            Ok(Ok(format!("bits of {names:?} were flipped; {}", self.fate)))
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            if !self.is_lost {
                return Ok(());
            }
            stage.cluster.forget(self.node).await;
            let fresh = stage.next_node();
            stage.cluster.add(fresh).await?;
            stage.operator.join(stage.cluster.options(&[fresh])?).await?;
            stage.operator.until_state(fresh, NodeState::Active).await?;
            stage.operator.drain(self.node).await?;
            stage.operator.remove(self.node).await
        })
    }
}

impl Rot {
    /// Whether one of its groups has stopped, as the node says itself.
    async fn has_failed(&self, stage: &Stage) -> bool {
        // It may not have said so yet.
        sleep(Duration::from_millis(500)).await;
        let Ok(report) = stage.operator.report().await else { return false };
        report
            .node(coda_protocol::ids::NodeId(self.node))
            .is_some_and(|node| node.replicas.iter().any(|replica| replica.failure.is_some()))
    }
}

/// Files that nobody writes any more, when a node has stopped: all but the newest log, and what says which files there are.
fn closed_files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    walk(folder, &mut all);
    all.sort();
    let ends = |path: &Path, end: &str| path.extension().is_some_and(|extension| extension == end);
    let newest_log = all.iter().rfind(|path| ends(path, "log")).cloned();
    let is_snapshot = |path: &Path| path.components().any(|part| part.as_os_str() == "snapshots");
    all.retain(|path| {
        let has_content = fs::metadata(path).is_ok_and(|file| file.len() > 0);
        has_content
            && (ends(path, "sst") || is_snapshot(path) || (ends(path, "log") && newest_log.as_ref() != Some(path)))
    });
    all
}

fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, all);
        } else {
            all.push(path);
        }
    }
}

/// Flips some bits, where there is something.
fn flip(path: &Path, chance: &mut StdRng) -> anyhow::Result<bool> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut has_flipped = false;
    for _ in 0..FLIPS_PER_FILE {
        let at = chance.random_range(0..length);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << chance.random_range(0..8);
        file.write_all_at(&byte, at)?;
        has_flipped = true;
    }
    file.sync_all()?;
    Ok(has_flipped)
}
