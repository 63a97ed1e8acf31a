//! What clients and workers of one workload saw, as checkers read it: in memory, and line by line in `operations-NAME.jsonl`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use coda_checkers::history::{self, Event, Op, Type};
use coda_client::ClientError;
use coda_protocol::ids::Position;
use coda_protocol::reject::Refusal;
use coda_protocol::reply::{Answer, Reply};
use parking_lot::Mutex;
use serde_json::Value;
use tracing::warn;

use crate::moment::Moment;
use crate::operations::{Ending, Operations};

/// Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
    operations: Operations,
}

struct Inner {
    file: BufWriter<File>,
    events: Vec<Event>,
    next: u64,
}

/// An operation that has begun. One that is dropped has no end: nobody knows.
#[must_use = "an operation ends somehow"]
pub struct Begun {
    op: u64,
    client: u64,
    f: &'static str,
    asked: Moment,
}

impl Recorder {
    pub fn create(out: &Path, workload: &str, operations: Operations) -> anyhow::Result<Self> {
        let path = out.join(format!("operations-{workload}.jsonl"));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let inner = Inner { file: BufWriter::new(file), events: Vec::new(), next: 0 };
        Ok(Self { inner: Arc::new(Mutex::new(inner)), operations })
    }

    pub fn begin(&self, client: u64, f: &'static str, key: impl ToString, value: Value) -> Begun {
        let mut inner = self.inner.lock();
        let op = inner.next;
        inner.next += 1;
        let asked = Moment::now();
        inner.note(event(asked, op, client, Type::Invoke, f, Some(key.to_string()), value, None, None));
        Begun { op, client, f, asked }
    }

    pub fn ok(&self, begun: Begun, value: Value, position: Option<Position>) {
        self.end(begun, Type::Ok, value, position, None);
    }

    /// It has certainly not taken effect.
    pub fn fail(&self, begun: Begun, why: impl ToString, position: Option<Position>) {
        self.end(begun, Type::Fail, Value::Null, position, Some(why.to_string()));
    }

    /// It may have taken effect, or may still.
    pub fn maybe(&self, begun: Begun, why: impl ToString) {
        self.end(begun, Type::Maybe, Value::Null, None, Some(why.to_string()));
    }

    /// Ends an operation as its answer says; what `show` makes of the reply is its value. The reply, if it is a yes.
    pub fn answered(
        &self,
        begun: Begun,
        answered: Result<Answer, ClientError>,
        show: impl FnOnce(&Reply) -> Value,
    ) -> Result<(Reply, Position), String> {
        match answered {
            Ok(Answer { position, result: Ok(reply) }) => {
                self.ok(begun, show(&reply), position.known());
                Ok((reply, position))
            }
            Ok(Answer { position, result: Err(refusal) }) => {
                let code = match &refusal {
                    Refusal::Reject(reject) => reject.code(),
                    Refusal::Unavailable(unavailable) => unavailable.code(),
                };
                self.fail(begun, code, position.known());
                Err(code.to_owned())
            }
            Err(error) => {
                self.maybe(begun, error.code());
                Err(error.code().to_owned())
            }
        }
    }

    /// Something that happened at one moment.
    pub fn note(&self, client: u64, f: &'static str, key: impl ToString, value: Value) {
        let mut inner = self.inner.lock();
        let op = inner.next;
        inner.next += 1;
        let (at, key) = (Moment::now(), Some(key.to_string()));
        inner.note(event(at, op, client, Type::Invoke, f, key.clone(), value.clone(), None, None));
        inner.note(event(at, op, client, Type::Ok, f, key, value, None, None));
    }

    /// Adds what a worker in another language has written down, if there is one.
    pub fn read(&self, notes: &Path) -> anyhow::Result<()> {
        let Ok(text) = fs::read_to_string(notes) else { return Ok(()) };
        let events = history::parse(&text).with_context(|| notes.display().to_string())?;
        let mut inner = self.inner.lock();
        // They number their operations by themselves.
        let first = inner.next;
        for event in events {
            let op = first + event.op;
            inner.next = inner.next.max(op + 1);
            inner.note(Event { op, ..event });
        }
        Ok(())
    }

    /// All operations so far, for the checkers.
    pub fn history(&self) -> anyhow::Result<Vec<Op>> {
        let mut inner = self.inner.lock();
        inner.file.flush().context("the operations cannot be written")?;
        Ok(history::pair(&inner.events)?)
    }

    fn end(&self, begun: Begun, kind: Type, value: Value, position: Option<Position>, error: Option<String>) {
        let Begun { op, client, f, asked } = begun;
        let ending = match kind {
            Type::Ok | Type::Invoke => Ending::Ok,
            Type::Fail => Ending::Failed,
            Type::Maybe => Ending::Maybe,
        };
        self.operations.ended(f, asked, ending);
        let mut inner = self.inner.lock();
        let at = Moment::now();
        inner.note(event(at, op, client, kind, f, None, value, position, error));
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of a line, in their order")]
fn event(
    at: Moment,
    op: u64,
    client: u64,
    kind: Type,
    f: &str,
    key: Option<String>,
    value: Value,
    position: Option<Position>,
    error: Option<String>,
) -> Event {
    let position = position.map(|Position { group, term, index }| history::Position { group, term, index });
    Event { at: at.0, op, client, kind, f: f.to_owned(), key, value, position, error }
}

impl Inner {
    fn note(&mut self, event: Event) {
        let line = serde_json::to_string(&event).expect("events are values");
        if let Err(error) = writeln!(self.file, "{line}") {
            warn!(%error, "the operations cannot be written");
        }
        self.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use coda_checkers::history::End;
    use coda_protocol::reject::Reject;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_in_the_file_is_what_is_checked() {
        let out = std::env::temp_dir().join(format!("coda-recorder-{}", std::process::id()));
        std::fs::create_dir_all(&out).unwrap();
        let recorder = Recorder::create(&out, "test", Operations::default()).unwrap();
        let position = Position { group: 1, term: 2, index: 3 };
        let yes = Answer { position, result: Ok(Reply::Done) };
        let no = Answer { position: Position::NOWHERE, result: Err(Reject::StaleLease.into()) };
        let late = ClientError::Deadline { ms: 9, last: None };
        for answered in [Ok(yes), Ok(no), Err(late)] {
            let begun = recorder.begin(7, "submit", "key", json!({ "n": 1 }));
            drop(recorder.answered(begun, answered, |_| json!(1)));
        }
        drop(recorder.begin(7, "submit", "key", Value::Null));
        recorder.note(8, "lease", "key", json!(5));
        let notes = out.join("python-test.jsonl");
        let lines = [
            r#"{"at": 5, "op": 0, "client": 200, "f": "lease", "key": "a", "value": {"attempt": 1}, "type": "invoke"}"#,
            r#"{"at": 5, "op": 0, "client": 200, "f": "lease", "key": "a", "value": {"attempt": 1}, "type": "ok"}"#,
            r#"{"at": 6, "op": 1, "client": 200, "f": "complete", "key": "a", "value": null, "type": "invoke"}"#,
            r#"{"at": 7, "op": 2, "cli"#,
        ];
        std::fs::write(&notes, lines.join("\n")).unwrap();
        recorder.read(&notes).unwrap();
        recorder.read(&out.join("python-none.jsonl")).unwrap();
        let ops = recorder.history().unwrap();
        let ends: Vec<_> = ops.iter().map(|op| op.end).collect();
        assert_eq!(ends, [End::Ok, End::Fail, End::Maybe, End::Maybe, End::Ok, End::Ok, End::Maybe]);
        assert_eq!((ops[5].f.as_str(), ops[5].asked_with["attempt"].as_u64(), ops[5].asked), ("lease", Some(1), 5));
        assert_eq!(ops[0].position.map(|at| at.index), Some(3));
        assert_eq!((ops[1].error.as_deref(), ops[1].position), (Some("CODA2014"), None));
        let text = std::fs::read_to_string(out.join("operations-test.jsonl")).unwrap();
        assert_eq!(history::pair(&history::parse(&text).unwrap()).unwrap(), ops);
        std::fs::remove_dir_all(&out).unwrap();
    }
}
