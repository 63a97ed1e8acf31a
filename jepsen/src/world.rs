//! A world of the suite's own: a mount and a network namespace that nothing outside sees and no packet leaves.
//!
//! Everything that needs root is made in here. When the last process in it is gone, however it ended, the kernel takes
//! away the networks, the file systems and their loop devices: a killed suite leaves nothing behind but its folder.
//! Processes of the suite do not outlive it: the kernel kills them when their parent is gone.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};

/// Says that this process is inside already.
const INSIDE: &str = "CODA_JEPSEN_WORLD";
/// Where `ip` keeps namespaces as files.
const NAMESPACES: &str = "/run/netns";

/// Goes on as the same program in a world of its own. Returns when it is there, or at once if it cannot be: nemeses say
/// what they lack.
pub fn enter() -> anyhow::Result<()> {
    if !is_root() {
        return Ok(());
    }
    if !is_inside() {
        let me = env::current_exe().context("this program has no path")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "--"]).arg(me).args(env::args_os().skip(1));
        // Replaces this process: who signals it, signals the suite.
        let error = command.env(INSIDE, "1").exec();
        bail!("`unshare` cannot be run: {error}");
    }
    run("ip", &["link", "set", "lo", "up"])?;
    // Networks of other suites have the same names.
    std::fs::create_dir_all(NAMESPACES)?;
    run("mount", &["-t", "tmpfs", "none", NAMESPACES])
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether there is a world to make networks and disks in.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// A program that does not outlive the suite, where there is a world.
pub fn command(program: impl AsRef<OsStr>) -> tokio::process::Command {
    if !is_inside() {
        return tokio::process::Command::new(program);
    }
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Runs a program of the system to its end; what it said on standard output.
pub fn ask(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program).args(arguments).output().with_context(|| format!("`{program}` cannot be run"))?;
    if !done.status.success() {
        bail!("`{program} {}`: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    ask(program, arguments).map(drop)
}
