//! The one Tokio thread of this process.
//!
//! It never touches Python, so the interpreter may exit while it runs. A forked child gets a thread of its own: the
//! parent's does not exist there, and is left alone rather than joined.

use std::mem::ManuallyDrop;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

/// Another thread holds the lock for moments only. Longer means that it held it when this process was forked off, and
/// that it will never give it back.
const LOCK_WAIT: Duration = Duration::from_millis(1_000);

struct Owned {
    pid: u32,
    /// Never shut down: that would join a thread.
    runtime: ManuallyDrop<Runtime>,
}

static CURRENT: Mutex<Option<Owned>> = Mutex::new(None);

/// The runtime of this process; started by the first call. Lives as long as the process.
pub(crate) fn handle() -> std::io::Result<Handle> {
    let pid = std::process::id();
    let Some(mut current) = CURRENT.try_lock_for(LOCK_WAIT) else {
        return Ok(ManuallyDrop::new(start()?).handle().clone());
    };
    if let Some(owned) = &*current
        && owned.pid == pid
    {
        return Ok(owned.runtime.handle().clone());
    }
    let runtime = ManuallyDrop::new(start()?);
    let handle = runtime.handle().clone();
    *current = Some(Owned { pid, runtime });
    Ok(handle)
}

fn start() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).thread_name("coda-link").enable_all().build()
}
