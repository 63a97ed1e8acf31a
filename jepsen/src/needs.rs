//! What nemeses need of the machine. Where something is missing, the suite says so, and goes on without them.

use std::fs;
use std::path::Path;

use crate::clock::COMPILER;
use crate::world::{is_inside, is_root};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A namespace for each node, and taps that the hub carries frames between.
    Network,
    /// A file system for each node.
    Disks,
    /// A program of the system, and the package that has it.
    Program(&'static str, &'static str),
    /// The controller of disk bandwidth, of control groups version 1.
    Throttle,
    /// A compiler, for the library that lets a process see another time of day.
    FakeTime,
    /// So many, at the beginning.
    Nodes(u64),
}

pub const THROTTLE: &str = "/sys/fs/cgroup/blkio";

impl Need {
    /// Whether plain processes cannot have it.
    pub fn is_of_the_world(self) -> bool {
        matches!(self, Self::Network | Self::Disks | Self::Throttle | Self::FakeTime)
    }

    /// What is missing, if something is.
    pub fn missing(self, nodes: u64) -> Option<String> {
        let told = |is_there: bool, what: &str| (!is_there).then(|| what.to_owned());
        match self {
            Self::Network => world().or_else(|| program("ip", "iproute2")).or_else(|| {
                told(Path::new("/dev/net/tun").exists(), "the kernel has no taps: there is no /dev/net/tun")
            }),
            Self::Disks => world()
                .or_else(|| program("mkfs.ext4", "e2fsprogs"))
                .or_else(|| program("xfs_io", "xfsprogs"))
                .or_else(|| told(Path::new("/dev/loop-control").exists(), "the kernel has no loop devices")),
            Self::Program(name, package) => program(name, package),
            Self::Throttle => world().or_else(|| {
                let file = Path::new(THROTTLE).join("blkio.throttle.write_bps_device");
                let root = Path::new(THROTTLE).join("cgroup.procs");
                told(file.exists() || root.exists(), "there is no blkio controller of control groups version 1")
            }),
            Self::FakeTime => world().or_else(|| program(COMPILER, "gcc")),
            Self::Nodes(wanted) => told(nodes >= wanted, &format!("it takes {wanted} nodes")),
        }
    }
}

fn world() -> Option<String> {
    match (is_root(), is_inside()) {
        (false, _) => Some("it takes root".to_owned()),
        (true, false) => Some("the nodes are plain processes".to_owned()),
        (true, true) => None,
    }
}

fn program(name: &str, package: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let is_there = |folder: &str| fs::metadata(Path::new(folder).join(name)).is_ok();
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    (!folders.any(is_there)).then(|| format!("there is no program `{name}` (package {package})"))
}
