//! A stream of frames gives the same frames and the same error however it is cut, and holds no more than it may.

use bytes::BytesMut;
use coda_protocol::frame::{Frame, FrameError};
use coda_protocol::limits::FRAME_RESERVE_BYTES_MAX;

/// The first byte says where to cut, the rest is the stream.
pub fn run(data: &[u8]) -> bool {
    let Some((cut, stream)) = data.split_first() else { return false };
    let whole = read(stream, stream.len().max(1));
    let parts = read(stream, usize::from(*cut) + 1);
    assert_eq!(whole, parts);
    // What was understood says the same when it is said again.
    for frame in &whole.0 {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let again = Frame::take(&mut BytesMut::from(&bytes[..])).expect("our own bytes").expect("all of them");
        assert_eq!(*frame, again);
    }
    !whole.0.is_empty()
}

fn read(stream: &[u8], step: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in stream.chunks(step) {
        buffer.extend_from_slice(part);
        loop {
            match Frame::take(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
            assert!(buffer.capacity() <= 2 * (FRAME_RESERVE_BYTES_MAX + stream.len()));
        }
    }
    (frames, None)
}
