//! The two halves of a stream between nodes: messages in, messages out.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{Fuse, Stream};
use futures::{FutureExt, StreamExt};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::AsyncReadExt;

use crate::peers::fault::PeerFault;
use crate::peers::frame::{PeerFrame, take_message};
use crate::peers::limits::{BATCH_BYTES_MAX, BATCH_MAX, COPY_BYTES_MAX, READ_BYTES, READ_BYTES_MIN, RESET_CANCELLED};

/// Why there is no further message.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// After a whole message.
    Finished,
    /// In the middle of one.
    Cut,
    /// Given up by the other end.
    Reset(u64),
    Lost(ConnectionError),
    /// What came is not to be trusted: the connection must be closed.
    Fault(PeerFault),
}

impl From<PeerFault> for Ended {
    fn from(fault: PeerFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into_inner()),
            ReadError::ConnectionLost(error) => Self::Lost(error),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => Self::Finished,
        }
    }
}

/// QUIC's own error comes wrapped.
impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        error.downcast::<ReadError>().map_or(Self::Finished, Self::from)
    }
}

/// What comes in. Nothing is lost when a call to it is dropped.
pub struct Incoming {
    recv: RecvStream,
    buffer: BytesMut,
}

impl Incoming {
    pub fn new(recv: RecvStream) -> Self {
        Self { recv, buffer: BytesMut::new() }
    }

    /// Reads what is there, of many packets at once. The buffer grows with what has arrived, whatever a length claims.
    async fn fill(&mut self, room: usize) -> Result<(), Ended> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(room);
        }
        match self.recv.read_buf(&mut self.buffer).await? {
            0 if self.buffer.is_empty() => Err(Ended::Finished),
            0 => Err(Ended::Cut),
            _ => Ok(()),
        }
    }

    /// The next message, without its length.
    pub async fn message(&mut self, bytes_max: usize) -> Result<Bytes, Ended> {
        loop {
            if let Some(message) = take_message(&mut self.buffer, bytes_max)? {
                return Ok(message);
            }
            self.fill(READ_BYTES).await?;
        }
    }

    /// The next message, and those behind it that are there already, as far as one step takes them.
    pub async fn messages(&mut self, bytes_max: usize) -> Result<Vec<Bytes>, Ended> {
        let first = self.message(bytes_max).await?;
        let mut bytes = first.len();
        let mut batch = vec![first];
        while bytes < BATCH_BYTES_MAX && batch.len() < BATCH_MAX {
            // What is wrong with a later one is found when it is its turn.
            let Ok(Some(next)) = take_message(&mut self.buffer, bytes_max) else { break };
            bytes += next.len();
            batch.push(next);
        }
        Ok(batch)
    }

    /// The next message, which is a frame.
    pub async fn frame(&mut self, bytes_max: usize) -> Result<PeerFrame, Ended> {
        let message = self.message(bytes_max).await?;
        Ok(PeerFrame::decode(message)?)
    }

    /// The next bytes, whatever they are.
    pub async fn chunk(&mut self, bytes_max: usize) -> Result<Bytes, Ended> {
        if self.buffer.is_empty() {
            self.fill(bytes_max).await?;
        }
        let length = self.buffer.len().min(bytes_max);
        Ok(self.buffer.split_to(length).freeze())
    }
}

/// What goes out. Dropped before it is finished, it tells the other end that nothing more is to be expected.
pub struct Outgoing {
    send: SendStream,
    finished: bool,
}

impl Outgoing {
    pub fn new(send: SendStream) -> Self {
        Self { send, finished: false }
    }

    pub fn set_priority(&self, priority: i32) {
        // It fails for a stream that has ended, which the next write will find out.
        let _ = self.send.set_priority(priority);
    }

    pub async fn bytes(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.send.write_chunk(bytes).await
    }

    pub async fn frame(&mut self, frame: &PeerFrame) -> Result<(), WriteError> {
        self.bytes(frame.to_bytes()).await
    }

    /// Writes messages behind their lengths. `moved` is told whenever some of it is on its way.
    pub async fn messages(&mut self, messages: Vec<Bytes>, moved: impl Fn()) -> Result<(), WriteError> {
        let mut chunks = Vec::with_capacity(2 * messages.len());
        let mut copied = BytesMut::new();
        for message in messages {
            copied.put_u32(message.len() as u32);
            if message.len() <= COPY_BYTES_MAX {
                copied.put_slice(&message);
            } else {
                chunks.push(copied.split().freeze());
                chunks.push(message);
            }
        }
        if !copied.is_empty() {
            chunks.push(copied.freeze());
        }
        let mut rest = &mut chunks[..];
        while !rest.is_empty() {
            let written = self.send.write_chunks(rest).await?;
            moved();
            rest = &mut rest[written.chunks..];
        }
        Ok(())
    }

    /// Resolves when the other end wants nothing more of this.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.send.stopped();
        async move { drop(stopped.await) }
    }

    /// All was said.
    pub fn finish(mut self) {
        self.finished = self.send.finish().is_ok();
    }

    /// Gives the stream up for a reason.
    pub fn reset(mut self, code: u64) {
        self.finished = true;
        let _ = self.send.reset(VarInt::from_u64(code).unwrap_or(VarInt::from_u32(RESET_CANCELLED)));
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.send.reset(VarInt::from_u32(RESET_CANCELLED));
        }
    }
}

/// The next message, and those that need not be waited for, as far as one write takes them; `None` at the end.
pub async fn next_batch<S: Stream<Item = Bytes> + Unpin>(messages: &mut Fuse<S>) -> Option<Vec<Bytes>> {
    let first = messages.next().await?;
    let mut bytes = first.len();
    let mut batch = vec![first];
    while bytes < BATCH_BYTES_MAX && batch.len() < BATCH_MAX {
        let Some(Some(next)) = messages.next().now_or_never() else { break };
        bytes += next.len();
        batch.push(next);
    }
    Some(batch)
}
