//! The one Tokio thread of this process.
//!
//! It never touches Python, so the interpreter may exit while it runs. A forked child gets a thread of its own: the
//! parent's does not exist there, and is left alone rather than joined.

use std::sync::atomic::{AtomicPtr, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};

struct Owned {
    pid: u32,
    runtime: Runtime,
}

static CURRENT: AtomicPtr<Owned> = AtomicPtr::new(std::ptr::null_mut());

/// The runtime of this process; started by the first call. Lives as long as the process.
pub(crate) fn handle() -> std::io::Result<Handle> {
    let pid = std::process::id();
    let current = CURRENT.load(Ordering::Acquire);
    // SAFETY: a pointer that was stored is never freed.
    if let Some(owned) = unsafe { current.as_ref() }
        && owned.pid == pid
    {
        return Ok(owned.runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("coda-link").enable_all().build()?;
    let fresh = Box::into_raw(Box::new(Owned { pid, runtime }));
    // Another thread may have been faster; its runtime is as good, and the one too many only sleeps.
    let winner = match CURRENT.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(theirs) => theirs,
    };
    // SAFETY: as above.
    Ok(unsafe { &*winner }.runtime.handle().clone())
}
