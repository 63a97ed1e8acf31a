//! Mistakes in a configuration: all of them at once, each with its place and its code.

use super::keys::Key;
use super::layers::Origin;
use super::value::Raw;
use crate::errors::{CliError, Exit};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: &'static str,
    /// File and line, variable or option.
    pub place: Option<Origin>,
    pub text: String,
}

impl Problem {
    pub fn unreadable(path: &str, why: &str) -> Self {
        Self { code: "CODA4219", place: None, text: format!("cannot read {path}: {why}") }
    }

    pub fn not_toml(place: Origin, why: &str) -> Self {
        // Its first line says what, the others show where, which the place does.
        let why = why.lines().next().unwrap_or_default();
        Self { code: "CODA4219", place: Some(place), text: format!("this is not TOML: {why}") }
    }

    pub fn unknown(place: Origin, name: &str, nearest: &str) -> Self {
        let text = format!("there is no key `{name}`; the nearest is `{nearest}`");
        Self { code: "CODA4220", place: Some(place), text }
    }

    pub fn bad_value(place: Origin, key: &Key, raw: &Raw, expected: &str) -> Self {
        let text = if key.is_secret {
            format!("`{}` cannot be used: write {expected}", key.name)
        } else {
            format!("`{}` cannot be `{raw}`: write {expected}", key.name)
        };
        Self { code: "CODA4221", place: Some(place), text }
    }

    pub fn missing(key: &Key) -> Self {
        let text = format!("`{}` is not set, and has no default: {} (or set {})", key.name, key.about, key.variable());
        Self { code: "CODA4222", place: None, text }
    }

    pub fn alone(place: Origin, key: &Key) -> Self {
        let text =
            format!("`{}` means nothing without `listen.peer`: a node that others do not reach is alone", key.name);
        Self { code: "CODA4224", place: Some(place), text }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The first is the error; the others stand below it.
pub fn refusal(problems: &[Problem]) -> CliError {
    let code = problems.first().map_or("CODA4219", |problem| problem.code);
    let message = problems.first().map(ToString::to_string).unwrap_or_default();
    let others: Vec<String> =
        problems.iter().skip(1).map(|problem| format!("also [{}]: {problem}", problem.code)).collect();
    let mut error =
        CliError::new(Exit::Usage, code, message).help("`coda-admin config keys` lists all keys and what they may be");
    error.detail = (!others.is_empty()).then(|| others.join("\n"));
    error
}
