//! One node in this process, or several that are a cluster, and two ways to speak to them: the Rust SDK, and raw connections that may say anything.
//!
//! Deliberately absent: sleeping for luck. Tests wait for what they want to see, up to [`PATIENCE`].

pub mod clock;
pub mod cluster;
pub mod logs;
pub mod node;
pub mod raw;
pub mod relay;
pub mod work;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test fails. Long, because machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
///
/// # Panics
/// When it does not happen in time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Asks again and again until the answer is there.
///
/// # Panics
/// As [`soon`].
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
