//! Reads a script, does what it says, and writes it again with what happened.

use std::collections::BTreeMap;

use coda_engine::command::Command;
use coda_engine::effect::Effect;
use coda_engine::recover::recover;
use coda_protocol::ids::{LeaseId, Millis, Work};
use coda_protocol::payload::{Failure, WorkOutcome};
use coda_protocol::request::{CompleteRun, CompleteTask, ParkRun, RecordStep, Release, Spawn, SpawnStep, StepKind};

use crate::book::{self, Book};
use crate::support::{GROUP, Offer, World, failure, make};
use crate::words;

struct Player {
    world: World,
    book: Book,
}

/// One part of an entry.
enum Part {
    Command(Command),
    Offer(Offer),
}

pub fn play(file: &str, script: &str) -> String {
    let mut player = Player { world: World::new(), book: Book::default() };
    let mut out = String::new();
    for (i, line) in script.lines().enumerate() {
        if line.starts_with("  ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| player.say(line)));
        let said = said.unwrap_or_else(|_| panic!("{file}:{}: {line}", i + 1));
        said.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
    }
    out
}

/// Words, and `name=value` options among them.
struct Words<'a> {
    plain: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        let mut words = Self { plain: Vec::new(), options: BTreeMap::new() };
        let mut rest = text.trim();
        while !rest.is_empty() {
            // A quoted word may hold spaces.
            let quoted = rest.strip_prefix('"').and_then(|rest| rest.find('"')).map(|end| end + 2);
            let (word, after) = rest.split_at(quoted.or_else(|| rest.find(' ')).unwrap_or(rest.len()));
            rest = after.trim_start();
            match word.split_once('=') {
                Some((name, value)) if !word.starts_with('"') => drop(words.options.insert(name, value)),
                _ => words.plain.push(word),
            }
        }
        words
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.options.get(name).map_or(default, |value| value.parse().expect("a number"))
    }

    fn queue(&self) -> &'a str {
        self.options.get("queue").copied().unwrap_or("default")
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }
}

impl Player {
    fn say(&mut self, line: &str) -> Vec<String> {
        let words = Words::new(line);
        match words.plain[0] {
            "at" => {
                self.world.at(words.plain[1].parse().expect("milliseconds"));
                vec![]
            }
            "describe" => words::describe(&self.world.kv, self.book.work(words.plain[1])),
            "queue" => words::queue(&self.world.kv, words.plain[1]),
            "new-leader" => {
                let effects = recover(&self.world.kv, GROUP);
                effects.iter().map(|effect| words::effect(&self.book, &self.world.kv, effect)).collect()
            }
            _ => self.entry(line),
        }
    }

    fn entry(&mut self, line: &str) -> Vec<String> {
        let (mut commands, mut offers) = (Vec::new(), Vec::new());
        for part in line.split(" & ") {
            match self.part(&Words::new(part)) {
                Part::Command(command) => commands.push(command),
                Part::Offer(offer) => offers.push(offer),
            }
        }
        let applied = self.world.entry(commands, &offers);
        self.book.read(&self.world.kv);
        for effect in &applied.effects {
            match effect {
                Effect::TaskLeased { lease, .. } => self.book.leased(Work::Task(lease.task), lease.lease),
                Effect::RunLeased { lease, .. } => self.book.leased(Work::Run(lease.run), lease.lease),
                _ => {}
            }
        }
        let mut lines: Vec<_> =
            applied.outcomes.iter().map(|outcome| format!("=> {}", words::outcome(&self.book, outcome))).collect();
        // How many leases end is no story.
        let effects = applied.effects.iter().filter(|effect| !matches!(effect, Effect::LeasesEnded { .. }));
        lines.extend(effects.map(|effect| format!(".. {}", words::effect(&self.book, &self.world.kv, effect))));
        for (offer, unused) in offers.iter().zip(&applied.unused).filter(|(_, unused)| **unused > 0) {
            lines.push(format!(".. {} has {unused} free", book::session_name(offer.session)));
        }
        lines
    }

    fn part(&mut self, words: &Words<'_>) -> Part {
        let plain = &words.plain;
        let arg = |i: usize| *plain.get(i).unwrap_or_else(|| panic!("{} lacks an argument", plain[0]));
        Part::Command(match plain[0] {
            "start" => {
                let mut start = make::start(self.book.run(arg(1)), arg(2));
                start.queue = words.queue().into();
                start.priority = words.number("priority", start.priority.into()) as u8;
                start.policy = make::retries(words.number("retries", 0) as u32);
                start.delay = Millis(words.number("delay", 0));
                Command::StartRun(start)
            }
            "submit" => {
                let mut submit = make::submit(self.book.task(arg(1)), arg(2));
                submit.queue = words.queue().into();
                submit.priority = words.number("priority", submit.priority.into()) as u8;
                submit.policy = make::retries(words.number("retries", 0) as u32);
                submit.delay = Millis(words.number("delay", 0));
                Command::SubmitTask(submit)
            }
            "grant" => return Part::Offer(offer(words)),
            "spawn" => {
                let run = self.book.run(arg(1));
                let lease = self.lease(words, Work::Run(run));
                let steps = plain[2..].iter().map(|step| spawn_step(step, lease, words)).collect();
                Command::Spawn(Spawn { run, lease, steps })
            }
            "record" => {
                let run = self.book.run(arg(1));
                let lease = self.lease(words, Work::Run(run));
                let key = book::key(arg(2), StepKind::Inline, lease);
                Command::RecordStep(RecordStep { run, lease, key, result: make::json(arg(3)) })
            }
            "complete" => self.end(words, Ok(make::json(arg(2)))),
            "fail" => {
                let retryable = !words.has("fatal");
                let failure = Failure { retryable, ..failure(arg(2).trim_matches('"')) };
                self.end(words, Err(failure))
            }
            "release" => {
                let work = self.book.work(arg(1));
                Command::Release(Release { work, lease: self.lease(words, work) })
            }
            "park" => {
                let run = self.book.run(arg(1));
                let lease = self.lease(words, Work::Run(run));
                Command::ParkRun(ParkRun { run, lease, seen: words.number("seen", 0) as u32 })
            }
            "end-session" => Command::EndSession { session: book::session(arg(1)) },
            "resume" => {
                let held = words.options.get("held").map_or(vec![], |held| {
                    held.split(',').map(|number| self.book.lease(number.parse().expect("a number"))).collect()
                });
                Command::ResumeSession { session: book::session(arg(1)), held }
            }
            "pause" => Command::PauseQueue { queue: arg(1).into() },
            "unpause" => Command::UnpauseQueue { queue: arg(1).into() },
            "tick" => Command::Tick,
            other => panic!("nobody can {other}"),
        })
    }

    /// The lease that is named, or the latest of the work.
    fn lease(&self, words: &Words<'_>, work: Work) -> LeaseId {
        match words.number("lease", 0) {
            0 => self.book.latest(work),
            number => self.book.lease(number as usize),
        }
    }

    fn end(&mut self, words: &Words<'_>, outcome: WorkOutcome) -> Command {
        let work = self.book.work(words.plain[1]);
        let lease = self.lease(words, work);
        match work {
            Work::Task(task) => Command::CompleteTask(CompleteTask { task, lease, outcome }),
            Work::Run(run) => Command::CompleteRun(CompleteRun { run, lease, outcome }),
        }
    }
}

/// `grant w1 tasks send,resize slots=2`
fn offer(words: &Words<'_>) -> Offer {
    let (session, kind) = (book::session(words.plain[1]), words.plain[2]);
    let names: Vec<&str> = words.plain[3].split(',').collect();
    let slots = words.number("slots", 1) as u32;
    let offer = match kind {
        "tasks" => Offer::tasks(session, &names, slots),
        "runs" => Offer::runs(session, &names, slots),
        other => panic!("there are no slots for {other}"),
    };
    Offer { queue: words.queue().into(), ..offer }
}

fn spawn_step(step: &str, lease: LeaseId, words: &Words<'_>) -> SpawnStep {
    let mut spawn = make::step("", &[]);
    spawn.key = book::key(step, StepKind::Task, lease);
    spawn.queue = words.queue().into();
    spawn.policy = make::retries(words.number("retries", 0) as u32);
    spawn.delay = Millis(words.number("delay", 0));
    spawn
}
