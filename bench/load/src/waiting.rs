//! What waiting work costs the node: memory, measured at several depths of a queue that nobody serves.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use coda_client::{Client, SubmitOptions};
use futures::future::try_join_all;
use serde::Serialize;

use crate::args::{Args, Format};
use crate::functions::Load;
use crate::meter;
use crate::node::Node;

/// Tasks that are submitted at once.
const CONCURRENCY: usize = 512;
/// Memory is read when the node has done nothing for so long, or has not come to rest in time.
const AT_REST: Duration = Duration::from_secs(2);
const AT_REST_WITHIN: Duration = Duration::from_secs(30);

/// One depth.
#[derive(Serialize)]
struct Depth {
    waiting: u64,
    /// Resident now; of that, what is the node's own and what it has mapped.
    rss_mb: f64,
    anonymous_mb: f64,
    file_mb: f64,
    /// Most ever resident.
    rss_peak_mb: f64,
    submitted_per_s: f64,
}

/// Submits tasks of about 200 bytes for a name that nobody runs, and reads the node's memory at each depth.
pub async fn all(args: &Args, depths: &[u64]) -> anyhow::Result<()> {
    let node = Node::get(args).await?;
    let pid = node.pid.context("without the node's process there is no memory to read: say --node-pid")?;
    let client = Client::connect(node.options()?).await?;
    let mut found = Vec::new();
    let mut waiting = 0;
    for depth in depths {
        let started = Instant::now();
        let more = depth.saturating_sub(waiting);
        fill(&client, waiting, waiting + more).await?;
        waiting += more;
        let submitted_per_s = more as f64 / started.elapsed().as_secs_f64();
        rest(pid).await;
        let memory = meter::memory(pid).context("the node has ended")?;
        let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let depth = Depth {
            waiting,
            rss_mb: mb(memory.resident),
            anonymous_mb: mb(memory.anonymous),
            file_mb: mb(memory.file),
            rss_peak_mb: mb(memory.peak),
            submitted_per_s,
        };
        match args.output {
            Format::Json => println!("{}", serde_json::to_string(&depth)?),
            Format::Table => eprintln!("{waiting} waiting: {:.0} MB", depth.rss_mb),
        }
        found.push(depth);
    }
    client.close().await;
    node.stop().await?;
    if args.output == Format::Table {
        print!("{}", table(&found));
    }
    Ok(())
}

async fn fill(client: &Client, from: u64, to: u64) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(from));
    let lane = |_| {
        let (client, next) = (client.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= to {
                    return anyhow::Ok(());
                }
                client.submit(SubmitOptions::new("nobody runs this").args_json(&Load::new(i))?).await?;
            }
        })
    };
    for done in try_join_all((0..CONCURRENCY).map(lane)).await? {
        done?;
    }
    Ok(())
}

/// Waits until the node has flushed and compacted what it had to.
async fn rest(pid: u32) {
    let started = Instant::now();
    let cpu = || meter::usage(pid).map_or(0.0, |usage| usage.cpu_s);
    let mut since = (cpu(), Instant::now());
    while since.1.elapsed() < AT_REST && started.elapsed() < AT_REST_WITHIN {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Keep-alives and heartbeats take a little.
        if cpu() - since.0 > 0.05 {
            since = (cpu(), Instant::now());
        }
    }
}

fn table(depths: &[Depth]) -> String {
    let mut out = String::from("   WAITING   RSS MB   ANON MB   FILE MB   PEAK MB   SUBMITTED/S\n");
    for depth in depths {
        let Depth { waiting, rss_mb, anonymous_mb, file_mb, rss_peak_mb, submitted_per_s } = depth;
        let _ = writeln!(
            out,
            "{waiting:>10}{rss_mb:>9.0}{anonymous_mb:>10.0}{file_mb:>10.0}{rss_peak_mb:>10.0}{submitted_per_s:>14.0}"
        );
    }
    out
}
