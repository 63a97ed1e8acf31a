//! Runs: what one is doing, and its steps.

use coda_protocol::reply::{RunDescription, StepDescription};
use coda_protocol::request::StepKind;
use comfy_table::Cell;
use serde_json::{Value, json};

use super::{failure_json, is_over, outcome_json, outcome_text, state_cell, state_word};
use crate::args::Format;
use crate::errors::one_line;
use crate::output::{Fields, Grid, Screen, document};
use crate::waits;

pub fn describe(run: &RunDescription, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&run_json(run, screen)),
        Format::Table => run_table(run, screen),
    }
}

fn run_table(run: &RunDescription, screen: &Screen) -> String {
    let mut fields = Fields::new(screen)
        .with("RUN", run.run.to_string())
        .with("WORKFLOW", run.workflow.as_str())
        .with("QUEUE", run.queue.as_str())
        .with("STATE", state_cell(run.state));
    if !is_over(run.state) {
        fields = fields.with("WHY", waits::sentence(run.waits, &run.queue, screen.now));
    }
    fields = fields
        .with("ATTEMPT", run.attempt)
        .with("STEPS", format!("{} ended, {} pending", run.steps_ended, run.steps_pending))
        .with("CREATED", format!("{} ago", screen.age(run.created)));
    if let Some(outcome) = &run.outcome {
        fields = fields.with(if outcome.is_ok() { "RESULT" } else { "FAILURE" }, outcome_text(outcome));
    }
    let mut out = fields.render();
    if !run.steps.is_empty() {
        out.push('\n');
        out.push_str(&steps_table(&run.steps, screen));
    }
    if run.truncated {
        out.push_str(&format!("… more steps exist than the {} listed\n", run.steps.len()));
    }
    out
}

fn steps_table(steps: &[StepDescription], screen: &Screen) -> String {
    let mut grid = Grid::new(screen, ["STEP", "KIND", "STATE", "ATTEMPTS", "LAST FAILURE"]);
    for step in steps {
        grid.row([
            Cell::new(&step.name),
            Cell::new(step_kind(step.kind)),
            state_cell(step.state),
            Cell::new(step.attempts),
            Cell::new(step.last_failure.as_ref().map_or_else(|| "-".to_owned(), one_line)),
        ]);
    }
    grid.numbers([3]).render()
}

fn step_kind(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Task => "task",
        StepKind::Workflow => "workflow",
        StepKind::Inline => "inline",
    }
}

fn run_json(run: &RunDescription, screen: &Screen) -> Value {
    let mut value = json!({
        "run": run.run.to_string(),
        "workflow": run.workflow.as_str(),
        "queue": run.queue.as_str(),
        "state": state_word(run.state),
        "waits": waits::reason(run.waits),
        "waits_until_ms": waits::until(run.waits).map(|at| at.0),
        "why": (!is_over(run.state)).then(|| waits::sentence(run.waits, &run.queue, screen.now)),
        "attempt": run.attempt,
        "steps_pending": run.steps_pending,
        "steps_ended": run.steps_ended,
        "created_ms": run.created.0,
        "steps": run.steps.iter().map(step_json).collect::<Vec<_>>(),
        "steps_truncated": run.truncated,
    });
    if let Some(outcome) = &run.outcome {
        let (name, outcome) = outcome_json(outcome);
        value[name] = outcome;
    }
    value
}

fn step_json(step: &StepDescription) -> Value {
    json!({
        "name": step.name.as_str(),
        "kind": step_kind(step.kind),
        "state": state_word(step.state),
        "attempts": step.attempts,
        "last_failure": step.last_failure.as_ref().map(failure_json),
    })
}
