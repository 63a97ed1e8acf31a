//! Names for ids: what a script calls things, in both directions.

use std::collections::BTreeMap;

use coda_engine::kv::MemKv;
use coda_engine::rows::Parent;
use coda_engine::tables::{RUN, TASK};
use coda_protocol::cache_key::CacheKey;
use coda_protocol::ids::{LeaseId, RunId, SessionId, TaskId, Work};
use coda_protocol::request::{StepKey, StepKind};

use crate::support::{GROUP, make};

#[derive(Default)]
pub struct Book {
    works: BTreeMap<String, Work>,
    names: BTreeMap<Work, String>,
    /// In the order in which they were granted.
    leases: Vec<LeaseId>,
    /// The latest of each work.
    latest: BTreeMap<Work, LeaseId>,
}

/// A name as the bytes of an id.
fn bytes(name: &str) -> [u8; 16] {
    assert!(name.len() <= 16 && name.is_ascii(), "{name} is too long a name");
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    id
}

pub fn session(name: &str) -> SessionId {
    SessionId(bytes(name))
}

pub fn session_name(session: SessionId) -> String {
    String::from_utf8_lossy(&session.0).trim_end_matches('\0').to_owned()
}

/// `charge[e1]`, `charge#0`, `charge!0`.
pub fn key_name(key: &StepKey) -> String {
    let bytes = key.cache_key.as_bytes();
    let number = || u32::from_be_bytes(*bytes.last_chunk().expect("automatic keys end in a number"));
    let cached = match bytes[0] {
        0 => format!("#{}", number()),
        2 => format!("!{}", number()),
        _ => format!("[{}]", parts(&bytes[1..]).join(",")),
    };
    let kind = if key.kind == StepKind::Workflow { "run:" } else { "" };
    format!("{kind}{}{cached}", key.name)
}

/// The strings of an explicit key.
fn parts(mut bytes: &[u8]) -> Vec<String> {
    let mut parts = Vec::new();
    while let [4, a, b, c, d, rest @ ..] = bytes {
        let (text, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        parts.push(String::from_utf8_lossy(text).into_owned());
        bytes = after;
    }
    parts
}

/// Reads what [`key_name`] writes.
pub fn key(text: &str, kind: StepKind, lease: LeaseId) -> StepKey {
    let (kind, text) = text.strip_prefix("run:").map_or((kind, text), |text| (StepKind::Workflow, text));
    let at = text.find(['[', '#', '!']).unwrap_or_else(|| panic!("{text} has no cache key"));
    let (name, rest) = text.split_at(at);
    let cache_key = match rest.split_at(1) {
        ("#", n) => CacheKey::auto(n.parse().unwrap()),
        ("!", n) => CacheKey::fresh(lease, n.parse().unwrap()),
        (_, parts) => {
            let parts = parts.strip_suffix(']').expect("a key ends in ]");
            make::explicit(&parts.split(',').filter(|part| !part.is_empty()).collect::<Vec<_>>())
        }
    };
    StepKey { kind, name: name.into(), cache_key }
}

impl Book {
    pub fn run(&mut self, name: &str) -> RunId {
        match self.works.get(name) {
            Some(Work::Run(run)) => *run,
            Some(Work::Task(_)) => panic!("{name} is a task"),
            None => {
                let run = RunId(bytes(name));
                self.learn(name.to_owned(), Work::Run(run));
                run
            }
        }
    }

    pub fn task(&mut self, name: &str) -> TaskId {
        match self.works.get(name) {
            Some(Work::Task(task)) => *task,
            Some(Work::Run(_)) => panic!("{name} is a run"),
            None => {
                let task = TaskId(bytes(name));
                self.learn(name.to_owned(), Work::Task(task));
                task
            }
        }
    }

    pub fn work(&self, name: &str) -> Work {
        *self.works.get(name).unwrap_or_else(|| panic!("nothing is called {name}"))
    }

    fn learn(&mut self, name: String, work: Work) {
        self.works.insert(name.clone(), work);
        self.names.insert(work, name);
    }

    pub fn name(&self, work: Work) -> String {
        self.names.get(&work).cloned().unwrap_or_else(|| format!("{work:?}"))
    }

    /// Steps get their names from the rows that say whose they are.
    pub fn read(&mut self, kv: &MemKv) {
        let tasks = TASK.all(kv, GROUP).into_iter().map(|(id, row)| (Work::Task(id), row.parent));
        let runs = RUN.all(kv, GROUP).into_iter().map(|(id, row)| (Work::Run(id), row.parent));
        let steps: Vec<_> = tasks.chain(runs).filter_map(|(work, parent)| Some((work, parent?))).collect();
        for (work, Parent { run, key }) in steps {
            let parent = self.name(Work::Run(run));
            self.learn(format!("{parent}/{}", key_name(&key)), work);
        }
    }

    pub fn leased(&mut self, work: Work, lease: LeaseId) {
        self.leases.push(lease);
        self.latest.insert(work, lease);
    }

    /// The number of a lease, from 1.
    pub fn number(&self, lease: LeaseId) -> usize {
        self.leases.iter().position(|known| *known == lease).map_or(0, |i| i + 1)
    }

    pub fn lease(&self, number: usize) -> LeaseId {
        *self.leases.get(number - 1).unwrap_or_else(|| panic!("there is no lease {number} yet"))
    }

    /// The latest lease of a piece of work, or one that never was.
    pub fn latest(&self, work: Work) -> LeaseId {
        self.latest.get(&work).copied().unwrap_or(LeaseId(0))
    }
}
