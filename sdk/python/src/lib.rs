//! `coda._native`: moves bytes between Coda's link and Python, and nothing else.
//!
//! A Tokio thread owns the connection. What it has to tell waits in a [`mailbox`], and Python is woken once per batch
//! through a file descriptor. Deliberately absent: codecs, workflows, retries, asyncio; all of that is Python's.
//! `python/coda/_wire.py` is the page that says what crosses.

mod describe;
mod mailbox;
mod port;
mod requests;
mod runtime;
mod told;

use coda_protocol::limits;
use pyo3::prelude::*;

#[pymodule]
mod _native {
    use super::*;

    #[pymodule_export]
    use crate::port::Port;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
        module.add("PAYLOAD_BYTES_MAX", limits::PAYLOAD_BYTES_MAX)?;
        module.add("FAILURE_BYTES_MAX", limits::FAILURE_BYTES_MAX)?;
        module.add("CACHE_KEY_BYTES_MAX", limits::CACHE_KEY_BYTES_MAX)?;
        module.add("NAME_BYTES_MAX", limits::NAME_BYTES_MAX)?;
        module.add("CODEC_NAME_BYTES_MAX", limits::CODEC_NAME_BYTES_MAX)?;
        module.add("SPAWN_STEPS_MAX", limits::SPAWN_STEPS_MAX)?;
        module.add("SPAWN_BYTES_MAX", limits::SPAWN_BYTES_MAX)?;
        module.add("CREDIT_MAX", limits::CREDIT_MAX)?;
        module.add("PRIORITY_MAX", limits::PRIORITY_MAX)?;
        module.add("RETRIES_MAX", limits::RETRIES_MAX)?;
        module.add("DELAY_MS_MAX", limits::DELAY_MS_MAX)?;
        Ok(())
    }
}
