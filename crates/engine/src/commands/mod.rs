//! One file per command. Each checks its preconditions, writes the facts, then hints.

pub(crate) mod complete_run;
pub(crate) mod complete_task;
pub(crate) mod end_session;
pub(crate) mod park_run;
pub(crate) mod pause_queue;
pub(crate) mod record_step;
pub(crate) mod release;
pub(crate) mod resume_session;
pub(crate) mod spawn;
pub(crate) mod start_run;
pub(crate) mod submit_task;
pub(crate) mod tick;
