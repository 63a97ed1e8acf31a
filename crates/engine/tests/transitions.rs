//! Every command in every state of the work it is about: what it answers, and what becomes of the work.
//!
//! A cell is `answer>state`. Answers: `new` and `old` (started, existed), `done`, `steps`, `saved`, `kept` and `lost`
//! (resumed), or the refusals `stale`, `over` (already ended), `none` (no such work), `clash` (id conflict), `busy` (not
//! idle). States: `-` absent, `D`elayed, `R`eady, `L`eased as before, `N`ewly leased, `P`arked, re`T`rying, `E`nded.

mod support;

use coda_engine::command::{Command, Outcome};
use coda_engine::rows::Life;
use coda_engine::tables::{RUN, TASK};
use coda_protocol::ids::{LeaseId, Millis, RunId, TaskId, Work};
use coda_protocol::push::RunLease;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::{CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn};
use support::{GROUP, Offer, W1, W2, World, make, ok};

/// The name of a row, and its command.
type Row = (&'static str, fn(&Case) -> Command);

const DUE: u64 = 10_000;

/// How a piece of work came to be in its state, and the lease that the command names.
struct Case {
    world: World,
    work: Work,
    lease: LeaseId,
    before: Option<Life>,
}

impl Case {
    fn new(world: World, work: Work, lease: LeaseId) -> Self {
        let before = life(&world, work);
        Self { world, work, lease, before }
    }

    fn cell(&mut self, command: Command) -> String {
        self.world.now = DUE;
        let outcome = self.world.command(command);
        let after = life(&self.world, self.work);
        let state = match after {
            None => '-',
            Some(Life::Delayed { .. }) => 'D',
            Some(Life::Ready) => 'R',
            Some(Life::Leased { .. }) if after == self.before => 'L',
            Some(Life::Leased { .. }) => 'N',
            Some(Life::Parked) => 'P',
            Some(Life::Retrying { .. }) => 'T',
            Some(Life::Ended { .. }) => 'E',
        };
        format!("{}>{state}", answer(&outcome))
    }
}

fn life(world: &World, work: Work) -> Option<Life> {
    match work {
        Work::Task(task) => TASK.get(&world.kv, GROUP, &task).map(|row| row.life),
        Work::Run(run) => RUN.get(&world.kv, GROUP, &run).map(|row| row.life),
    }
}

fn answer(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(Reply::Started { existed: false }) => "new",
        Ok(Reply::Started { existed: true }) => "old",
        Ok(Reply::Done) => "done",
        Ok(Reply::Spawned(_)) => "steps",
        Ok(Reply::Recorded(_)) => "saved",
        Ok(Reply::Resumed { lost }) if lost.is_empty() => "kept",
        Ok(Reply::Resumed { .. }) => "lost",
        Err(Reject::StaleLease) => "stale",
        Err(Reject::AlreadyEnded) => "over",
        Err(Reject::NoSuchRun { .. }) => "none",
        Err(Reject::IdConflict { .. }) => "clash",
        Err(Reject::NotIdle) => "busy",
        other => panic!("{other:?}"),
    }
}

/// Rows of `name: cells`, aligned.
fn table(states: &[&str], rows: Vec<(&str, Vec<String>)>) -> String {
    let line = |name: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:<10}")).collect();
        format!("{name:<14}{cells}").trim_end().to_owned()
    };
    let head = line("", &states.iter().map(|state| (*state).to_owned()).collect::<Vec<_>>());
    let lines: Vec<String> = rows.iter().map(|(name, cells)| line(name, cells)).collect();
    format!("\n{head}\n{}\n", lines.join("\n"))
}

/// A task in a state; the command's lease is W1's, which it holds in `mine` only.
fn task_in(state: &str) -> Case {
    let mut w = World::new();
    let id = TaskId([7; 16]);
    let work = Work::Task(id);
    if state == "absent" {
        return Case::new(w, work, LeaseId(1 << 16));
    }
    let mut submit = make::submit(id, "t");
    submit.policy = make::retries(1);
    submit.delay = Millis(if state == "delayed" { DUE } else { 0 });
    w.command(Command::SubmitTask(submit)).unwrap();
    if matches!(state, "delayed" | "ready") {
        return Case::new(w, work, LeaseId(1 << 16));
    }
    let mine = w.lease("t").unwrap();
    match state {
        "mine" => {}
        "other" => {
            w.end_session(W1);
            w.lease_as(W2, &["t"], 1);
        }
        "retrying" => drop(w.at(DUE - 1_000).fail(&mine, "no")),
        "ended" => drop(w.complete(&mine, "1")),
        "ended other" => {
            w.end_session(W1);
            let other = w.lease_as(W2, &["t"], 1).remove(0);
            w.complete(&other, "1").unwrap();
        }
        _ => unreachable!("{state}"),
    }
    Case::new(w, work, mine.lease)
}

/// A run in a state, with a step pending and none ended.
fn run_in(state: &str) -> Case {
    let mut w = World::new();
    let id = RunId([7; 16]);
    let work = Work::Run(id);
    if state == "absent" {
        return Case::new(w, work, LeaseId(1 << 16));
    }
    let mut start = make::start(id, "w");
    start.policy = make::retries(1);
    start.delay = Millis(if state == "delayed" { DUE } else { 0 });
    w.command(Command::StartRun(start)).unwrap();
    if matches!(state, "delayed" | "ready") {
        return Case::new(w, work, LeaseId(1 << 16));
    }
    let mine = w.lease_run("w").unwrap();
    w.spawn(&mine, &[make::step("slow", &["k"])]);
    let other = |w: &mut World| -> RunLease {
        w.end_session(W1);
        w.lease_run_as(W2, "w").unwrap()
    };
    match state {
        "mine" => {}
        "other" => drop(other(&mut w)),
        "parked" => drop(w.park(&mine, 0)),
        "retrying" => drop(w.at(DUE - 1_000).fail_run(&mine, "no")),
        "ended" => drop(w.finish(&mine, "1")),
        "ended other" => {
            let other = other(&mut w);
            w.finish(&other, "1").unwrap();
        }
        _ => unreachable!("{state}"),
    }
    Case::new(w, work, mine.lease)
}

const TASK_STATES: &[&str] = &["absent", "delayed", "ready", "mine", "other", "retrying", "ended", "ended other"];

#[test]
fn every_command_in_every_state_of_a_task() {
    let commands: [Row; 10] = [
        ("submit", |_| Command::SubmitTask(make::submit(TaskId([7; 16]), "t"))),
        ("submit other", |_| Command::SubmitTask(make::submit(TaskId([7; 16]), "other"))),
        ("complete", |case| complete_task(case, ok("2"))),
        ("fail", |case| complete_task(case, Err(make::failure("no")))),
        ("release", release),
        ("end W1", |_| Command::EndSession { session: W1 }),
        ("resume held", |case| Command::ResumeSession { session: W1, held: vec![case.lease] }),
        ("resume unheld", |_| Command::ResumeSession { session: W1, held: vec![] }),
        ("pause", |_| Command::PauseQueue { queue: "q".into() }),
        ("tick", |_| Command::Tick),
    ];
    let row = |command: fn(&Case) -> Command| {
        let cell = |state: &&str| {
            let mut case = task_in(state);
            let command = command(&case);
            case.cell(command)
        };
        TASK_STATES.iter().map(cell).collect()
    };
    let rows = commands.into_iter().map(|(name, command)| (name, row(command))).collect();
    let expected = "
               absent     delayed    ready      mine       other      retrying   ended      ended other
submit         new>R      old>D      old>R      old>L      old>L      old>T      old>E      old>E
submit other   new>R      clash>D    clash>R    clash>L    clash>L    clash>T    clash>E    clash>E
complete       over>-     stale>D    stale>R    done>E     stale>L    stale>T    done>E     over>E
fail           over>-     stale>D    stale>R    done>T     stale>L    stale>T    done>E     over>E
release        over>-     stale>D    stale>R    done>R     stale>L    stale>T    over>E     over>E
end W1         done>-     done>D     done>R     done>R     done>L     done>T     done>E     done>E
resume held    lost>-     lost>D     lost>R     kept>L     lost>L     lost>T     lost>E     lost>E
resume unheld  kept>-     kept>D     kept>R     kept>R     kept>L     kept>T     kept>E     kept>E
pause          done>-     done>D     done>R     done>L     done>L     done>T     done>E     done>E
tick           done>-     done>R     done>R     done>L     done>L     done>R     done>E     done>E
";
    assert_eq!(table(TASK_STATES, rows), expected, "\n");
}

const RUN_STATES: &[&str] =
    &["absent", "delayed", "ready", "mine", "other", "parked", "retrying", "ended", "ended other"];

#[test]
fn every_command_in_every_state_of_a_run() {
    let commands: [Row; 13] = [
        ("start", |_| Command::StartRun(make::start(RunId([7; 16]), "w"))),
        ("start other", |_| Command::StartRun(make::start(RunId([7; 16]), "other"))),
        ("spawn", |case| {
            let steps = vec![make::step("t", &["k"])];
            Command::Spawn(Spawn { run: RunId([7; 16]), lease: case.lease, steps })
        }),
        ("record", |case| {
            let (key, result) = (make::inline("r", &["k"]), make::json("4"));
            Command::RecordStep(RecordStep { run: RunId([7; 16]), lease: case.lease, key, result })
        }),
        ("complete", |case| complete_run(case, ok("2"))),
        ("fail", |case| complete_run(case, Err(make::failure("no")))),
        ("park", |case| Command::ParkRun(ParkRun { run: RunId([7; 16]), lease: case.lease, seen: 0 })),
        ("park unseen", |case| Command::ParkRun(ParkRun { run: RunId([7; 16]), lease: case.lease, seen: 9 })),
        ("release", release),
        ("end W1", |_| Command::EndSession { session: W1 }),
        ("resume held", |case| Command::ResumeSession { session: W1, held: vec![case.lease] }),
        ("resume unheld", |_| Command::ResumeSession { session: W1, held: vec![] }),
        ("tick", |_| Command::Tick),
    ];
    let row = |command: fn(&Case) -> Command| {
        let cell = |state: &&str| {
            let mut case = run_in(state);
            let command = command(&case);
            case.cell(command)
        };
        RUN_STATES.iter().map(cell).collect()
    };
    let rows = commands.into_iter().map(|(name, command)| (name, row(command))).collect();
    let expected = "
               absent     delayed    ready      mine       other      parked     retrying   ended      ended other
start          new>R      old>D      old>R      old>L      old>L      old>P      old>T      old>E      old>E
start other    new>R      clash>D    clash>R    clash>L    clash>L    clash>P    clash>T    clash>E    clash>E
spawn          none>-     stale>D    stale>R    steps>L    stale>L    stale>P    stale>T    over>E     over>E
record         none>-     stale>D    stale>R    saved>L    stale>L    stale>P    stale>T    over>E     over>E
complete       none>-     stale>D    stale>R    done>E     stale>L    stale>P    stale>T    done>E     over>E
fail           none>-     stale>D    stale>R    done>T     stale>L    stale>P    stale>T    done>E     over>E
park           none>-     stale>D    stale>R    done>P     stale>L    stale>P    stale>T    over>E     over>E
park unseen    none>-     stale>D    stale>R    busy>L     stale>L    stale>P    stale>T    over>E     over>E
release        over>-     stale>D    stale>R    done>R     stale>L    stale>P    stale>T    over>E     over>E
end W1         done>-     done>D     done>R     done>R     done>L     done>P     done>T     done>E     done>E
resume held    lost>-     lost>D     lost>R     kept>L     lost>L     lost>P     lost>T     lost>E     lost>E
resume unheld  kept>-     kept>D     kept>R     kept>R     kept>L     kept>P     kept>T     kept>E     kept>E
tick           done>-     done>R     done>R     done>L     done>L     done>P     done>R     done>E     done>E
";
    assert_eq!(table(RUN_STATES, rows), expected, "\n");
}

#[test]
fn only_ready_work_is_granted() {
    let states = |of: fn(&str) -> Case, states: &[&str], offer: &dyn Fn() -> Offer| -> Vec<String> {
        let cell = |state: &&str| {
            let mut case = of(state);
            case.world.entry(vec![], &[offer()]);
            let granted = life(&case.world, case.work) != case.before;
            format!("{state} {}", if granted { "granted" } else { "-" })
        };
        states.iter().map(cell).collect()
    };
    let granted = |cells: Vec<String>| cells.into_iter().filter(|cell| cell.ends_with("granted")).collect::<Vec<_>>();
    assert_eq!(granted(states(task_in, TASK_STATES, &|| Offer::tasks(W2, &["t"], 1))), ["ready granted"]);
    assert_eq!(granted(states(run_in, RUN_STATES, &|| Offer::runs(W2, &["w"], 1))), ["ready granted"]);
}

fn complete_task(case: &Case, outcome: coda_protocol::payload::WorkOutcome) -> Command {
    Command::CompleteTask(CompleteTask { task: TaskId([7; 16]), lease: case.lease, outcome })
}

fn complete_run(case: &Case, outcome: coda_protocol::payload::WorkOutcome) -> Command {
    Command::CompleteRun(CompleteRun { run: RunId([7; 16]), lease: case.lease, outcome })
}

fn release(case: &Case) -> Command {
    Command::Release(Release { work: case.work, lease: case.lease })
}
