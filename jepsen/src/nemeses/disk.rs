//! The disk of a node is slow, hangs, is full, forgets to say the truth about syncs, or dies.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::Rng;
use tokio::process::Command;
use tokio::time::sleep;
use tracing::info;

use super::{Bite, Doing, Kind, Nemesis, Plan};
use crate::needs::Need;
use crate::process::Process;
use crate::stage::Stage;
use crate::throttle::Throttle;

const LASTS_MS: std::ops::Range<u64> = 4_000..12_000;
const SLOW_BYTES_PER_SECOND: std::ops::Range<u64> = 64 << 10..512 << 10;
const SLOW_PIECES_PER_SECOND: std::ops::Range<u64> = 10..100;
/// What may be left of a full disk: nothing fits in.
const LEFT_BYTES_MAX: u64 = 64 << 10;
/// Somebody waits for a hung disk within it: every node writes all the time.
const LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Syncs in sight, and then each is told an error.
const INJECTED: &str = "(INJECTED)";
const ATTACHES_WITHIN: Duration = Duration::from_secs(5);
const DETACHES_WITHIN: Duration = Duration::from_secs(10);

pub const KINDS: &[Kind] = &[
    Kind {
        needs: &[Need::Disks, Need::Throttle],
        ..kind("disk-slow", "the disk takes 64 to 512 KiB and 10 to 100 writes per second", || of(Harm::Slow))
    },
    Kind {
        needs: &[Need::Disks, Need::Program("fsfreeze", "util-linux")],
        ..kind("disk-hung", "the disk answers nothing for up to 12 s", || of(Harm::Hung))
    },
    kind("disk-full", "the disk is filled to the last block", || of(Harm::Full)),
    Kind {
        needs: &[Need::Program("strace", "strace")],
        ..kind("disk-sync", "every sync is told an error", || of(Harm::Sync))
    },
    kind("disk-dead", "the disk dies under the running node, and comes back without what was not synced", || {
        of(Harm::Dead)
    }),
];

const fn kind(name: &'static str, about: &'static str, make: fn() -> Box<dyn Nemesis>) -> Kind {
    Kind { name, about, needs: &[Need::Disks], mixes: true, make }
}

#[derive(Clone, Copy)]
enum Harm {
    Slow,
    Hung,
    Full,
    Sync,
    Dead,
}

fn of(harm: Harm) -> Box<dyn Nemesis> {
    Box::new(DiskFault { harm, node: 0, rate: (0, 0), throttle: None, freezer: None, tracer: None, bite: None })
}

struct DiskFault {
    harm: Harm,
    node: u64,
    /// Bytes and pieces per second.
    rate: (u64, u64),
    throttle: Option<Throttle>,
    freezer: Option<Child>,
    tracer: Option<(Process, PathBuf)>,
    bite: Option<Bite>,
}

impl Nemesis for DiskFault {
    fn plan(&mut self, stage: &mut Stage) -> Option<Plan> {
        let (node, led) = stage.leader()?;
        self.node = node;
        let chance = &mut stage.chance;
        self.rate = (chance.random_range(SLOW_BYTES_PER_SECOND), chance.random_range(SLOW_PIECES_PER_SECOND));
        let lasts = Duration::from_millis(chance.random_range(LASTS_MS));
        let how = match self.harm {
            Harm::Slow => format!("{} KiB and {} writes per second ", self.rate.0 >> 10, self.rate.1),
            Harm::Hung | Harm::Full | Harm::Sync | Harm::Dead => String::new(),
        };
        let more = format!("{how}for {} ms", lasts.as_millis());
        Some(Plan { nodes: vec![node], led, more, lasts, excuses: true })
    }

    fn install<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            let disk = stage.cluster.disk(self.node)?.clone();
            match self.harm {
                Harm::Slow => {
                    let pid = stage.cluster.process(self.node)?.pid();
                    self.throttle = Some(Throttle::begin(pid, &disk.device()?, self.rate.0, self.rate.1)?);
                }
                Harm::Hung => {
                    let mut freezer = disk.freezer().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
                    let mut said = String::new();
                    let told = freezer.stdout.take().context("it was asked for")?;
                    BufReader::new(told).read_line(&mut said)?;
                    ensure!(said.trim() == "frozen", "the disk cannot be frozen");
                    self.freezer = Some(freezer);
                    self.bite = Some(self.somebody_waits(stage).await?);
                }
                Harm::Full => {
                    let left = disk.fill()?;
                    let what = format!("{left} bytes were left");
                    self.bite = Some(if left <= LEFT_BYTES_MAX { Ok(what) } else { Err(what) });
                }
                Harm::Sync => self.fail_syncs(stage).await?,
                Harm::Dead => disk.cut()?,
            }
            Ok(())
        })
    }

    fn verify<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, Bite> {
        Box::pin(async move {
            if let Some(bite) = self.bite.take() {
                return Ok(bite);
            }
            let disk = stage.cluster.disk(self.node)?.clone();
            Ok(match self.harm {
                Harm::Slow => {
                    let throttle = self.throttle.as_ref().context("it was throttled")?;
                    let (took, least) = throttle.measure(disk.folder(), self.rate.0)?;
                    let what = format!("a write that should take {} ms took {}", least.as_millis(), took.as_millis());
                    if took >= least / 2 { Ok(what) } else { Err(what) }
                }
                Harm::Sync => {
                    let (_, notes) = self.tracer.as_ref().context("it was traced")?;
                    let failed = fs::read_to_string(notes).unwrap_or_default().matches(INJECTED).count();
                    let fate = if stage.cluster.has_fallen(self.node) { "the node ended" } else { "the node went on" };
                    let what = format!("{failed} syncs failed; {fate}");
                    if failed > 0 { Ok(what) } else { Err(what) }
                }
                Harm::Dead => {
                    let fate = if stage.cluster.has_fallen(self.node) { "the node ended" } else { "the node went on" };
                    match fs::read_dir(disk.folder()).and_then(|_| fs::write(disk.folder().join("probe"), "")) {
                        Err(error) => Ok(format!("a write was told `{error}`; {fate}")),
                        Ok(()) => Err("the disk takes writes".into()),
                    }
                }
                Harm::Hung | Harm::Full => Err("it was not looked at".into()),
            })
        })
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> Doing<'a, ()> {
        Box::pin(async move {
            match self.harm {
                Harm::Slow => drop(self.throttle.take()),
                Harm::Hung => {
                    let mut freezer = self.freezer.take().context("it was frozen")?;
                    drop(freezer.stdin.take());
                    ensure!(freezer.wait()?.success(), "the disk cannot be thawed");
                }
                Harm::Full => stage.cluster.disk(self.node)?.empty()?,
                Harm::Sync => {
                    if let Some((mut tracer, _)) = self.tracer.take() {
                        if !tracer.is_over() {
                            tracer.signal(rustix::process::Signal::TERM)?;
                        }
                        tracer.ended(DETACHES_WITHIN).await?;
                    }
                    // Nobody knows what is on such a disk: a node that goes on with what it believes would be wrong.
                    restart(stage, self.node).await?;
                }
                Harm::Dead => {
                    stage.cluster.kill(self.node).await?;
                    stage.cluster.disk(self.node)?.restore().await?;
                    stage.cluster.start(self.node).await?;
                }
            }
            if stage.cluster.has_fallen(self.node) {
                info!(node = self.node, "ended because of its disk");
                restart(stage, self.node).await?;
            }
            Ok(())
        })
    }
}

impl DiskFault {
    /// Whether a thread of the node waits for the disk.
    async fn somebody_waits(&self, stage: &Stage) -> anyhow::Result<Bite> {
        for _ in 0..LOOKS {
            let waiting = stage.cluster.process(self.node)?.states().matches('D').count();
            if waiting > 0 {
                return Ok(Ok(format!("{waiting} threads waited for the disk")));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(Err("nobody waited for the disk".into()))
    }

    async fn fail_syncs(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let folder = stage.cluster.folder(self.node)?;
        let pid = stage.cluster.process(self.node)?.pid();
        let notes = folder.join(format!("strace-{pid}"));
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-o"]).arg(&notes).args(["-e", "trace=fsync,fdatasync,sync_file_range"]);
        command.args(["-e", "inject=fsync,fdatasync,sync_file_range:error=EIO", "-p", &pid.to_string()]);
        let tracer = Process::spawn("strace", command, folder)?;
        let deadline = tokio::time::Instant::now() + ATTACHES_WITHIN;
        while !fs::read_to_string(&notes).unwrap_or_default().contains(INJECTED)
            && tokio::time::Instant::now() < deadline
        {
            sleep(LOOK_AGAIN).await;
        }
        self.tracer = Some((tracer, notes));
        Ok(())
    }
}

async fn restart(stage: &mut Stage, node: u64) -> anyhow::Result<()> {
    stage.cluster.kill(node).await?;
    stage.cluster.start(node).await
}
