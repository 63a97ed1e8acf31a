//! `coda dev` and the commands that need a node, with a real node and, where needed, a real worker.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use coda_client::{ConnectOptions, Worker};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{ADMIN, CODA, lines, wait_for};

/// A project folder with a node in it, and whatever else is started there.
struct Project {
    folder: tempfile::TempDir,
    node: Child,
}

impl Project {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = dev(folder.path(), &["--port", "0"]);
        Self { folder, node }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        command(self.path(), program, arguments)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// What a command that must succeed prints.
    fn data(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn json(&self, program: &str, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.data(program, &[arguments, &["-o", "json"]].concat())).unwrap()
    }

    /// Supervised workers: this test program, in the part of a worker.
    fn workers(&self) -> Running {
        let me = std::env::current_exe().unwrap();
        let worker = [me.to_str().unwrap(), "--exact", "dev::the_part_of_a_worker", "--ignored", "--nocapture"];
        let mut run = self.command(CODA, &[&["run", "-n", "1", "--"], worker.as_slice()].concat());
        Running(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

/// Killed when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(folder: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    ["CODA_ADDRESS", "CODA_CA", "CODA_CERT", "CODA_KEY", "CODA_SESSION"].iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// Starts a node in the folder and waits until it says that it is ready.
fn dev(folder: &Path, options: &[&str]) -> Child {
    let (out, err) = (folder.join("dev.out"), folder.join("dev.err"));
    let mut child = command(folder, CODA, &[&["dev"], options].concat())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    wait_for("the node", || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the node ended with {ended:?}: {}", fs::read_to_string(&err).unwrap());
        lines(&out).first().is_some_and(|line| line.starts_with("coda is ready on 127.0.0.1:")).then_some(())
    });
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

fn ended(child: &mut Child) -> ExitStatus {
    wait_for("the end of the process", || child.try_wait().unwrap())
}

#[test]
fn work_that_waits_says_why_and_operators_hold_queues() {
    let project = Project::start();
    let run = project.data(CODA, &["workflow", "start", "process_order", "--input", "{\"order\": 7}"]);
    let described = project.json(CODA, &["workflow", "describe", &run]);
    assert_eq!((&described["state"], &described["waits"]), (&"ready".into(), &"no_worker".into()));

    let queue = project.data(CODA, &["queue", "describe", "default"]);
    assert!(queue.contains("workflow process_order: no worker has registered this name: start one with"), "{queue}");
    project.data(ADMIN, &["queue", "pause", "default"]);
    assert_eq!(project.json(ADMIN, &["queue", "list"])["queues"][0]["state"], "paused");
    assert_eq!(project.json(CODA, &["workflow", "describe", &run])["waits"], "queue_paused");
    project.data(ADMIN, &["queue", "unpause", "default"]);
    assert_eq!(project.json(CODA, &["queue", "describe", "default"])["state"], "active");

    assert_eq!(project.run(CODA, &["workflow", "result", &run, "--timeout", "100ms"]).status.code(), Some(124));
    assert_eq!(project.json(ADMIN, &["node", "status"])["groups"][0]["role"], "leader");
}

#[test]
fn an_id_starts_one_run_and_unknown_ids_are_not_found() {
    let project = Project::start();
    let id = "0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01";
    let start = |name: &str| project.run(CODA, &["workflow", "start", name, "--id", id, "-o", "json"]);
    let existed = |output: Output| serde_json::from_slice::<Value>(&output.stdout).unwrap()["existed"].clone();
    assert_eq!(existed(start("nightly")), false);
    assert_eq!(existed(start("nightly")), true);
    let other = "0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a02";
    for arguments in [["workflow", "describe", other], ["workflow", "result", other], ["task", "describe", other]] {
        assert_eq!(project.run(CODA, &arguments).status.code(), Some(3), "{arguments:?}");
    }
}

#[test]
fn results_are_data_and_failures_are_errors() {
    let project = Project::start();
    let _workers = project.workers();
    assert_eq!(project.data(CODA, &["task", "submit", "double", "--input", "{\"n\": 21}", "--wait"]), "42");
    let failed = project.run(CODA, &["task", "submit", "fail", "--wait"]);
    let told = String::from_utf8(failed.stderr).unwrap();
    assert_eq!((failed.status.code(), failed.stdout.as_slice()), (Some(1), b"".as_slice()));
    assert!(told.starts_with("error[CODA4303]: task ") && told.contains("on purpose"), "{told}");
}

/// The node notices a silent worker after 5 s and gives it 2 s more; being told is faster than that.
#[test]
fn a_killed_worker_gives_its_task_back_at_once() {
    let project = Project::start();
    let mut workers = project.workers();
    let attempts = project.path().join("attempts");
    let task = project.data(CODA, &["task", "submit", "survive"]);
    let pid: i32 = wait_for("the first attempt", || lines(&attempts).first().cloned()).parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let killed = Instant::now();
    wait_for("the second attempt", || lines(&attempts).get(1).cloned());
    assert!(killed.elapsed() < Duration::from_secs(4), "the task came back after {:?}", killed.elapsed());
    assert_eq!(project.data(CODA, &["task", "result", &task]), "\"survived\"");
    signal(&workers.0, Signal::TERM);
    assert_eq!(ended(&mut workers.0).code(), Some(0));
}

#[test]
fn a_node_stops_cleanly_and_starts_again_with_everything() {
    let mut project = Project::start();
    let run = project.data(CODA, &["workflow", "start", "process_order"]);
    for number in [Signal::TERM, Signal::INT] {
        signal(&project.node, number);
        assert_eq!(ended(&mut project.node).code(), Some(0));
        assert_eq!(lines(&project.path().join("dev.err")).last().map(String::as_str), Some("coda has stopped"));
        project.node = dev(project.path(), &["--port", "0"]);
        assert_eq!(project.json(CODA, &["workflow", "describe", &run])["state"], "ready");
    }
}

#[test]
fn a_second_signal_ends_the_node_at_once_and_loses_nothing() {
    let mut project = Project::start();
    let run = project.data(CODA, &["workflow", "start", "process_order"]);
    // Stopped meanwhile, it finds both when it goes on.
    for number in [Signal::STOP, Signal::INT, Signal::TERM, Signal::CONT] {
        signal(&project.node, number);
    }
    // Which of the two it sees first is chance.
    let end = ended(&mut project.node);
    assert!(matches!(end.code(), Some(130 | 143)), "{end:?}: {:?}", lines(&project.path().join("dev.err")));
    project.node = dev(project.path(), &["--port", "0"]);
    assert_eq!(project.json(CODA, &["workflow", "describe", &run])["state"], "ready");
}

#[test]
fn a_second_node_on_the_same_folder_or_address_is_a_conflict() {
    let project = Project::start();
    let folder = project.run(CODA, &["dev", "--port", "0"]);
    let told = String::from_utf8(folder.stderr).unwrap();
    assert_eq!((folder.status.code(), folder.stdout.as_slice()), (Some(4), b"".as_slice()), "{told}");
    assert!(told.starts_with("error[CODA4101]: another coda process uses ") && told.contains("\nhelp: "), "{told}");

    let ready = lines(&project.path().join("dev.out")).remove(0);
    let address = ready.rsplit(' ').next().unwrap();
    let address = project.run(CODA, &["dev", "--data-dir", "other", "--listen", address]);
    assert_eq!(address.status.code(), Some(4), "{}", String::from_utf8_lossy(&address.stderr));
    // The first one is none the worse for it.
    project.data(CODA, &["queue", "list"]);
}

#[test]
fn an_ephemeral_node_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = dev(folder.path(), &["--ephemeral", "--port", "0"]);
    let said = lines(&folder.path().join("dev.out"));
    let data = said.iter().find_map(|line| line.trim().strip_prefix("data ")).unwrap();
    let data = data.trim().strip_suffix(" (removed when this ends)").unwrap();
    assert!(Path::new(data).is_dir() && !folder.path().join(".coda").exists());
    signal(&node, Signal::TERM);
    assert_eq!(ended(&mut node).code(), Some(0));
    assert!(!Path::new(data).exists());
}

/// Not a test: `coda run` starts this program with exactly this name.
#[test]
#[ignore = "the process that the other tests supervise"]
fn the_part_of_a_worker() {
    let double = async |arguments: Value| Ok::<_, String>(arguments["n"].as_i64().unwrap_or(0) * 2);
    let fail = async |_: Value| Err::<Value, _>("on purpose".to_owned());
    let worker = Worker::builder(ConnectOptions::discover().unwrap())
        .task("double", double)
        .task("fail", fail)
        .task("survive", async |_: Value| Ok::<_, String>(survive().await))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        worker
            .run_until(async move {
                let _ = terminate.recv().await;
            })
            .await
            .unwrap();
    });
}

/// Hangs until it is killed, the first time.
async fn survive() -> &'static str {
    use std::io::Write;
    let mut attempts = fs::OpenOptions::new().create(true).append(true).open("attempts").unwrap();
    writeln!(attempts, "{}", std::process::id()).unwrap();
    if lines(Path::new("attempts")).len() == 1 {
        std::future::pending::<()>().await;
    }
    "survived"
}
