//! `coda run` with real processes. Each test waits for what it needs to see.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{CODA, ca_file, lines, wait_for};

/// A folder in which workers leave notes, and `coda run` above them.
struct Run {
    folder: tempfile::TempDir,
    process: Child,
}

impl Run {
    /// `script` is run by `sh` for each worker, in the folder.
    fn start(options: &[&str], script: &str) -> Self {
        Self::start_with(options, script, &[])
    }

    fn start_with(options: &[&str], script: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let errors = fs::File::create(folder.path().join("stderr")).unwrap();
        let process = Command::new(CODA)
            .arg("run")
            .args(options)
            .args(["--", "sh", "-c", script])
            .current_dir(folder.path())
            .env_remove("CODA_ADDRESS")
            .env_remove("CODA_CA")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        Self { folder, process }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.process.id().cast_signed()).unwrap(), signal).unwrap();
    }

    fn lines(&self, file: &str) -> Vec<String> {
        lines(&self.folder.path().join(file))
    }

    fn wait_for_lines(&self, file: &str, count: usize) -> Vec<String> {
        let found = || Some(self.lines(file)).filter(|lines| lines.len() >= count);
        wait_for(&format!("{count} lines in {file}, stderr: {:?}", self.lines("stderr")), found)
    }

    fn ended(&mut self) -> ExitStatus {
        wait_for("the end of coda run", || self.process.try_wait().unwrap())
    }

    fn told(&self, words: &str) -> bool {
        self.lines("stderr").iter().any(|line| line.contains(words))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A killed process whose new parent has not noticed yet counts as gone.
fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
}

fn wait_until_gone(pids: &[String]) {
    for pid in pids {
        wait_for(&format!("the end of process {pid}"), || is_gone(pid).then_some(()));
    }
}

/// Finishes on SIGTERM after writing a note.
const DRAINS: &str =
    "trap 'echo $CODA_WORKER_INDEX >> drained; exit 0' TERM; echo $$ >> pids; while :; do sleep 0.01; done";
/// Hears SIGTERM and goes on.
const STUBBORN: &str = "trap 'echo heard >> heard' TERM; echo $$ >> pids; while :; do sleep 0.01; done";

#[test]
fn each_worker_has_its_index_and_each_start_its_own_session() {
    let mut run = Run::start(&["-n", "2"], "echo $CODA_WORKER_INDEX $CODA_SESSION >> starts; exit 3");
    let starts = run.wait_for_lines("starts", 6);
    let mut indexes: Vec<&str> = starts.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let mut sessions: Vec<&str> = starts.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    indexes.sort_unstable();
    indexes.dedup();
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(indexes, ["0", "1"]);
    assert_eq!(sessions.len(), starts.len());
    assert!(sessions.iter().all(|session| session.len() == 36));
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code(), Some(0));
}

#[test]
fn a_worker_that_keeps_ending_is_started_again_ever_later_until_the_limit() {
    let mut run = Run::start(&["--max-restarts", "3"], "date +%s%N >> starts; exit 7");
    assert_eq!(run.ended().code(), Some(1));
    let starts: Vec<u64> = run.lines("starts").iter().map(|line| line.parse().unwrap()).collect();
    let gaps_ms: Vec<u64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    assert_eq!(gaps_ms.len(), 3);
    for (gap_ms, delay_ms) in gaps_ms.iter().zip([100, 200, 400]) {
        assert!(*gap_ms >= delay_ms, "{gaps_ms:?}");
    }
    assert!(run.told("ended with exit status: 7; next start in 100 ms"));
    assert!(run.told("error[CODA4305]: worker 0 ended more than 3 times within 300 s"));
}

#[test]
fn one_worker_beyond_its_limit_stops_the_others_cleanly() {
    let script =
        format!("if [ $CODA_WORKER_INDEX = 1 ]; then until [ -s pids ]; do sleep 0.01; done; exit 1; fi; {DRAINS}");
    let mut run = Run::start(&["-n", "2", "--max-restarts", "0"], &script);
    assert_eq!(run.ended().code(), Some(1));
    assert_eq!(run.lines("drained"), ["0"]);
}

#[test]
fn sigterm_lets_every_worker_finish() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut run = Run::start(&["-n", "3"], DRAINS);
        let pids = run.wait_for_lines("pids", 3);
        run.signal(signal);
        assert_eq!(run.ended().code(), Some(0), "{signal:?}");
        let mut drained = run.lines("drained");
        drained.sort_unstable();
        assert_eq!(drained, ["0", "1", "2"]);
        wait_until_gone(&pids);
    }
}

#[test]
fn a_second_signal_kills_those_who_do_not_finish() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut run = Run::start(&["-n", "2", "--drain-timeout", "1h"], STUBBORN);
        let pids = run.wait_for_lines("pids", 2);
        run.signal(Signal::TERM);
        run.wait_for_lines("heard", 2);
        run.signal(signal);
        assert_eq!(run.ended().code(), Some(status));
        wait_until_gone(&pids);
    }
}

#[test]
fn the_drain_timeout_kills_and_says_so() {
    let mut run = Run::start(&["-n", "2", "--drain-timeout", "300ms"], STUBBORN);
    let pids = run.wait_for_lines("pids", 2);
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code(), Some(1));
    assert!(run.told("error[CODA4306]: 2 of the workers had not ended 0.3 s after SIGTERM and were killed"));
    wait_until_gone(&pids);
}

#[test]
fn a_signal_between_two_starts_ends_the_wait() {
    let mut run = Run::start(&[], "echo x >> starts; exit 1");
    // The next delay is 3.2 s by now.
    run.wait_for_lines("starts", 6);
    let asked = Instant::now();
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert_eq!(run.lines("starts").len(), 6);
}

#[test]
fn no_worker_outlives_a_killed_supervisor() {
    let mut run = Run::start(&["-n", "3"], STUBBORN);
    let pids = run.wait_for_lines("pids", 3);
    run.signal(Signal::KILL);
    assert_eq!(run.ended().signal(), Some(9));
    wait_until_gone(&pids);
}

#[test]
fn what_a_dead_worker_left_in_its_group_is_killed() {
    let run = Run::start(&[], "sleep 1000 & echo $! >> left; exit 1");
    let left = run.wait_for_lines("left", 3);
    wait_until_gone(&left[..2]);
}

#[test]
fn a_node_that_cannot_be_reached_delays_no_restart() {
    // Bound and silent: connecting takes its full three seconds.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = ca_file(folder.path());
    let address = silent.local_addr().unwrap().to_string();
    let environment = [("CODA_ADDRESS", address.as_str()), ("CODA_CA", ca.as_str())];
    let started = Instant::now();
    let mut run = Run::start_with(&["--max-restarts", "3"], "echo x >> starts; exit 1", &environment);
    run.wait_for_lines("starts", 4);
    assert!(started.elapsed() < Duration::from_secs(3), "restarts waited for the node");
    assert_eq!(run.ended().code(), Some(1));
}
