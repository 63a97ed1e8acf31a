//! The one Tokio thread of this process.
//!
//! It never touches Python, so the interpreter may exit while it runs. A forked child gets a thread of its own: the
//! parent's does not exist there.

use std::future::pending;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};

/// Another thread holds the lock for moments only. Longer means that it held it when this process was forked off, and
/// that it will never give it back.
const LOCK_WAIT: Duration = Duration::from_millis(1_000);

struct Owned {
    pid: u32,
    handle: Handle,
}

static CURRENT: Mutex<Option<Owned>> = Mutex::new(None);

/// The runtime of this process; started by the first call. Lives as long as the process.
pub(crate) fn handle() -> std::io::Result<Handle> {
    let pid = std::process::id();
    let Some(mut current) = CURRENT.try_lock_for(LOCK_WAIT) else { return start() };
    if let Some(owned) = &*current
        && owned.pid == pid
    {
        return Ok(owned.handle.clone());
    }
    let handle = start()?;
    *current = Some(Owned { pid, handle: handle.clone() });
    Ok(handle)
}

/// A scheduler for one thread, which wakes up faster than one for several that has one.
fn start() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    // Never joined, and never shut down: that would wait for what it does.
    thread::Builder::new().name("coda-link".into()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}
