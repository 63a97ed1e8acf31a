mod common;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use common::*;
use coda_protocol::ids::*;
use coda_engine::entry::*;
use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_protocol::request::CompleteTask;
use coda_protocol::payload::Payload;
use coda_raft_store::group::GroupOptions;
use coda_raft_store::store::StoreOptions;

fn rss() -> u64 { let s = std::fs::read_to_string("/proc/self/status").unwrap(); s.lines().find(|l| l.starts_with("VmRSS")).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024 }
fn cpu() -> f64 { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect(); (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0 }

async fn bench(name: &str, proposers: u64, commands: u64, delay: u64, secs: u64) {
    let dir = tempfile::tempdir_in("/work").unwrap();
    let node = Node::with(dir.path(), StoreOptions { sync_delay: Duration::from_micros(delay) }, GroupOptions::new(GROUP, NodeId(1))).await;
    let next = Arc::new(AtomicU64::new(0)); let entries = Arc::new(AtomicU64::new(0));
    let lat = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let stop = Instant::now() + Duration::from_secs(secs);
    let mut tasks = vec![];
    let (c0, t0) = (cpu(), Instant::now());
    for _ in 0..proposers {
        let (group, next, entries, lat) = (node.group.clone(), next.clone(), entries.clone(), lat.clone());
        tasks.push(tokio::spawn(async move {
            let mut mine = vec![];
            while Instant::now() < stop {
                let at = next.fetch_add(commands, Relaxed);
                let t = Instant::now();
                group.propose(submit_bytes(at..at + commands, 128)).await.unwrap();
                mine.push(t.elapsed().as_micros() as u64);
                entries.fetch_add(1, Relaxed);
            }
            lat.lock().extend(mine);
        }));
    }
    for t in tasks { t.await.unwrap(); }
    let el = t0.elapsed().as_secs_f64();
    let n = entries.load(Relaxed);
    let mut l = lat.lock().clone(); l.sort();
    let syncs = node.store.counters().log_syncs.load(Relaxed);
    println!("{name}: P={proposers} cmds={commands} delay={delay}us: {:.0} entries/s {:.0} commands/s p50 {:.2} ms p99 {:.2} ms, {:.1} entries/sync, cpu {:.0}%, rss {} MiB", n as f64 / el, (n * commands) as f64 / el, l[l.len()/2] as f64/1e3, l[l.len()*99/100] as f64/1e3, n as f64 / syncs as f64, (cpu()-c0)/el*100.0, rss());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    bench("submit", 1, 1, 0, 3).await;
    bench("submit", 64, 1, 0, 3).await;
    bench("submit", 1, 64, 0, 3).await;
    bench("submit", 64, 64, 0, 8).await;
    bench("submit", 1, 1, 2000, 3).await;
    bench("submit", 64, 1, 2000, 3).await;
    bench("submit", 64, 64, 2000, 4).await;
}

/// Backlog of ready tasks drained through grants: does the head of the READY index stay cheap?
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain() {
    let dir = tempfile::tempdir_in("/work").unwrap();
    let node = Node::start(dir.path()).await;
    let backlog = 400_000u64;
    let t = Instant::now();
    for at in (0..backlog).step_by(256) { node.group.propose(submit_bytes(at..at + 256, 64)).await.unwrap(); }
    println!("backlog of {backlog} in {:?}", t.elapsed());
    let session = SessionId([1; 16]);
    let mut done: Vec<Command> = vec![]; let mut total = 0u64; let mut mark = Instant::now(); let mut last = 0;
    loop {
        let entry = Entry { now: Timestamp(2_000_000), commands: std::mem::take(&mut done), grants: vec![Grant { session, queue: "emails".into(), kind: WorkKind::Task, names: 0, slots: 64 }], name_sets: vec![Arc::from(["send".into()])], lanes: vec![Lane { queue: "emails".into(), kind: WorkKind::Task, name: "send".into() }] };
        let c = node.group.propose(entry).await.unwrap();
        for e in &c.applied.effects { if let Effect::TaskLeased { lease, .. } = e { done.push(Command::CompleteTask(CompleteTask { task: lease.task, lease: lease.lease, outcome: Ok(Payload::json("1")) })); } }
        total += done.len() as u64;
        if total - last >= 50_000 || done.is_empty() { println!("drained {total}: {:.0} tasks/s rss {}", (total - last) as f64 / mark.elapsed().as_secs_f64(), rss()); last = total; mark = Instant::now(); }
        if done.is_empty() { break; }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle() {
    let dir = tempfile::tempdir_in("/work").unwrap();
    let node = Node::start(dir.path()).await;
    let c = cpu(); tokio::time::sleep(Duration::from_secs(5)).await;
    println!("idle cpu {:.2}%, rss {}", (cpu() - c) / 5.0 * 100.0, rss());
    node.stop().await;
}
