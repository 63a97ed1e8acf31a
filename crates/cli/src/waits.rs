//! Why work waits, in a sentence with the next thing to do. Nothing in Coda waits silently.

use coda_protocol::ids::{Timestamp, WorkKind};
use coda_protocol::reply::{LaneDescription, Wait};

use crate::output::span;

/// The stable word for programs.
pub fn reason(wait: Wait) -> &'static str {
    match wait {
        Wait::No => "no",
        Wait::QueuePaused => "queue_paused",
        Wait::NoWorker => "no_worker",
        Wait::WorkersBusy => "workers_busy",
        Wait::DelayedUntil(_) => "delayed",
        Wait::RetryingAt(_) => "retrying",
        Wait::Steps => "steps",
        Wait::Running => "running",
        Wait::Soon => "soon",
    }
}

/// When it ends, where that is known.
pub fn until(wait: Wait) -> Option<Timestamp> {
    match wait {
        Wait::DelayedUntil(at) | Wait::RetryingAt(at) => Some(at),
        Wait::No
        | Wait::QueuePaused
        | Wait::NoWorker
        | Wait::WorkersBusy
        | Wait::Steps
        | Wait::Running
        | Wait::Soon => None,
    }
}

/// Why one run or task does not run.
pub fn sentence(wait: Wait, queue: &str, now: Timestamp) -> String {
    match wait {
        Wait::No => "it waits for nothing".to_owned(),
        Wait::QueuePaused => {
            format!("queue {queue} is paused: resume it with `coda-admin queue unpause {}`", quoted(queue))
        }
        Wait::NoWorker => format!("no worker has registered this name: start one with {}", command("coda-worker")),
        Wait::WorkersBusy => {
            format!("all slots of its workers are taken: add some with {}", command("coda run -n 4 -- coda-worker"))
        }
        Wait::DelayedUntil(at) => format!("it was asked not to start yet; due {}", due(at, now)),
        Wait::RetryingAt(at) => format!("its last attempt failed; the next one is due {}", due(at, now)),
        Wait::Steps => "it waits for its steps".to_owned(),
        Wait::Running => "a worker is executing it".to_owned(),
        Wait::Soon => "it will be handed out in a moment".to_owned(),
    }
}

/// Why a lane's work waits; nothing to say where nothing waits.
pub fn lane_sentence(lane: &LaneDescription, queue: &str, now: Timestamp) -> Option<String> {
    let why = match lane.waits {
        Wait::No => return None,
        Wait::WorkersBusy => format!(
            "all slots of its {} are taken: add some with {}",
            count(lane.workers, "worker"),
            command("coda run -n 4 -- coda-worker")
        ),
        Wait::DelayedUntil(at) => format!("they were asked not to start yet; the first is due {}", due(at, now)),
        Wait::RetryingAt(at) => format!("their last attempts failed; the first retry is due {}", due(at, now)),
        Wait::Running => "all of it is being executed".to_owned(),
        Wait::Steps => "the runs wait for their steps".to_owned(),
        Wait::Soon => "they will be handed out in a moment".to_owned(),
        Wait::QueuePaused | Wait::NoWorker => sentence(lane.waits, queue, now),
    };
    Some(why)
}

/// The user's word for a lane's kind.
pub fn kind(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Task => "task",
        WorkKind::Run => "workflow",
    }
}

fn command(program: &str) -> String {
    format!("`{program} yourpackage.module`")
}

fn due(at: Timestamp, now: Timestamp) -> String {
    if at > now { format!("in {}", span(at.0 - now.0)) } else { "now".to_owned() }
}

fn count(n: u32, noun: &str) -> String {
    if n == 1 { noun.to_owned() } else { format!("{n} {noun}s") }
}

/// For a sentence that will be pasted into a shell.
fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte));
    if plain { name.to_owned() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wait_says_what_to_do_or_when_it_ends() {
        let now = Timestamp(100_000);
        let say = |wait| sentence(wait, "emails", now);
        assert_eq!(
            say(Wait::NoWorker),
            "no worker has registered this name: start one with `coda-worker yourpackage.module`"
        );
        assert_eq!(say(Wait::QueuePaused), "queue emails is paused: resume it with `coda-admin queue unpause emails`");
        assert_eq!(say(Wait::RetryingAt(Timestamp(112_000))), "its last attempt failed; the next one is due in 12s");
        assert_eq!(say(Wait::DelayedUntil(Timestamp(99_000))), "it was asked not to start yet; due now");
    }

    #[test]
    fn a_command_to_paste_is_quoted() {
        let told = sentence(Wait::QueuePaused, "bob's mails", Timestamp(0));
        assert!(told.ends_with(r"`coda-admin queue unpause 'bob'\''s mails'`"), "{told}");
    }
}
