//! What is to be moved, step by step, and what cannot be.

use std::fmt::Write;

use coda_protocol::rebalance::{Plan, Step, Stuck, StuckReason};
use owo_colors::AnsiColors;
use serde_json::{Value, json};

use crate::args::Format;
use crate::output::{Screen, document, painted};

pub fn plan(plan: &Plan, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&plan_json(plan)),
        Format::Table if plan.steps.is_empty() && plan.stuck.is_empty() => {
            "Everything is where it should be.\n".to_owned()
        }
        Format::Table => lines(plan, screen),
    }
}

/// Nothing for a plan without anything in it.
pub fn lines(plan: &Plan, screen: &Screen) -> String {
    let mut out = String::new();
    if !plan.steps.is_empty() {
        out.push_str("To be done, in this order:\n");
        let width = plan.steps.len().to_string().len();
        for (index, step) in plan.steps.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "  {:>width$}. {step}", index + 1);
        }
    }
    if !plan.stuck.is_empty() {
        out.push_str(if out.is_empty() { "Stuck:\n" } else { "\nStuck:\n" });
        for stuck in &plan.stuck {
            let _ = writeln!(out, "  {}", painted(screen, AnsiColors::Red, &stuck.to_string()));
        }
    }
    out
}

pub fn plan_json(plan: &Plan) -> Value {
    json!({
        "steps": plan.steps.iter().map(step_json).collect::<Vec<_>>(),
        "stuck": plan.stuck.iter().map(stuck_json).collect::<Vec<_>>(),
    })
}

fn step_json(step: &Step) -> Value {
    let (action, node, from) = match step {
        Step::AddLearner { node, .. } => ("add_learner", node, None),
        Step::Promote { node, .. } => ("promote", node, None),
        Step::RemoveVoter { node, .. } => ("remove_voter", node, None),
        Step::RemoveLearner { node, .. } => ("remove_learner", node, None),
        Step::TransferLeader { from, to, .. } => ("transfer_leader", to, Some(from.0)),
    };
    json!({ "action": action, "group": step.group().0, "node": node.0, "from": from, "text": step.to_string() })
}

fn stuck_json(stuck: &Stuck) -> Value {
    let (reason, node) = match stuck.reason {
        StuckReason::QuorumLost => ("quorum_lost", None),
        StuckReason::Leaderless => ("leaderless", None),
        StuckReason::NoRoom { node } => ("no_room", Some(node.0)),
    };
    json!({ "group": stuck.group.0, "reason": reason, "node": node, "text": stuck.to_string() })
}
