//! The way to one node: connect, write, read, and connect again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use coda_protocol::frame::{CLOSE_GOODBYE, Frame, FrameError};
use coda_protocol::ids::NodeId;
use coda_protocol::limits::{FRAME_BYTES_MAX, PAYLOAD_STREAMS_MAX};
use coda_protocol::push::Push;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, RwLock, watch};
use tracing::{debug, info};

use super::roads::delays;
use super::{Courier, Handler, INLINE_MAX, LENGTH_BYTES, News, State, kib};
use crate::error::ClientError;
use crate::flight::{Class, Frames, Settled};
use crate::options::{ATTEMPT_TIMEOUT, RECONNECT_MAX, STABLE_AFTER, WRITE_BYTES_MAX};
use crate::wire::{Broken, Dialer, Wire, broken, read_more, refuse};

/// Neither a goodbye nor anything that a node would take for the session's end.
const CLOSE_WRONG_NODE: u32 = 0;

pub(super) struct Road<H: Handler> {
    pub courier: Arc<Courier<H>>,
    pub dialer: Arc<Dialer>,
    /// Held while dialling.
    pub dialling: Arc<RwLock<()>>,
    pub node: NodeId,
    pub addresses: watch::Receiver<Vec<String>>,
}

impl<H: Handler> Road<H> {
    /// Connects, serves, and connects again, until the node will never do.
    pub async fn keep(self, mut wire: Option<(String, Wire)>) -> ClientError {
        let mut delay = delays();
        let mut turn = 0;
        loop {
            let (address, dialed) = match wire.take() {
                Some((address, wire)) => (address, Ok(wire)),
                None => self.dial(turn).await,
            };
            turn += 1;
            let end = match dialed {
                Ok(wire) => {
                    let since = Instant::now();
                    let end = self.courier.serve(self.node, &address, wire).await;
                    if since.elapsed() >= STABLE_AFTER {
                        delay = delays();
                    }
                    end
                }
                Err(end) => end,
            };
            match end {
                Broken::ForNow(reason) => {
                    info!(node = self.node.0, %address, reason, "not connected, trying again");
                    self.courier.not_connected(&address, &reason);
                }
                Broken::ForGood(error) => return error,
            }
            tokio::time::sleep(delay.next().unwrap_or(RECONNECT_MAX)).await;
        }
    }

    async fn dial(&self, turn: usize) -> (String, Result<Wire, Broken>) {
        let address = {
            let addresses = self.addresses.borrow();
            addresses[turn % addresses.len()].clone()
        };
        let _dialling = self.dialling.read().await;
        let dialed = match tokio::time::timeout(ATTEMPT_TIMEOUT, self.dialer.dial(&address)).await {
            Ok(Ok(wire)) if wire.welcome.node != self.node => {
                let why = format!("node {} answers there, not node {}", wire.welcome.node.0, self.node.0);
                wire.connection.close(VarInt::from_u32(CLOSE_WRONG_NODE), why.as_bytes());
                Err(Broken::ForNow(why))
            }
            Ok(dialed) => dialed,
            Err(_) => Err(Broken::ForNow("no answer".into())),
        };
        (address, dialed)
    }
}

impl<H: Handler> Courier<H> {
    async fn serve(&self, node: NodeId, address: &str, wire: Wire) -> Broken {
        let Wire { connection, send, recv, mut buffer, welcome, map } = wire;
        let wake = Arc::new(Notify::new());
        let mut open = Open { courier: self, connection: &connection, node, is_goodbye: true };
        info!(%address, node = node.0, "connected");
        {
            let mut flight = self.flight.lock();
            flight.up(node, wake.clone());
            flight.routes.set_outside(node, map.is_none());
        }
        self.tell(News::Connected { first: !self.was_up.swap(true, Ordering::Relaxed), welcome });
        self.state.send_replace(State::Up);
        // Who leads came with the map: it is heard before anything is sent.
        if let Some(map) = map
            && let Err(error) = self.take(node, Frame::Push(Push::Map(map)), &mut buffer)
        {
            let error = ClientError::Protocol(error);
            refuse(&connection, &error);
            return Broken::ForGood(error);
        }
        self.greet(node);
        let ended = tokio::select! {
            ended = self.write(node, &wake, &connection, send) => ended,
            ended = self.read(node, &connection, recv, buffer) => ended,
        };
        open.is_goodbye = false;
        drop(open);
        match ended {
            Err(error) => {
                let error = ClientError::Protocol(error);
                refuse(&connection, &error);
                Broken::ForGood(error)
            }
            Ok(End) => {
                // A stream may fail a moment before its connection says why.
                let reason = tokio::time::timeout(RECONNECT_MAX, connection.closed()).await;
                reason.map_or_else(|_| Broken::ForNow("stream lost".into()), |reason| broken(address, &reason))
            }
        }
    }

    /// Everything that waits goes out in one write per wake-up; large frames on streams of their own beside it.
    async fn write(
        &self,
        node: NodeId,
        wake: &Notify,
        connection: &Connection,
        mut send: SendStream,
    ) -> Result<End, FrameError> {
        let mut out = Vec::new();
        let mut frames = Frames::default();
        let mut payloads = FuturesUnordered::new();
        loop {
            if !out.is_empty() {
                let mut writing = std::pin::pin!(send.write_all(&out));
                loop {
                    tokio::select! {
                        written = &mut writing => match written {
                            Ok(()) => break,
                            Err(_) => return Ok(End),
                        },
                        Some(()) = payloads.next() => {}
                    }
                }
            }
            out.clear();
            out.shrink_to(2 * WRITE_BYTES_MAX);
            let retry = {
                let mut flight = self.flight.lock();
                flight.fill(node, Instant::now(), INLINE_MAX, &mut frames);
                flight.next_retry()
            };
            frames.greetings.drain(..).for_each(|frame| out.extend_from_slice(&frame));
            // Read after the frames are taken and written before them: a completion never leaves without its credit. And
            // behind what subscribes: a credit means nothing before that.
            self.handler.credits(node, &mut out);
            frames.shared.drain(..).for_each(|frame| out.extend_from_slice(&frame));
            payloads.extend(frames.alone.drain(..).map(|frame| send_payload(connection, frame)));
            if !out.is_empty() {
                continue;
            }
            let due = tokio::time::Instant::from_std(retry.unwrap_or_else(Instant::now));
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep_until(due), if retry.is_some() => {}
                Some(()) = payloads.next() => {}
            }
        }
    }

    async fn read(
        &self,
        node: NodeId,
        connection: &Connection,
        mut recv: RecvStream,
        mut buffer: BytesMut,
    ) -> Result<End, FrameError> {
        let mut frames = Vec::new();
        let mut news = Vec::new();
        let mut payloads = FuturesUnordered::new();
        loop {
            let malformed = loop {
                match Frame::take(&mut buffer) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            self.deliver(node, &mut frames, &mut news)?;
            if let Some(error) = malformed {
                return Err(error);
            }
            self.handler.room().await;
            tokio::select! {
                read = read_more(&mut recv, &mut buffer) => if matches!(read, Ok(0) | Err(_)) {
                    return Ok(End);
                },
                stream = connection.accept_uni(), if payloads.len() < PAYLOAD_STREAMS_MAX as usize => match stream {
                    Ok(stream) => payloads.push(receive_payload(stream)),
                    Err(_) => return Ok(End),
                },
                Some(frame) = payloads.next() => frames.extend(frame?),
            }
        }
    }

    /// Sorts a frame and those that have arrived behind it.
    fn take(&self, node: NodeId, first: Frame, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let mut frames = vec![first];
        while let Some(frame) = Frame::take(buffer)? {
            frames.push(frame);
        }
        self.deliver(node, &mut frames, &mut Vec::new())
    }

    /// Sorts a batch of frames: one lock, one call of the handler.
    fn deliver(
        &self,
        node: NodeId,
        frames: &mut Vec<Frame>,
        news: &mut Vec<News<H::Ticket>>,
    ) -> Result<(), FrameError> {
        if frames.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let mut unexpected = None;
        let (mut again, mut moved) = (false, false);
        let (mut prompt, mut waits, mut bytes) = (0, 0, 0);
        let mut flight = self.flight.lock();
        for frame in frames.drain(..) {
            let (id, answer) = match frame {
                Frame::Answer { id, answer } => (id, answer),
                Frame::Push(Push::Map(map)) => {
                    flight.routes.set_outside(node, false);
                    if flight.routes.set_map(map) {
                        self.map.send_replace(flight.routes.map().cloned());
                        moved = true;
                    }
                    continue;
                }
                Frame::Push(Push::Leader(leader)) => {
                    moved |= flight.routes.set_leader(node, leader);
                    continue;
                }
                Frame::Push(push) => {
                    news.push(News::Push(node, push));
                    continue;
                }
                Frame::Hello { .. } | Frame::Welcome(_) | Frame::Request { .. } => {
                    unexpected = Some(FrameError::Unexpected { what: "not an answer or a push" });
                    break;
                }
            };
            match flight.settle(node, id, answer, now, rand::random()) {
                Settled::Answered { ticket, more, result, position, freed } => {
                    match freed.class {
                        Class::Greeting | Class::Internal => {}
                        Class::Prompt => (prompt, bytes) = (prompt + 1, bytes + kib(freed.bytes) as usize),
                        Class::Wait(_) => (waits, bytes) = (waits + 1, bytes + kib(freed.bytes) as usize),
                    }
                    let result = result.map_err(ClientError::Refused);
                    let answered = |ticket, result| News::Answered { ticket, result, position };
                    news.extend(more.into_iter().map(|ticket| answered(ticket, result.clone())));
                    news.push(answered(ticket, result));
                }
                Settled::Again => again = true,
                Settled::Unknown => debug!(id, "an answer that nobody waits for"),
            }
        }
        let is_settled = flight.is_settled();
        drop(flight);
        for (semaphore, count) in [(&self.prompt, prompt), (&self.waits, waits), (&self.kib, bytes)] {
            if count > 0 {
                semaphore.add_permits(count);
            }
        }
        if again {
            self.wake();
        }
        // Before the handler: what it sends next goes where it belongs now.
        if moved {
            self.reroute();
        }
        self.handler.handle(self, news);
        if is_settled {
            self.settled.notify_waiters();
        }
        unexpected.map_or(Ok(()), Err)
    }
}

/// The connection or its shared stream is gone; [`broken`] finds out why.
struct End;

/// A connection that is in use, however its use ends. Says goodbye when the courier is stopped in the middle of it.
struct Open<'a, H: Handler> {
    courier: &'a Courier<H>,
    connection: &'a Connection,
    node: NodeId,
    is_goodbye: bool,
}

impl<H: Handler> Drop for Open<'_, H> {
    fn drop(&mut self) {
        if self.is_goodbye {
            self.connection.close(VarInt::from_u32(CLOSE_GOODBYE), b"goodbye");
        }
        let (freed, left) = {
            let mut flight = self.courier.flight.lock();
            (flight.down(self.node, H::is_abandoned), flight.routes.nodes_up())
        };
        freed.into_iter().for_each(|freed| self.courier.free(freed));
        // The end of the courier says all there is to say.
        if *self.courier.closing.borrow() {
            return;
        }
        if left == 0 {
            self.courier.state.send_if_modified(|state| {
                let up = matches!(state, State::Up);
                if up {
                    *state = State::Connecting { last: "the connection was lost".into() };
                }
                up
            });
        }
        self.courier.tell(News::Disconnected { node: self.node, left });
        self.courier.reroute();
    }
}

/// Failure here is failure of the connection, which its reader sees too; the frame is sent again on the next one.
async fn send_payload(connection: &Connection, frame: Bytes) {
    let Ok(mut stream) = connection.open_uni().await else { return };
    // Small frames should not wait behind bulk.
    let _ = stream.set_priority(-1);
    if stream.write_all_chunks(&mut [frame]).await.is_ok() {
        let _ = stream.finish();
    }
}

async fn receive_payload(mut stream: RecvStream) -> Result<Option<Frame>, FrameError> {
    let bytes = match stream.read_to_end(FRAME_BYTES_MAX + LENGTH_BYTES).await {
        Ok(bytes) => Bytes::from(bytes),
        Err(quinn::ReadToEndError::TooLong) => return Err(FrameError::TooLarge { bytes: FRAME_BYTES_MAX + 1 }),
        Err(quinn::ReadToEndError::Read(_)) => return Ok(None),
    };
    let prefix = bytes.first_chunk::<LENGTH_BYTES>().ok_or(FrameError::TooShort)?;
    if u32::from_be_bytes(*prefix) as usize != bytes.len() - LENGTH_BYTES {
        return Err(FrameError::Unexpected { what: "a payload stream must hold one frame" });
    }
    Frame::decode(bytes.slice(LENGTH_BYTES..)).map(Some)
}
