//! What fuzzers feed with bytes from anywhere: what reads other nodes. Only with feature `testing`. Each function panics if
//! what it tries breaks a promise, and only then, and says whether it made sense of the bytes.

use bytes::BytesMut;
use coda_protocol::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::{Answered, Ask};
use crate::identity::{Certificate, PeerIdentity};
use crate::peers::limits::FRAME_BYTES_MAX;
use crate::peers::{PeerFault, PeerFrame, take_message};

/// A control stream between nodes: the same frames and the same end, however it is cut.
pub fn peer_stream(stream: &[u8], cut: u8) -> bool {
    let whole = read(stream, stream.len().max(1));
    assert_eq!(whole, read(stream, usize::from(cut) + 1));
    let understood = !whole.0.is_empty();
    for frame in whole.0 {
        let bytes = frame.to_bytes();
        let (again, end) = read(&bytes, bytes.len());
        assert_eq!((again, end), (vec![frame], None));
    }
    understood
}

fn read(stream: &[u8], step: usize) -> (Vec<PeerFrame>, Option<PeerFault>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for part in stream.chunks(step) {
        buffer.extend_from_slice(part);
        loop {
            match take_message(&mut buffer, FRAME_BYTES_MAX) {
                Ok(Some(message)) => match PeerFrame::decode(message) {
                    Ok(frame) => frames.push(frame),
                    Err(fault) => return (frames, Some(fault)),
                },
                Ok(None) => break,
                Err(fault) => return (frames, Some(fault)),
            }
        }
    }
    (frames, None)
}

/// A question of one node to another.
pub fn ask(body: &[u8]) -> bool {
    round::<Ask>(body).map(|ask| ask.group()).is_some()
}

/// The answer to it.
pub fn answer(body: &[u8]) -> bool {
    round::<Answered>(body).is_some()
}

fn round<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<T> {
    let value: T = codec::decode("body", body).ok()?;
    let bytes = codec::encode(&value);
    let again: T = codec::decode("body", &bytes).expect("our own bytes");
    assert_eq!(codec::encode(&again), bytes);
    Some(value)
}

/// What somebody shows as a certificate. Whose it is has one form, and is what both readers of it say.
pub fn certificate(der: &[u8]) -> bool {
    let der = der.into();
    let read = Certificate::read(&der, "a certificate");
    let understood = read.is_ok();
    let holder = read.ok().and_then(|certificate| certificate.holder);
    if let Ok(peer) = PeerIdentity::of(&der) {
        assert_eq!(holder.map(|holder| holder.to_string()), Some(peer.to_string()));
    }
    understood
}
