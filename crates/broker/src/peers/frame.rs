//! The bytes between nodes: `u32 length | u8 kind | u64 id | body`, big endian, as towards clients; the kinds differ.
//! `docs/protocol.md` is the full page.
//!
//! The length counts everything after itself and is checked before anything is allocated.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coda_protocol::codec::{self, Malformed};
use coda_protocol::ids::GroupId;
use coda_protocol::version::agree;
use coda_raft_store::peers::Rpc;

use crate::peers::fault::PeerFault;
use crate::peers::hello::PeerHello;
use crate::peers::limits::{CALL_BYTES_MAX, HELLO_TEXT_BYTES_MAX, PEER_VERSIONS, WHY_BYTES_MAX};

/// One message between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFrame {
    /// First on a connection, from who dialled. Its first eight bytes never change, in any version.
    Hello {
        versions: (u16, u16),
        hello: PeerHello,
    },
    /// The answer to it, with the version that both will speak.
    Welcome {
        version: u16,
        hello: PeerHello,
    },
    Call {
        id: u64,
        head: CallHead,
        body: Bytes,
    },
    Answer {
        id: u64,
        body: Bytes,
    },
    /// Instead of an answer.
    Failed {
        id: u64,
        why: String,
    },
    /// First on a stream: appends for this group follow, each behind its length.
    Appends {
        group: GroupId,
    },
    /// First on a stream: a snapshot file of this length follows.
    Snapshot {
        group: GroupId,
        file_bytes: u64,
        head: Bytes,
    },
    /// First on a stream: a question of one node to another. Its answer ends the stream.
    Ask {
        body: Bytes,
    },
}

/// What a call is, and until when somebody waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallHead {
    pub group: GroupId,
    pub kind: CallKind,
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Rpc(Rpc),
    /// A stream of appends that holds a single one, such as a heartbeat.
    SingleAppend,
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const CALL: u8 = 3;
const ANSWER: u8 = 4;
const FAILED: u8 = 5;
const APPENDS: u8 = 6;
const SNAPSHOT: u8 = 7;
const ASK: u8 = 8;

const MAGIC: &[u8; 4] = b"CDPR";
pub const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 1 + 8;
const CALL_HEAD_BYTES: usize = 4 + 1 + 4;

impl CallKind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Rpc(Rpc::Append) => 1,
            Self::Rpc(Rpc::Vote) => 2,
            Self::Rpc(Rpc::PreVote) => 3,
            Self::Rpc(Rpc::TransferLeader) => 4,
            Self::SingleAppend => 5,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, Malformed> {
        match byte {
            1 => Ok(Self::Rpc(Rpc::Append)),
            2 => Ok(Self::Rpc(Rpc::Vote)),
            3 => Ok(Self::Rpc(Rpc::PreVote)),
            4 => Ok(Self::Rpc(Rpc::TransferLeader)),
            5 => Ok(Self::SingleAppend),
            other => Err(Malformed { what: "call", why: format!("unknown kind {other}") }),
        }
    }
}

impl PeerFrame {
    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        match self {
            Self::Hello { versions, hello } => {
                header(out, HELLO, 0);
                out.put_slice(MAGIC);
                out.put_u16(versions.0);
                out.put_u16(versions.1);
                codec::encode_into(hello, out);
            }
            Self::Welcome { version, hello } => {
                header(out, WELCOME, 0);
                out.put_u16(*version);
                codec::encode_into(hello, out);
            }
            Self::Call { id, head, body } => {
                header(out, CALL, *id);
                out.put_u32(head.group.0);
                out.put_u8(head.kind.to_byte());
                out.put_u32(head.timeout.as_millis().try_into().unwrap_or(u32::MAX));
                out.put_slice(body);
            }
            Self::Answer { id, body } => {
                header(out, ANSWER, *id);
                out.put_slice(body);
            }
            Self::Failed { id, why } => {
                header(out, FAILED, *id);
                out.put_slice(&why.as_bytes()[..why.floor_char_boundary(WHY_BYTES_MAX)]);
            }
            Self::Appends { group } => {
                header(out, APPENDS, 0);
                out.put_u32(group.0);
            }
            Self::Snapshot { group, file_bytes, head } => {
                header(out, SNAPSHOT, 0);
                out.put_u32(group.0);
                out.put_u64(*file_bytes);
                out.put_slice(head);
            }
            Self::Ask { body } => {
                header(out, ASK, 0);
                out.put_slice(body);
            }
        }
        let length = (out.len() - start - LENGTH_BYTES) as u32;
        out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    }

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        self.encode(&mut out);
        out.into()
    }

    /// Decodes what follows the length.
    ///
    /// # Errors
    /// [`PeerFault`]: the connection must be closed, what follows cannot be trusted.
    pub fn decode(mut frame: Bytes) -> Result<Self, PeerFault> {
        if frame.len() < HEADER_BYTES {
            return Err(short("frame"));
        }
        let kind = frame.get_u8();
        let id = frame.get_u64();
        match kind {
            HELLO => decode_hello(frame),
            WELCOME => decode_welcome(frame),
            CALL => decode_call(id, frame),
            ANSWER => Ok(Self::Answer { id, body: bounded(frame)? }),
            FAILED if frame.len() <= WHY_BYTES_MAX => {
                Ok(Self::Failed { id, why: String::from_utf8_lossy(&frame).into_owned() })
            }
            FAILED => Err(PeerFault::TooLarge { bytes: frame.len(), max: WHY_BYTES_MAX }),
            APPENDS if frame.len() == 4 => Ok(Self::Appends { group: GroupId(frame.get_u32()) }),
            SNAPSHOT if frame.len() >= 12 => Ok(Self::Snapshot {
                group: GroupId(frame.get_u32()),
                file_bytes: frame.get_u64(),
                head: bounded(frame)?,
            }),
            ASK => Ok(Self::Ask { body: frame }),
            APPENDS | SNAPSHOT => Err(short("opening of a stream")),
            other => Err(Malformed { what: "frame", why: format!("unknown kind {other}") }.into()),
        }
    }
}

fn header(out: &mut Vec<u8>, kind: u8, id: u64) {
    out.put_u8(kind);
    out.put_u64(id);
}

fn short(what: &'static str) -> PeerFault {
    Malformed { what, why: "too short".into() }.into()
}

fn bounded(body: Bytes) -> Result<Bytes, PeerFault> {
    if body.len() > CALL_BYTES_MAX {
        return Err(PeerFault::TooLarge { bytes: body.len(), max: CALL_BYTES_MAX });
    }
    Ok(body)
}

/// Only the versions are read from a hello of a version we do not speak: the rest may have changed.
fn decode_hello(mut body: Bytes) -> Result<PeerFrame, PeerFault> {
    if body.len() < MAGIC.len() + 4 || body.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err(PeerFault::NotAPeer);
    }
    let theirs = (body.get_u16(), body.get_u16());
    agree(PEER_VERSIONS, theirs).ok_or(PeerFault::VersionMismatch { ours: PEER_VERSIONS, theirs })?;
    Ok(PeerFrame::Hello { versions: theirs, hello: hello(&body)? })
}

fn decode_welcome(mut body: Bytes) -> Result<PeerFrame, PeerFault> {
    if body.len() < 2 {
        return Err(short("welcome"));
    }
    let version = body.get_u16();
    agree(PEER_VERSIONS, (version, version))
        .ok_or(PeerFault::VersionMismatch { ours: PEER_VERSIONS, theirs: (version, version) })?;
    Ok(PeerFrame::Welcome { version, hello: hello(&body)? })
}

fn hello(body: &[u8]) -> Result<PeerHello, PeerFault> {
    let hello: PeerHello = codec::decode("hello", body)?;
    for text in [&hello.address, &hello.program] {
        if text.len() > HELLO_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(Malformed { what: "hello", why: "a text in it is too long or not text".into() }.into());
        }
    }
    Ok(hello)
}

fn decode_call(id: u64, mut body: Bytes) -> Result<PeerFrame, PeerFault> {
    if body.len() < CALL_HEAD_BYTES {
        return Err(short("call"));
    }
    let group = GroupId(body.get_u32());
    let kind = CallKind::from_byte(body.get_u8())?;
    let timeout = Duration::from_millis(body.get_u32().into());
    Ok(PeerFrame::Call { id, head: CallHead { group, kind, timeout }, body: bounded(body)? })
}

/// Takes the next whole message off the front of a buffer, without its length; `None` when more bytes are needed.
///
/// # Errors
/// [`PeerFault::TooLarge`], before any of it is there.
pub fn take_message(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, PeerFault> {
    let Some(prefix) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > bytes_max {
        return Err(PeerFault::TooLarge { bytes: length, max: bytes_max });
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::{ClusterId, NodeId, StorageId};
    use proptest::prelude::*;

    use super::*;
    use crate::peers::limits::FRAME_BYTES_MAX;

    fn hello() -> PeerHello {
        PeerHello {
            cluster: ClusterId([1; 16]),
            node: NodeId(2),
            incarnation: 3,
            storage: StorageId([4; 16]),
            address: "node-2:7402".into(),
            program: "coda/0".into(),
        }
    }

    fn one_of_each() -> Vec<PeerFrame> {
        let kinds = [Rpc::Append, Rpc::Vote, Rpc::PreVote, Rpc::TransferLeader].map(CallKind::Rpc);
        let call = |kind| PeerFrame::Call {
            id: 7,
            head: CallHead { group: GroupId(9), kind, timeout: Duration::from_millis(400) },
            body: Bytes::from_static(b"vote"),
        };
        let mut frames = vec![
            PeerFrame::Hello { versions: PEER_VERSIONS, hello: hello() },
            PeerFrame::Welcome { version: 1, hello: hello() },
            PeerFrame::Answer { id: u64::MAX, body: Bytes::from_static(b"granted") },
            PeerFrame::Failed { id: 8, why: "CODA4143 no".into() },
            PeerFrame::Appends { group: GroupId(u32::MAX) },
            PeerFrame::Snapshot { group: GroupId(1), file_bytes: 1 << 40, head: Bytes::from_static(b"head") },
            PeerFrame::Ask { body: Bytes::from_static(b"who?") },
            call(CallKind::SingleAppend),
        ];
        frames.extend(kinds.map(call));
        frames
    }

    fn take(buffer: &mut BytesMut) -> Result<Option<PeerFrame>, PeerFault> {
        take_message(buffer, FRAME_BYTES_MAX)?.map(PeerFrame::decode).transpose()
    }

    #[test]
    fn frames_survive_any_split_of_the_stream() {
        let frames = one_of_each();
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        for cut in 0..bytes.len() {
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = take(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let bytes = PeerFrame::Hello { versions: (1, 1), hello: hello() }.to_bytes();
        let expected = [
            &[0, 0, 0, 70, HELLO, 0, 0, 0, 0, 0, 0, 0, 0][..],
            b"CDPR\0\x01\0\x01",
            &[1; 16],
            &[2, 3],
            &[4; 16],
            b"\x0bnode-2:7402\x06coda/0",
        ];
        assert_eq!(bytes, expected.concat());
        let head =
            CallHead { group: GroupId(9), kind: CallKind::Rpc(Rpc::PreVote), timeout: Duration::from_millis(400) };
        let call = PeerFrame::Call { id: 7, head, body: Bytes::from_static(b"!") };
        assert_eq!(call.to_bytes(), &b"\0\0\0\x13\x03\0\0\0\0\0\0\0\x07\0\0\0\x09\x03\0\0\x01\x90!"[..]);
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::from(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()[..]);
        assert_eq!(take(&mut buffer).unwrap_err().code(), "CODA1103");
        assert!(buffer.capacity() < 1 << 16);
    }

    #[test]
    fn a_hello_of_the_future_is_a_version_mismatch_and_one_of_a_client_is_no_peer() {
        let mut bytes = PeerFrame::Hello { versions: (1, 1), hello: hello() }.to_bytes().to_vec();
        bytes[17..21].copy_from_slice(&[0, 99, 0, 100]);
        bytes.truncate(23);
        let body = Bytes::from(bytes.split_off(LENGTH_BYTES));
        assert_eq!(PeerFrame::decode(body).unwrap_err().close_code(), 1102);
        let client = b"\x01\0\0\0\0\0\0\0\0CODA\0\x01\0\x01";
        assert_eq!(PeerFrame::decode(Bytes::from_static(client)).unwrap_err().close_code(), 1101);
    }

    #[test]
    fn a_reason_of_any_length_is_cut_to_fit() {
        let why = "ä".repeat(WHY_BYTES_MAX);
        let bytes = PeerFrame::Failed { id: 1, why }.to_bytes();
        let PeerFrame::Failed { why, .. } = PeerFrame::decode(bytes.slice(LENGTH_BYTES..)).unwrap() else { panic!() };
        assert_eq!(why, "ä".repeat(WHY_BYTES_MAX / 2));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(kind in 0u8..10, bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let frame = [&[kind][..], &bytes].concat();
            let _ = PeerFrame::decode(frame.into());
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut buffer) {}
        }
    }
}
