//! The real programs, as a user or a script sees them.

mod support;

mod dev;
mod exit_statuses;
mod run;
