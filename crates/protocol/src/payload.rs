//! What users' functions take and give: opaque bytes with the name of the codec that made them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::codec;
use crate::limits::{CODEC_NAME_BYTES_MAX, FAILURE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::reject::Reject;

/// Bytes that Coda carries and never looks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Which codec reads it, e.g. `json`.
    pub codec: SmolStr,
    #[serde(deserialize_with = "codec::bytes")]
    pub data: Bytes,
}

impl Payload {
    /// A JSON payload from text that is already JSON.
    #[must_use]
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self { codec: SmolStr::new_static("json"), data: text.into() }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`Reject::PayloadTooLarge`] or [`Reject::BadName`] for its codec.
    pub fn check(&self) -> Result<(), Reject> {
        if self.data.len() > PAYLOAD_BYTES_MAX {
            return Err(Reject::PayloadTooLarge { bytes: self.data.len() as u64, bytes_max: PAYLOAD_BYTES_MAX as u64 });
        }
        if self.codec.is_empty() || self.codec.len() > CODEC_NAME_BYTES_MAX {
            return Err(Reject::BadName { name: self.codec.chars().take(64).collect() });
        }
        Ok(())
    }
}

/// Why a task or a workflow function did not return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exception's qualified type name, or one of Coda's own such as `coda.WorkerLost`.
    #[serde(deserialize_with = "codec::text")]
    pub kind: String,
    #[serde(deserialize_with = "codec::text")]
    pub message: String,
    /// The remote traceback as the language prints it; may be empty.
    #[serde(deserialize_with = "codec::text")]
    pub traceback: String,
    /// Whether the policy's retries apply to this failure. The worker decides (`retry_on`).
    pub retryable: bool,
}

impl Failure {
    /// Its size, as far as it is the user's.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.kind.len() + self.message.len() + self.traceback.len()
    }

    /// Checks the bound.
    ///
    /// # Errors
    /// [`Reject::FailureTooLarge`].
    pub fn check(&self) -> Result<(), Reject> {
        let bytes = self.bytes();
        if bytes > FAILURE_BYTES_MAX {
            return Err(Reject::FailureTooLarge { bytes: bytes as u64, bytes_max: FAILURE_BYTES_MAX as u64 });
        }
        Ok(())
    }
}

/// How a task, step or run ended.
pub type WorkOutcome = Result<Payload, Failure>;

/// The size of either side.
#[must_use]
pub fn outcome_bytes(outcome: &WorkOutcome) -> usize {
    match outcome {
        Ok(payload) => payload.data.len(),
        Err(failure) => failure.bytes(),
    }
}

/// Checks the bounds of either side.
///
/// # Errors
/// As [`Payload::check`] and [`Failure::check`].
pub fn check_outcome(outcome: &WorkOutcome) -> Result<(), Reject> {
    match outcome {
        Ok(payload) => payload.check(),
        Err(failure) => failure.check(),
    }
}
