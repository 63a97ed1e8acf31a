//! Cache keys: what makes two spawns of one task in one run the same work.
//!
//! The encoding is prefix-free per part (a tag, then a length or a fixed width), so that different lists of parts
//! never share bytes: `["ab"]`, `["a", "b"]`, `[["a"], "b"]`, `[1]` and `["1"]` are five keys.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::ids::LeaseId;
use crate::limits::CACHE_KEY_BYTES_MAX;
use crate::reject::Reject;

/// One part of an explicit cache key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum KeyPart {
    Null,
    Bool(bool),
    Int(i64),
    /// Compared by its bits.
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<KeyPart>),
}

const AUTO: u8 = 0;
const EXPLICIT: u8 = 1;
const FRESH: u8 = 2;

/// An encoded cache key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CacheKey(#[serde(deserialize_with = "codec::bytes")] Bytes);

impl CacheKey {
    /// The key of the `n`-th spawn of its name in a run that names no key itself.
    #[must_use]
    pub fn auto(n: u32) -> Self {
        Self([[AUTO].as_slice(), &n.to_be_bytes()].concat().into())
    }

    /// A key that no other execution of the run will use again: the step runs anew on each replay.
    #[must_use]
    pub fn fresh(lease: LeaseId, n: u32) -> Self {
        Self([[FRESH].as_slice(), &lease.0.to_be_bytes(), &n.to_be_bytes()].concat().into())
    }

    /// The key that the user's parts make.
    ///
    /// # Errors
    /// [`Reject::CacheKeyTooLong`].
    pub fn explicit(parts: &[KeyPart]) -> Result<Self, Reject> {
        let mut out = vec![EXPLICIT];
        parts.iter().for_each(|part| encode(part, &mut out));
        let key = Self(out.into());
        key.check()?;
        Ok(key)
    }

    /// A key that was checked when it was stored.
    #[must_use]
    pub fn stored(bytes: Bytes) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether no later execution of the run can ask for it again.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.0.first() == Some(&FRESH)
    }

    /// The execution that a fresh key belongs to.
    #[must_use]
    pub fn fresh_lease(&self) -> Option<LeaseId> {
        let lease = self.0.strip_prefix(&[FRESH])?.first_chunk()?;
        Some(LeaseId(u64::from_be_bytes(*lease)))
    }

    /// Checks a key that came from outside.
    ///
    /// # Errors
    /// [`Reject::CacheKeyTooLong`] or [`Reject::BadCacheKey`].
    pub fn check(&self) -> Result<(), Reject> {
        if self.0.len() > CACHE_KEY_BYTES_MAX {
            return Err(Reject::CacheKeyTooLong { bytes: self.0.len() as u64, bytes_max: CACHE_KEY_BYTES_MAX as u64 });
        }
        match (self.0.first(), self.0.len()) {
            (Some(&AUTO), 5) | (Some(&FRESH), 13) | (Some(&EXPLICIT), _) => Ok(()),
            _ => Err(Reject::BadCacheKey),
        }
    }
}

fn encode(part: &KeyPart, out: &mut Vec<u8>) {
    let sized = |tag: u8, bytes: &[u8], out: &mut Vec<u8>| {
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match part {
        KeyPart::Null => out.push(0),
        KeyPart::Bool(value) => out.extend_from_slice(&[1, u8::from(*value)]),
        KeyPart::Int(value) => {
            out.push(2);
            out.extend_from_slice(&value.to_be_bytes());
        }
        KeyPart::Float(value) => {
            out.push(3);
            out.extend_from_slice(&value.to_bits().to_be_bytes());
        }
        KeyPart::Str(text) => sized(4, text.as_bytes(), out),
        KeyPart::Bytes(bytes) => sized(5, bytes, out),
        KeyPart::List(parts) => {
            out.push(6);
            out.extend_from_slice(&(parts.len() as u32).to_be_bytes());
            parts.iter().for_each(|part| encode(part, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> impl Strategy<Value = KeyPart> {
        let leaf = prop_oneof![
            Just(KeyPart::Null),
            any::<bool>().prop_map(KeyPart::Bool),
            (-2i64..3).prop_map(KeyPart::Int),
            "[ab]{0,3}".prop_map(KeyPart::Str),
            proptest::collection::vec(0u8..3, 0..3).prop_map(KeyPart::Bytes),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| proptest::collection::vec(inner, 0..3).prop_map(KeyPart::List))
    }

    proptest! {
        #[test]
        fn different_parts_make_different_keys(a in proptest::collection::vec(part(), 0..4), b in proptest::collection::vec(part(), 0..4)) {
            prop_assert_eq!(a == b, CacheKey::explicit(&a) == CacheKey::explicit(&b));
        }
    }

    #[test]
    fn one_string_is_not_its_two_halves() {
        let key =
            |parts: &[&str]| CacheKey::explicit(&parts.iter().map(|p| KeyPart::Str((*p).into())).collect::<Vec<_>>());
        assert_ne!(key(&["ab"]), key(&["a", "b"]));
        assert_ne!(CacheKey::explicit(&[KeyPart::Int(1)]), CacheKey::explicit(&[KeyPart::Bool(true)]));
        assert_ne!(CacheKey::explicit(&[]).unwrap(), CacheKey::auto(0));
    }

    #[test]
    fn a_fresh_key_knows_its_execution() {
        assert_eq!(CacheKey::fresh(LeaseId(1 << 40 | 7), 3).fresh_lease(), Some(LeaseId(1 << 40 | 7)));
        assert_eq!(CacheKey::auto(3).fresh_lease(), None);
        assert_eq!(CacheKey::explicit(&[KeyPart::Int(2)]).unwrap().fresh_lease(), None);
    }

    #[test]
    fn a_key_over_the_bound_is_refused() {
        let long = [KeyPart::Str("x".repeat(CACHE_KEY_BYTES_MAX))];
        assert!(matches!(CacheKey::explicit(&long), Err(Reject::CacheKeyTooLong { .. })));
    }
}
