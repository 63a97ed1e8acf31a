//! What clients saw, one event a line: an operation begins, and ends or does not.
//!
//! ```text
//! {"at":120,"op":7,"client":2,"type":"invoke","f":"submit","key":"a","value":1}
//! {"at":340,"op":7,"client":2,"type":"ok","f":"submit","key":"a","value":1,"group":1,"term":3,"index":56}
//! {"at":910,"op":8,"client":0,"type":"maybe","f":"submit","error":"CODA4009"}
//! ```
//!
//! `ok`: acknowledged or answered. `fail`: certainly without effect. `maybe`: nobody knows, now or ever: it may have taken
//! effect, and may still. An operation without an end is a `maybe`. A time-out is never a `fail`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::{Moment, NEVER};

/// Where an answer stands in the log of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub group: u32,
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    Invoke,
    Ok,
    Fail,
    Maybe,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub at: Moment,
    /// Which operation: unique in the history.
    pub op: u64,
    pub client: u64,
    #[serde(rename = "type")]
    pub kind: Type,
    /// What is asked, in a word.
    pub f: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is asked with, or the answer.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an operation ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Ok,
    Fail,
    Maybe,
}

/// An operation: both of its events.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub op: u64,
    pub client: u64,
    pub f: String,
    pub key: Option<String>,
    pub asked_with: Value,
    pub answer: Value,
    pub asked: Moment,
    /// [`NEVER`] of a `maybe`: it may take effect at any later time.
    pub answered: Moment,
    pub end: End,
    pub position: Option<Position>,
    pub error: Option<String>,
}

#[derive(Debug, Error)]
pub enum Malformed {
    #[error("line {line} is no event: {why}")]
    NoEvent { line: usize, why: serde_json::Error },
    #[error("operation {op} begins twice")]
    BeginsTwice { op: u64 },
    #[error("operation {op} ends, and has not begun or has ended before")]
    EndsAtNoTime { op: u64 },
    #[error("operation {op} ends at {ended}, before it begins at {begun}")]
    EndsBefore { op: u64, begun: Moment, ended: Moment },
}

/// Reads events. A kill may have left half a line at the end; that one is left out.
///
/// # Errors
/// [`Malformed::NoEvent`].
pub fn parse(text: &str) -> Result<Vec<Event>, Malformed> {
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate();
    whole.map(|(i, line)| serde_json::from_str(line).map_err(|why| Malformed::NoEvent { line: i + 1, why })).collect()
}

/// Puts both ends of each operation together, in the order in which they began.
///
/// # Errors
/// What no harness can have written.
pub fn pair(events: &[Event]) -> Result<Vec<Op>, Malformed> {
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut ops: Vec<Op> = Vec::new();
    for event in events {
        let end = match event.kind {
            Type::Invoke => {
                if open.insert(event.op, ops.len()).is_some() {
                    return Err(Malformed::BeginsTwice { op: event.op });
                }
                ops.push(Op::begin(event));
                continue;
            }
            Type::Ok => End::Ok,
            Type::Fail => End::Fail,
            Type::Maybe => End::Maybe,
        };
        let begun = open.get(&event.op).map(|i| &mut ops[*i]).filter(|op| op.end == End::Maybe && op.answered == NEVER);
        let op = begun.ok_or(Malformed::EndsAtNoTime { op: event.op })?;
        if event.at < op.asked {
            return Err(Malformed::EndsBefore { op: event.op, begun: op.asked, ended: event.at });
        }
        op.end = end;
        op.answered = if end == End::Maybe { NEVER } else { event.at };
        op.answer = event.value.clone();
        op.position = event.position;
        op.error = event.error.clone();
    }
    Ok(ops)
}

impl Op {
    fn begin(event: &Event) -> Self {
        Self {
            op: event.op,
            client: event.client,
            f: event.f.clone(),
            key: event.key.clone(),
            asked_with: event.value.clone(),
            answer: Value::Null,
            asked: event.at,
            answered: NEVER,
            end: End::Maybe,
            position: None,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"at":1,"op":7,"client":2,"type":"invoke","f":"submit","key":"a","value":1}
{"at":2,"op":8,"client":3,"type":"invoke","f":"read","key":"a"}
{"at":5,"op":7,"client":2,"type":"ok","f":"submit","key":"a","group":1,"term":3,"index":56}
{"at":6,"op":9,"client":3,"type":"invoke","f":"read"}
{"at":9,"op":9,"client":3,"type":"fail","f":"read","error":"CODA2012"}
{"at":10,"op":9,"cli"#;

    #[test]
    fn operations_are_put_together_and_what_has_no_end_is_a_maybe() {
        let ops = pair(&parse(TEXT).unwrap()).unwrap();
        let ends: Vec<_> = ops.iter().map(|op| (op.op, op.end, op.answered)).collect();
        assert_eq!(ends, [(7, End::Ok, 5), (8, End::Maybe, NEVER), (9, End::Fail, 9)]);
        assert_eq!(ops[0].position, Some(Position { group: 1, term: 3, index: 56 }));
        assert_eq!((&ops[0].asked_with, ops[2].error.as_deref()), (&Value::from(1), Some("CODA2012")));
    }

    #[test]
    fn events_are_what_was_written() {
        for event in parse(TEXT).unwrap() {
            let line = serde_json::to_string(&event).unwrap() + "\n";
            assert_eq!(parse(&line).unwrap(), [event], "{line}");
        }
    }

    #[test]
    fn what_no_harness_writes_is_refused() {
        let line =
            |at: u64, kind: &str| format!("{{\"at\":{at},\"op\":1,\"client\":1,\"type\":\"{kind}\",\"f\":\"x\"}}\n");
        let refused = |lines: &[String]| pair(&parse(&lines.concat()).unwrap()).unwrap_err().to_string();
        assert!(refused(&[line(1, "invoke"), line(2, "invoke")]).contains("begins twice"));
        assert!(refused(&[line(1, "ok")]).contains("has not begun"));
        assert!(refused(&[line(1, "invoke"), line(2, "ok"), line(3, "ok")]).contains("has ended before"));
        assert!(refused(&[line(5, "invoke"), line(2, "ok")]).contains("before it begins"));
        assert!(parse("{}\n").is_err());
    }
}
