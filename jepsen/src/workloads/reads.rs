//! Reads beside writes: how tasks are, how many a queue holds, and a setting that one client writes and all read. By position,
//! and by time alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coda_checkers::counts::{self, Added, Counted};
use coda_checkers::history::{End, Op};
use coda_checkers::lifecycle::{self, Look, Step};
use coda_checkers::wgl::{Register, Verdict};
use coda_checkers::{NEVER, Violation, properties, register, wgl, zones};
use coda_client::Client;
use coda_protocol::cluster::SettingValue;
use coda_protocol::ids::{GroupId, TaskId};
use coda_protocol::limits::{JOIN_TOKEN_TTL_MS_DEFAULT, JOIN_TOKEN_TTL_MS_MAX};
use coda_protocol::operate::{ClusterReply, ClusterRequest};
use coda_protocol::payload::WorkOutcome;
use coda_protocol::push::TaskLease;
use coda_protocol::reply::{QueueCursor, QueuePage, QueuePlace, Reply};
use coda_protocol::request::Request;
use futures::FutureExt;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Kind, Setting, Workload};
use crate::clients::{PATIENCE, Turn, fresh, look, submit, task};
use crate::findings::Findings;
use crate::groups::{data_groups, task_id};
use crate::hands::{self, ended_by, key};
use crate::judge::Judge;
use crate::load::{Crew, Load};
use crate::recorder::Recorder;

pub const KIND: Kind = Kind {
    name: "reads",
    about: "tasks, counts of a queue and a setting, read while they change: every read is linearizable",
    // What is read is checked by the positions of answers, which bodies in Python do not see.
    python: None,
    start: |setting| Box::pin(start(setting)),
};

const CREW: Crew = Crew { queue: "reads", workers: 2, slots: 16 };
/// Only put into: nobody serves it.
const COUNTED: &str = "reads-counted";
const BODY: Duration = Duration::from_millis(100);
/// A register of the meta group with numbers in it.
const SETTING: &str = "join_token.ttl_ms";
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
/// The one who writes waits for its answers: nobody could tell a write that was carried out twice from another one's.
const WRITER_PATIENCE: Duration = Duration::from_secs(120);
const WRITER: u64 = 500;
/// Tasks that are looked at are among so many.
const RECENT: usize = 64;
/// The search by time alone is exponential at worst: it is given so many operations, and so many steps.
const SEARCHED_MAX: usize = 1_000;
const SEARCH_STEPS_MAX: u64 = 5_000_000;

type Recent = Arc<Mutex<Vec<TaskId>>>;

async fn start(setting: Setting<'_>) -> anyhow::Result<Box<dyn Workload>> {
    let groups: Vec<GroupId> = data_groups(setting.args.groups).collect();
    let mut load = Load::new(setting, KIND.name, judge)?;
    load.serve(CREW, |lease| body(lease).boxed()).await?;
    let (options, recorder, findings) = (fresh(&load.options), load.recorder.clone(), load.findings.clone());
    load.beside(|stop| write(options, recorder, findings, stop).boxed());
    let recent = Recent::default();
    load.drive(1.0, move |turn| take_turn(recent.clone(), groups.clone(), turn).boxed()).await?;
    Ok(Box::new(load))
}

async fn body(lease: TaskLease) -> WorkOutcome {
    sleep(BODY).await;
    ended_by(&lease)
}

fn judge(ops: &[Op], judge: &mut Judge<'_>) {
    judge.queue();
    judge.leases(&[]);
    judge.positions();
    tasks(ops, judge);
    lists(ops, judge);
    settings(ops, judge);
}

async fn take_turn(recent: Recent, groups: Vec<GroupId>, mut turn: Turn) {
    let recorder = turn.recorder.clone();
    let id = task_id(&mut turn.chance);
    match turn.turn % 5 {
        0 => {
            {
                // Somebody may look before it is there.
                let mut recent = recent.lock();
                recent.push(id);
                let over = recent.len().saturating_sub(RECENT);
                recent.drain(..over);
            }
            submit(&turn, task(id, CREW.queue, CREW.queue, &json!(null)), json!({})).await;
        }
        1 | 2 => {
            let some = recent.lock().choose(&mut turn.chance).copied();
            if let Some(some) = some {
                look(&recorder, &turn.client, turn.number, some, PATIENCE).await;
            }
        }
        3 if turn.chance.random() => {
            let begun = recorder.begin(turn.number, "add", id, Value::Null);
            let add = Request::SubmitTask(task(id, COUNTED, COUNTED, &json!(null)));
            let answered = turn.client.link().ask_within(add, PATIENCE).await;
            let existed = |reply: &Reply| json!({ "existed": matches!(reply, Reply::Started { existed: true }) });
            drop(recorder.answered(begun, answered, existed));
        }
        3 => {
            let Some(group) = groups.choose(&mut turn.chance).copied() else { return };
            let begun = recorder.begin(turn.number, "count", group, Value::Null);
            let from = QueueCursor { group, place: QueuePlace::First };
            let answered = turn.client.link().ask_within(Request::ListQueuesFrom(Some(from)), PATIENCE).await;
            drop(recorder.answered(begun, answered, count));
        }
        _ => {
            let begun = recorder.begin(turn.number, "get", SETTING, Value::Null);
            let list = Request::Cluster(ClusterRequest::ListSettings);
            let answered = turn.client.link().ask_within(list, PATIENCE).await;
            drop(recorder.answered(begun, answered, value));
        }
    }
}

/// How many of the counted queue the page has.
fn count(reply: &Reply) -> Value {
    match reply {
        Reply::QueuePage(QueuePage { queues, .. }) => {
            let counted = queues.iter().find(|queue| queue.queue == COUNTED);
            json!(counted.map_or(0, |queue| queue.ready + queue.leased + queue.delayed))
        }
        _ => Value::Null,
    }
}

fn value(reply: &Reply) -> Value {
    let Reply::Cluster(ClusterReply::Settings(settings)) = reply else { return Value::Null };
    let setting = settings.iter().find(|setting| setting.key == SETTING);
    match setting.map(|setting| setting.value) {
        Some(SettingValue::Number(value)) => json!(value),
        Some(SettingValue::Switch(_)) | None => Value::Null,
    }
}

/// Writes one value after the other, each once it knows of the one before.
async fn write(
    options: coda_client::ConnectOptions,
    recorder: Recorder,
    findings: Findings,
    mut stop: watch::Receiver<bool>,
) {
    let Ok(client) = Client::connect(options).await else { return };
    for value in JOIN_TOKEN_TTL_MS_DEFAULT + 1..JOIN_TOKEN_TTL_MS_MAX {
        if timeout(BETWEEN_WRITES, stop.wait_for(|stop| *stop)).await.is_ok() {
            break;
        }
        let begun = recorder.begin(WRITER, "set", SETTING, json!(value));
        let set = ClusterRequest::SetSetting { key: SETTING.into(), value: Some(SettingValue::Number(value)) };
        let answered = client.link().ask_within(Request::Cluster(set), WRITER_PATIENCE).await;
        if let Err(code) = recorder.answered(begun, answered, |_| Value::Null) {
            findings.violation(properties::TROUBLE_IS_NOT_TOLD, format!("who writes a setting was told {code}"));
            break;
        }
    }
    client.close().await;
}

/// How each task was, whenever somebody looked: not there, waiting, ended.
fn tasks(ops: &[Op], judge: &mut Judge<'_>) {
    let mut by_task: BTreeMap<String, (Vec<Step>, Vec<Look>)> = BTreeMap::new();
    for op in ops {
        let Op { asked, answered, end, .. } = *op;
        let index = op.position.map(|at| at.index);
        let (steps, looks) = match op.f.as_str() {
            "submit" | "complete" | "look" => by_task.entry(key(op)).or_default(),
            _ => continue,
        };
        match (op.f.as_str(), end) {
            // One that was known already was accepted before.
            ("submit", End::Ok) => {
                let index = index.filter(|_| op.answer["existed"] == json!(false));
                steps.push(Step { state: 1, asked, answered, end, index });
            }
            ("submit", _) => steps.push(Step { state: 1, asked, answered, end, index: None }),
            // A report that was sent twice is answered where it was repeated.
            ("complete", _) => steps.push(Step { state: 2, asked, answered, end, index: None }),
            (_, End::Ok) => {
                let state = u8::from(op.answer["there"] == json!(true)) + u8::from(op.answer["ended"] == json!(true));
                looks.extend(index.map(|index| Look { state, asked, answered, index }));
            }
            (_, End::Fail | End::Maybe) => {}
        }
    }
    let looks: usize = by_task.values().map(|(_, looks)| looks.len()).sum();
    for (task, (steps, looks)) in &by_task {
        judge.violations(lifecycle::check(task, steps, looks));
    }
    judge.figure("tasks looked at", json!({ "tasks": by_task.len(), "looks": looks }));
}

/// How many the queue held, group by group.
fn lists(ops: &[Op], judge: &mut Judge<'_>) {
    let mut groups: BTreeMap<u32, (Vec<Added>, Vec<Counted>)> = BTreeMap::new();
    let slots = judge.slots();
    for op in ops {
        let Op { asked, answered, end, position, .. } = *op;
        match op.f.as_str() {
            "add" => {
                let Ok(task) = key(op).parse::<TaskId>() else { continue };
                let group = hands::group_of(&slots, task);
                let exact = op.answer["existed"] == json!(false);
                let added = Added { asked, answered, end, index: position.map(|at| at.index), exact };
                groups.entry(group).or_default().0.push(added);
            }
            "count" if end == End::Ok => {
                let (Some(position), Some(count)) = (position, op.answer.as_u64()) else { continue };
                let counted = Counted { count, asked, answered, index: position.index };
                groups.entry(position.group).or_default().1.push(counted);
            }
            _ => {}
        }
    }
    let counts: usize = groups.values().map(|(_, counted)| counted.len()).sum();
    for (group, (added, counted)) in &groups {
        judge.violations(counts::check(&format!("group {group}"), added, counted));
    }
    judge.figure("lists", json!(counts));
}

/// The setting as a register: by position, by zones, and by search.
fn settings(ops: &[Op], judge: &mut Judge<'_>) {
    let of_setting = || ops.iter().filter(|op| matches!(op.f.as_str(), "get" | "set"));
    let (mut writes, mut reads, mut blind) = (Vec::new(), Vec::new(), Vec::new());
    for op in of_setting() {
        let Op { asked, answered, end, position, .. } = *op;
        let is_write = op.f == "set";
        let value = if is_write { &op.asked_with } else { &op.answer };
        let Some(value) = value.as_u64() else { continue };
        if is_write {
            // One that was sent twice stands where it was carried out last, and may have been read before that.
            writes.push(register::Write { value, asked, answered, end, index: None });
        } else if let (End::Ok, Some(position)) = (end, position) {
            reads.push(register::Read { value, asked, answered, index: position.index });
        }
        if (is_write && end != End::Fail) || (!is_write && end == End::Ok) {
            blind.push(zones::Op { is_write, value, asked, answered });
        }
    }
    let initial = JOIN_TOKEN_TTL_MS_DEFAULT;
    judge.violations(register::check(initial, &writes, &reads));
    judge.violations(zones::check(initial, &blind));
    blind.sort_unstable_by_key(|op| op.asked);
    let searched = searched(&blind);
    match wgl::check(&Register { initial }, &searched, SEARCH_STEPS_MAX) {
        Verdict::Linearizable => {}
        Verdict::Not { longest } => {
            let detail = format!("no order explains what was read of {SETTING}, {longest} operations at most");
            judge.violations([Violation::new(properties::READS_ARE_LINEARIZABLE, detail)]);
        }
        Verdict::Unknown => {
            judge.doubt(format!("{SETTING}: the search was given up after {SEARCH_STEPS_MAX} steps"));
        }
    }
    let count = |is_write| blind.iter().filter(|op| op.is_write == is_write).count();
    judge.figure("setting", json!({ "writes": count(true), "reads": count(false), "searched": searched.len() }));
}

/// What was asked first. What was asked later may have been seen by whoever had no answer yet, so those are left out, and of
/// their writes nobody knows.
fn searched(sorted: &[zones::Op]) -> Vec<wgl::Op<Option<u64>, u64>> {
    let end = sorted.get(SEARCHED_MAX).map_or(NEVER, |op| op.asked);
    let some = sorted.iter().filter(|op| op.asked < end && (op.is_write || op.answered < end));
    let op = |op: &zones::Op| wgl::Op {
        input: op.is_write.then_some(op.value),
        output: (!op.is_write).then_some(op.value),
        asked: op.asked,
        answered: if op.answered < end { op.answered } else { NEVER },
    };
    some.map(op).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_searched_is_cut_off_where_no_answer_can_know_more() {
        let op = |i: u64, is_write| zones::Op { is_write, value: i, asked: i * 10, answered: i * 10 + 25 };
        let all: Vec<_> = (0..SEARCHED_MAX as u64 + 5).map(|i| op(i, i % 2 == 1)).collect();
        let some = searched(&all);
        let last = some.last().unwrap();
        assert_eq!(
            (last.input, last.answered),
            (Some(SEARCHED_MAX as u64 - 1), NEVER),
            "nobody knows of the last write"
        );
        assert_eq!(some.len(), SEARCHED_MAX - 1, "a read without an answer is left out");
        let few = searched(&all[..3]);
        assert_eq!(few.iter().map(|op| op.answered).collect::<Vec<_>>(), [25, 35, 45]);
    }
}
