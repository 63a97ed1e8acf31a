//! Join tokens: what lets one new node into a cluster, once.
//!
//! The secret travels from the operator to the new node, and from there to a member of the cluster. Only its digest is
//! kept: whoever reads a log or a snapshot cannot join with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::TokenId;
use crate::reject::Reject;

/// How a token starts, so that it is recognised for what it is.
const PREFIX: &str = "coda-join";
const SECRET_BYTES: usize = 32;

/// A token as the operator passes it on. Printing it shows its secret; debugging it does not.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: TokenId,
    secret: [u8; SECRET_BYTES],
}

/// What the cluster keeps of a token's secret.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDigest(pub [u8; 32]);

impl JoinToken {
    /// A fresh token, with 244 bits that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        let mut secret = [0; SECRET_BYTES];
        // The operating system's random numbers, through the crate that makes all our ids.
        secret[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        secret[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Self { id: TokenId::random(), secret }
    }

    /// What is sent to be kept or compared. The secret is long and random: a digest without salt or stretching gives
    /// nothing away.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        let digest = Sha256::new().chain_update(PREFIX).chain_update(self.id.0).chain_update(self.secret);
        TokenDigest(digest.finalize().into())
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-", Uuid::from_bytes(self.id.0).simple())?;
        self.secret.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "TokenDigest({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

impl FromStr for JoinToken {
    type Err = Reject;

    fn from_str(text: &str) -> Result<Self, Reject> {
        let (id, secret) = parts(text.trim()).ok_or(Reject::BadToken)?;
        Ok(Self { id, secret })
    }
}

fn parts(text: &str) -> Option<(TokenId, [u8; SECRET_BYTES])> {
    let (id, secret) = text.strip_prefix(PREFIX)?.strip_prefix('-')?.split_once('-')?;
    Some((TokenId(unhex(id)?), unhex(secret)?))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken { id: TokenId([0xa1; 16]), secret: [0x07; SECRET_BYTES] }
    }

    #[test]
    fn a_token_is_one_word_that_reads_back() {
        let text = token().to_string();
        assert_eq!(text, format!("coda-join-{}-{}", "a1".repeat(16), "07".repeat(32)));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()), "as it is pasted");
        let random = JoinToken::random();
        assert_eq!(random.to_string().parse(), Ok(random));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = token().to_string();
        let bad = ["", "coda-join", &good[..good.len() - 1], &good[1..], &good.replace('7', "g"), &format!("{good}0")];
        for text in bad {
            assert_eq!(text.parse::<JoinToken>(), Err(Reject::BadToken), "{text}");
        }
        assert!("coda-join-é-é".parse::<JoinToken>().is_err());
    }

    #[test]
    fn the_digest_is_of_id_and_secret_and_debugging_shows_neither_secret_nor_digest() {
        let other_id = JoinToken { id: TokenId([0xa2; 16]), ..token() };
        let other_secret = JoinToken { secret: [0x08; SECRET_BYTES], ..token() };
        assert_ne!(token().digest(), other_id.digest());
        assert_ne!(token().digest(), other_secret.digest());
        assert!(!format!("{:?}", token()).contains("0707"));
        assert!(format!("{:?}", token().digest()).len() < 30);
    }
}
