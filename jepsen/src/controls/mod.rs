//! Does the power cut of all nodes do what it says? Two other systems answer: one that syncs before it acknowledges, and
//! must lose nothing, and one that does not, and must lose messages that it has acknowledged.

mod etcd;
mod nats;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::LocalBoxFuture;
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::sleep;
use tracing::info;

use crate::args::{ControlArgs, System};
use crate::disk::Disk;
use crate::needs::Need;
use crate::network::{Host, Network, namespace_path};
use crate::process::Process;
use crate::verdict::Verdict;
use crate::world;

const NODES: u64 = 3;
/// How long messages are sent before the power goes.
const SENDS: Duration = Duration::from_secs(8);
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Fewer say nothing.
const ACKNOWLEDGED_MIN: usize = 100;

type Doing<'a, T> = LocalBoxFuture<'a, anyhow::Result<T>>;

/// How another system is started and used.
trait Peer {
    /// The program, as Debian's package brings it.
    fn program(&self) -> (&'static str, &'static str);
    /// Its arguments on one node.
    fn arguments(&self, node: u64, data: &Path) -> Vec<String>;
    /// Waits until it takes writes.
    fn ready(&mut self) -> Doing<'_, ()>;
    /// Writes as many messages as it acknowledges in so long.
    fn send(&mut self, length: Duration) -> Doing<'_, Vec<u64>>;
    /// Whether there is anything at all, and which messages.
    fn read(&mut self) -> Doing<'_, Vec<u64>>;
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    system: String,
    acknowledged: usize,
    lost: usize,
    /// Nodes on which something that was not synced survived.
    lit: Vec<u64>,
    verdict: Verdict,
}

pub async fn run(args: &ControlArgs) -> anyhow::Result<Verdict> {
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    ensure!(fs::read_dir(&args.out)?.next().is_none(), "{} is not empty", args.out.display());
    let mut peer: Box<dyn Peer> = match args.system {
        System::Etcd => Box::new(etcd::Etcd),
        System::Nats => Box::new(nats::Nats::default()),
    };
    let (program, package) = peer.program();
    let needs = [Need::Network, Need::Disks, Need::Program(program, package)];
    if let Some(why) = needs.into_iter().find_map(|need| need.missing(NODES)) {
        println!("skipped: {why}");
        return Ok(Verdict::Skipped);
    }
    let out = args.out.canonicalize()?;
    let mut network = Network::open(1)?;
    let mut nodes = Vec::new();
    for node in 1..=NODES {
        network.add(node)?;
        let folder = out.join(format!("node-{node}"));
        fs::create_dir_all(&folder)?;
        nodes.push((node, Disk::make(&folder)?, folder));
    }
    let start = |peer: &dyn Peer| -> anyhow::Result<Vec<Process>> {
        let spawn = |(node, disk, folder): &(u64, Disk, std::path::PathBuf)| {
            let mut command = world::command("nsenter");
            command.arg(format!("--net={}", namespace_path(*node)));
            command.arg(program).args(peer.arguments(*node, disk.folder())).current_dir(folder);
            Process::spawn("node", command, folder)
        };
        nodes.iter().map(spawn).collect()
    };
    let processes = start(peer.as_ref())?;
    peer.ready().await?;
    info!(program, "sends");
    let acknowledged = peer.send(SENDS).await?;
    info!(acknowledged = acknowledged.len(), "the power goes");
    for process in &processes {
        process.signal(Signal::STOP)?;
    }
    nodes.iter().try_for_each(|(_, disk, _)| disk.cut())?;
    for process in processes {
        process.kill().await?;
    }
    let mut lit = Vec::new();
    for (node, disk, _) in &nodes {
        if !disk.restore().await? {
            lit.push(*node);
        }
    }
    let processes = start(peer.as_ref())?;
    peer.ready().await?;
    let read = peer.read().await?;
    let read: std::collections::BTreeSet<u64> = read.into_iter().collect();
    let lost = acknowledged.iter().filter(|message| !read.contains(message)).count();
    let as_expected = match args.system {
        System::Etcd => lost == 0,
        System::Nats => lost > 0,
    };
    let verdict = if acknowledged.len() < ACKNOWLEDGED_MIN || !lit.is_empty() {
        Verdict::InvalidCoverage
    } else if as_expected {
        Verdict::Valid
    } else {
        Verdict::Invalid
    };
    let outcome = Outcome { system: program.to_owned(), acknowledged: acknowledged.len(), lost, lit, verdict };
    fs::write(out.join("summary.json"), serde_json::to_vec_pretty(&outcome)?)?;
    println!("verdict: {verdict}\n{program}: {lost} of {} acknowledged messages are lost", outcome.acknowledged);
    drop(processes);
    for (_, disk, _) in &nodes {
        disk.remove().await;
    }
    Ok(verdict)
}

/// Tries until it succeeds.
async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what} within {READY_WITHIN:?}")));
            }
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

fn address(node: u64, port: u16) -> String {
    format!("{}:{port}", Host::Node(node).address())
}
