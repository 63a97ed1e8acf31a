//! Nodes among themselves, over the loopback device: first with groups that only pretend, then with real ones.
//!
//! Each node has a runtime of its own, so that it can be killed: nothing of it says goodbye.

mod authority;
mod cluster;
mod fake;
mod logs;
mod raw;
mod relay;
mod side;

mod calls;
mod certificates;
mod greeting;
mod hostile;
mod measure;
mod raft;
mod raft_snapshot;
mod restarts;
mod snapshots;
mod streams;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test fails. Long, because machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Asks again and again until the answer is there.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    soon(what, async {
        loop {
            if let Some(done) = ask().await {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
