//! The bytes on a stream: `u32 length | u8 kind | u64 id | body`, big endian. `docs/protocol.md` is the full page.
//!
//! The length counts everything after itself and is checked before anything is allocated.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

use crate::codec::{self, Malformed};
use crate::ids::{NodeId, SessionId};
use crate::limits::{FRAME_BYTES_MAX, FRAME_RESERVE_BYTES_MAX};
use crate::push::Push;
use crate::reply::Answer;
use crate::request::Request;

/// The first words of a client. Its first six bytes never change, in any version: magic, then the versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub session: SessionId,
    /// Program and version, for logs and status.
    pub agent: SmolStr,
}

/// The node's first words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak.
    pub version: u16,
    pub node: NodeId,
    /// Changes with each start of the node.
    pub incarnation: u64,
    pub server: SmolStr,
}

/// One message on a client connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello {
        versions: (u16, u16),
        hello: Hello,
    },
    Welcome(Welcome),
    /// An id of 0 asks for no answer.
    Request {
        id: u64,
        request: Request,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
    Push(Push),
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
const PUSH: u8 = 5;

const MAGIC: &[u8; 4] = b"CODA";
/// Of what every frame begins with.
pub const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 1 + 8;

/// Why a connection is closed. The code is the QUIC application close code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("a frame of {bytes} bytes is larger than the {FRAME_BYTES_MAX} allowed")]
    TooLarge { bytes: usize },
    #[error("a frame is too short for its kind")]
    TooShort,
    #[error("unknown frame kind {kind}")]
    UnknownKind { kind: u8 },
    #[error("the first frame is not a Coda hello")]
    NotCoda,
    #[error("no common protocol version: the client speaks {theirs:?}, this node {ours:?}; upgrade the older side")]
    VersionMismatch { ours: (u16, u16), theirs: (u16, u16) },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("an unexpected frame: {what}")]
    Unexpected { what: &'static str },
    #[error("more than {bytes_max} unread bytes: the peer reads too slowly")]
    TooSlow { bytes_max: usize },
    #[error("the node has as many connections as it takes, {max}")]
    TooManyConnections { max: usize },
    #[error("a large frame was not there after {} s while others waited for its room", grace.as_secs())]
    SlowFrame { grace: Duration },
}

impl FrameError {
    /// The stable code, as text.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "CODA1001",
            Self::TooShort => "CODA1002",
            Self::UnknownKind { .. } => "CODA1003",
            Self::NotCoda => "CODA1004",
            Self::VersionMismatch { .. } => "CODA1005",
            Self::Malformed(_) => "CODA1006",
            Self::Unexpected { .. } => "CODA1007",
            Self::TooSlow { .. } => "CODA1008",
            Self::TooManyConnections { .. } => "CODA1009",
            Self::SlowFrame { .. } => "CODA1115",
        }
    }

    /// The same code as the number that closes the connection.
    #[must_use]
    pub fn close_code(&self) -> u32 {
        self.code()[4..].parse().expect("codes end in digits")
    }
}

/// The close code of a polite goodbye: the session ends with the connection.
pub const CLOSE_GOODBYE: u32 = 1;
/// The close code of a node that shuts down: reconnect, the session lives on.
pub const CLOSE_SHUTDOWN: u32 = 2;
/// The close code for a connection that another one of the same session replaced.
pub const CLOSE_REPLACED: u32 = 3;
/// The close code of [`FrameError::TooSlow`]: come back, what was missed is said again.
pub const CLOSE_TOO_SLOW: u32 = 1008;
/// The close code of [`FrameError::SlowFrame`]: come back, and send it again.
pub const CLOSE_SLOW_FRAME: u32 = 1115;

impl Frame {
    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        match self {
            Self::Hello { versions, hello } => {
                out.put_u8(HELLO);
                out.put_u64(0);
                out.put_slice(MAGIC);
                out.put_u16(versions.0);
                out.put_u16(versions.1);
                codec::encode_into(hello, out);
            }
            Self::Welcome(welcome) => {
                out.put_u8(WELCOME);
                out.put_u64(0);
                codec::encode_into(welcome, out);
            }
            Self::Request { id, request } => {
                out.put_u8(REQUEST);
                out.put_u64(*id);
                codec::encode_into(request, out);
            }
            Self::Answer { id, answer } => {
                out.put_u8(ANSWER);
                out.put_u64(*id);
                codec::encode_into(answer, out);
            }
            Self::Push(push) => {
                out.put_u8(PUSH);
                out.put_u64(0);
                codec::encode_into(push, out);
            }
        }
        let length = (out.len() - start - LENGTH_BYTES) as u32;
        out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    }

    /// Takes the next whole frame off the front of a buffer; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed, what follows cannot be trusted.
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(prefix) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: length });
        }
        if length < HEADER_BYTES {
            return Err(FrameError::TooShort);
        }
        if buffer.len() < LENGTH_BYTES + length {
            // Room for the rest of a small frame in one step. That of a large one grows as its bytes arrive: four bytes
            // cost nobody five megabytes.
            buffer.reserve((LENGTH_BYTES + length - buffer.len()).min(FRAME_RESERVE_BYTES_MAX));
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        let frame = buffer.split_to(length).freeze();
        Self::decode(frame).map(Some)
    }

    /// Decodes what follows the length.
    ///
    /// # Errors
    /// As [`Frame::take`].
    pub fn decode(mut frame: Bytes) -> Result<Self, FrameError> {
        if frame.len() < HEADER_BYTES {
            return Err(FrameError::TooShort);
        }
        let kind = frame.get_u8();
        let id = frame.get_u64();
        match kind {
            HELLO => decode_hello(frame),
            WELCOME => Ok(Self::Welcome(codec::decode("welcome", &frame)?)),
            REQUEST => Ok(Self::Request { id, request: codec::decode("request", &frame)? }),
            ANSWER => Ok(Self::Answer { id, answer: codec::decode("answer", &frame)? }),
            PUSH => Ok(Self::Push(codec::decode("push", &frame)?)),
            kind => Err(FrameError::UnknownKind { kind }),
        }
    }
}

/// Only the versions are read from a hello of a version we do not speak: the rest may have changed.
fn decode_hello(mut body: Bytes) -> Result<Frame, FrameError> {
    if body.len() < MAGIC.len() + 4 || body.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err(FrameError::NotCoda);
    }
    let theirs = (body.get_u16(), body.get_u16());
    let ours = crate::version::WIRE_VERSIONS;
    crate::version::agree(ours, theirs).ok_or(FrameError::VersionMismatch { ours, theirs })?;
    Ok(Frame::Hello { versions: theirs, hello: codec::decode("hello", &body)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::RunId;

    fn hello() -> Frame {
        Frame::Hello { versions: (1, 1), hello: Hello { session: SessionId([7; 16]), agent: "test/1".into() } }
    }

    #[test]
    fn frames_survive_any_split_of_the_stream() {
        let frames = [hello(), Frame::Request { id: 9, request: Request::AwaitRun(RunId([1; 16])) }];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut seen = Vec::new();
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                seen.push(frame);
            }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                seen.push(frame);
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(Frame::take(&mut buffer), Err(FrameError::TooLarge { .. })));
        assert!(buffer.capacity() < 1 << 16);
    }

    #[test]
    fn a_hello_of_the_future_is_a_version_mismatch_and_not_malformed() {
        let mut bytes = Vec::new();
        hello().encode(&mut bytes);
        bytes[17..21].copy_from_slice(&[0, 99, 0, 100]);
        bytes.truncate(23);
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        let error = Frame::take(&mut BytesMut::from(&bytes[..])).unwrap_err();
        assert_eq!((error.code(), error.close_code()), ("CODA1005", 1005));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::take(&mut buffer) {}
        }
    }
}
