//! From descriptions to text: one file per noun, each with its table and its JSON.

pub mod cert;
pub mod cluster;
pub mod config;
pub mod copies;
pub mod node;
pub mod plan;
pub mod queue;
pub mod run;
pub mod setting;
pub mod task;
pub mod token;

#[cfg(test)]
pub mod canned;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

use coda_protocol::payload::{Failure, WorkOutcome};
use coda_protocol::reply::WorkState;
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::errors::one_line;
use crate::output::{bad, good, payload_json, warned};

/// The stable word for people and programs.
fn state_word(state: WorkState) -> &'static str {
    match state {
        WorkState::Delayed => "delayed",
        WorkState::Ready => "ready",
        WorkState::Running => "running",
        WorkState::Parked => "parked",
        WorkState::Retrying => "retrying",
        WorkState::Succeeded => "succeeded",
        WorkState::Failed => "failed",
    }
}

fn state_cell(state: WorkState) -> Cell {
    let word = state_word(state);
    match state {
        WorkState::Succeeded => good(word),
        WorkState::Failed => bad(word),
        WorkState::Retrying => warned(word),
        WorkState::Delayed | WorkState::Ready | WorkState::Running | WorkState::Parked => Cell::new(word),
    }
}

fn is_over(state: WorkState) -> bool {
    matches!(state, WorkState::Succeeded | WorkState::Failed)
}

fn failure_json(failure: &Failure) -> Value {
    json!({
        "type": failure.kind,
        "message": failure.message,
        "traceback": failure.traceback,
        "retryable": failure.retryable,
    })
}

fn outcome_text(outcome: &WorkOutcome) -> String {
    match outcome {
        Ok(payload) => payload_json(payload).to_string(),
        Err(failure) => one_line(failure),
    }
}

/// How work ended, under the name that scripts read.
pub fn outcome_json(outcome: &WorkOutcome) -> (&'static str, Value) {
    match outcome {
        Ok(payload) => ("result", payload_json(payload)),
        Err(failure) => ("failure", failure_json(failure)),
    }
}
