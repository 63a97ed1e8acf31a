//! Rust values as JSON payloads, and Rust errors as failures.

use std::any::Any;
use std::error::Error;
use std::fmt;

use coda_protocol::limits::{FAILURE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use coda_protocol::payload::{Failure, Payload};
use coda_protocol::reject::Reject;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ClientError;
use crate::workflow::StepFailed;

/// What task and workflow functions may fail with: any error, a `String`, or what `anyhow` makes.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A value as a JSON payload.
///
/// # Errors
/// [`ClientError::BadPayload`], and [`Reject::PayloadTooLarge`].
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Payload, ClientError> {
    let text = serde_json::to_vec(value).map_err(|error| ClientError::BadPayload { why: error.to_string() })?;
    if text.len() > PAYLOAD_BYTES_MAX {
        let (bytes, bytes_max) = (text.len() as u64, PAYLOAD_BYTES_MAX as u64);
        return Err(Reject::PayloadTooLarge { bytes, bytes_max }.into());
    }
    Ok(Payload::json(text))
}

/// The value of a JSON payload.
///
/// # Errors
/// [`ClientError::BadPayload`] when it has another codec or another shape.
pub fn from_json<T: DeserializeOwned>(payload: &Payload) -> Result<T, ClientError> {
    let bad = |why: String| ClientError::BadPayload { why };
    if payload.codec != "json" {
        return Err(bad(format!("its codec is `{}`, this function reads `json`", payload.codec)));
    }
    serde_json::from_slice(&payload.data).map_err(|error| bad(error.to_string()))
}

/// An error that is recorded exactly as it says, e.g. to fail without further retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed(pub Failure);

impl Failed {
    /// A failure that no retry can mend.
    pub fn for_good(error: impl Into<BoxError>) -> Self {
        Self(Failure { retryable: false, ..failure("coda.FailedForGood", error) })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)
    }
}

impl Error for Failed {}

/// An error as a failure: its type's name, what it and its causes say, and how it prints for debugging.
pub(crate) fn failure_of<E: Into<BoxError>>(error: E) -> Failure {
    failure(std::any::type_name::<E>(), error)
}

fn failure(kind: &str, error: impl Into<BoxError>) -> Failure {
    let error = error.into();
    if let Some(Failed(exact)) = error.downcast_ref() {
        return exact.clone();
    }
    // A step's failure passed on by `?` keeps its name, whatever type carries it.
    let kind = if error.is::<StepFailed>() { "coda.StepFailed" } else { kind };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors already print their cause.
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    cut(Failure { kind: kind.to_owned(), message, traceback: format!("{error:?}"), retryable: true })
}

/// What a panic leaves.
pub(crate) fn failure_of_panic(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned());
    cut(Failure { kind: "coda.Panicked".into(), message, traceback: String::new(), retryable: true })
}

/// A failure of Coda's own kinds, without retries: doing the same again would end the same way.
pub(crate) fn failure_of_client(kind: &str, error: &ClientError) -> Failure {
    let message = format!("{}: {error}", error.code());
    cut(Failure { kind: kind.to_owned(), message, traceback: String::new(), retryable: false })
}

/// Shortens what is too long, the traceback first.
fn cut(mut failure: Failure) -> Failure {
    let mut over =
        (failure.kind.len() + failure.message.len() + failure.traceback.len()).saturating_sub(FAILURE_BYTES_MAX);
    for text in [&mut failure.traceback, &mut failure.message, &mut failure.kind] {
        let keep = text.floor_char_boundary(text.len().saturating_sub(over));
        over = over.saturating_sub(text.len() - keep);
        text.truncate(keep);
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_type_causes_and_debug() {
        let cause = "x".parse::<u32>().unwrap_err();
        let failure = failure_of(std::io::Error::other(cause));
        assert_eq!(failure.kind, "std::io::error::Error");
        assert_eq!(failure.message, "invalid digit found in string");
        assert!(failure.traceback.contains("InvalidDigit") && failure.retryable);
        assert!(!failure_of(Failed::for_good("no")).retryable);
    }

    #[test]
    fn a_failure_over_the_bound_loses_its_traceback_first() {
        let long = "ä".repeat(FAILURE_BYTES_MAX);
        let failure = cut(Failure { kind: "K".into(), message: "m".into(), traceback: long.clone(), retryable: true });
        assert_eq!((failure.message.as_str(), failure.check()), ("m", Ok(())));
        let failure = cut(Failure { kind: "K".into(), message: long.clone(), traceback: long, retryable: true });
        assert_eq!((failure.kind.as_str(), failure.traceback.as_str(), failure.check()), ("K", "", Ok(())));
    }
}
