//! Tasks of their own.

use coda_protocol::reply::TaskDescription;
use serde_json::{Value, json};

use super::{failure_json, is_over, outcome_json, outcome_text, state_cell, state_word};
use crate::args::Format;
use crate::errors::one_line;
use crate::output::{Fields, Screen, document};
use crate::waits;

pub fn describe(task: &TaskDescription, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&task_json(task, screen)),
        Format::Table => task_table(task, screen),
    }
}

fn task_table(task: &TaskDescription, screen: &Screen) -> String {
    let mut fields = Fields::new(screen)
        .with("TASK", task.task.to_string())
        .with("NAME", task.name.as_str())
        .with("QUEUE", task.queue.as_str())
        .with("STATE", state_cell(task.state));
    if !is_over(task.state) {
        fields = fields.with("WHY", waits::sentence(task.waits, &task.queue, screen.now));
    }
    fields = fields.with("ATTEMPTS", task.attempts).with("CREATED", format!("{} ago", screen.age(task.created)));
    fields = match (&task.outcome, &task.last_failure) {
        (Some(outcome), _) => fields.with(if outcome.is_ok() { "RESULT" } else { "FAILURE" }, outcome_text(outcome)),
        (None, Some(failure)) => fields.with("LAST FAILURE", one_line(failure)),
        (None, None) => fields,
    };
    fields.render()
}

fn task_json(task: &TaskDescription, screen: &Screen) -> Value {
    let mut value = json!({
        "task": task.task.to_string(),
        "name": task.name.as_str(),
        "queue": task.queue.as_str(),
        "state": state_word(task.state),
        "waits": waits::reason(task.waits),
        "waits_until_ms": waits::until(task.waits).map(|at| at.0),
        "why": (!is_over(task.state)).then(|| waits::sentence(task.waits, &task.queue, screen.now)),
        "attempts": task.attempts,
        "created_ms": task.created.0,
        "last_failure": task.last_failure.as_ref().map(failure_json),
    });
    if let Some(outcome) = &task.outcome {
        let (name, outcome) = outcome_json(outcome);
        value[name] = outcome;
    }
    value
}
