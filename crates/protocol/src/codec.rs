//! The one place that knows how values become bytes: bincode 2 (varint, little endian, serde) with a bound on decoding.
//!
//! Enums are encoded by position: append variants, never reorder. Structs carry no field names: a changed struct is a
//! new variant. Golden bytes in `tests/compat` hold this.

use std::fmt;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError;
use bytes::Bytes;
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// No decoder allocates more than this for one value, whatever its bytes claim.
pub const DECODE_BYTES_MAX: usize = 64 << 20;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    pub what: &'static str,
    pub why: String,
}

fn config() -> Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>> {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Encodes a value.
///
/// # Panics
/// Only if the type cannot be encoded at all (a bug, found by any test of that type).
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode_into(value, &mut out);
    out
}

/// Encodes a value at the end of a buffer.
///
/// # Panics
/// As [`encode`].
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard())
        .expect("encoding to memory fails only for types that bincode does not support");
}

/// Decodes a value that must fill the bytes exactly.
///
/// # Errors
/// [`Malformed`], naming `what` was expected.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Malformed> {
    let malformed = |why: String| Malformed { what, why };
    let (value, used) = bincode::serde::decode_from_slice::<T, _>(bytes, config())
        .map_err(|error: DecodeError| malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(malformed(format!("{} bytes too many", bytes.len() - used)));
    }
    Ok(value)
}

/// Bytes, for `#[serde(deserialize_with)]`: copied once they are known to be there. Left to itself, bincode makes room
/// for as many as they claim to be, up to [`DECODE_BYTES_MAX`], and clears it: twenty bytes would cost as much as a
/// payload of 64 MiB. Every `Bytes` and `String` of what comes from outside is read by this or by [`text`].
///
/// # Errors
/// The decoder's.
pub fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    struct Copied;
    impl Visitor<'_> for Copied {
        type Value = Bytes;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }
    }
    from.deserialize_bytes(Copied)
}

/// A text, as [`bytes`].
///
/// # Errors
/// The decoder's.
pub fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Copied;
    impl Visitor<'_> for Copied {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
    from.deserialize_str(Copied)
}

/// A text that may be missing, as [`text`].
///
/// # Errors
/// The decoder's.
pub fn maybe_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Text(#[serde(deserialize_with = "text")] String);
    Ok(Option::<Text>::deserialize(from)?.map(|Text(text)| text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

    #[test]
    fn trailing_bytes_and_truncation_are_malformed() {
        let mut bytes = encode(&Payload::json("{}"));
        assert!(decode::<Payload>("payload", &bytes[..bytes.len() - 1]).is_err());
        assert!(decode::<Payload>("payload", &bytes).is_ok());
        bytes.push(0);
        assert!(decode::<Payload>("payload", &bytes).is_err());
    }

    #[test]
    fn a_length_that_lies_does_not_allocate() {
        // A vector that claims 2^60 elements in nine bytes.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(decode::<Vec<u64>>("list", &bytes).is_err());
    }
}
