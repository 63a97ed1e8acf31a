//! The courier's one task: connect, write, read, and connect again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use coda_protocol::frame::{CLOSE_GOODBYE, Frame, FrameError};
use coda_protocol::limits::{FRAME_BYTES_MAX, PAYLOAD_STREAMS_MAX};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::{Courier, Handler, INLINE_MAX, LENGTH_BYTES, News, State, encode, kib};
use crate::error::ClientError;
use crate::flight::{Class, Settled};
use crate::options::{ATTEMPT_TIMEOUT, GOODBYE_TIMEOUT, RECONNECT_MAX, RECONNECT_MIN, STABLE_AFTER, WRITE_BYTES_MAX};
use crate::wire::{Broken, Dialer, Wire, broken, read_more, refuse};

impl<H: Handler> Courier<H> {
    pub(super) async fn run(self: Arc<Self>, addresses: Vec<String>, dialer: Dialer) {
        let mut closing = self.closing.subscribe();
        let error = tokio::select! {
            error = self.stay_connected(&addresses, &dialer) => error,
            _ = closing.wait_for(|closing| *closing) => ClientError::Closed,
        };
        if error != ClientError::Closed {
            warn!(code = error.code(), %error, "link failed for good");
        }
        // A connection that was open has been closed by its `Goodbye`; let that leave.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, dialer.idle()).await;
        let tickets = {
            let mut flight = self.flight.lock();
            self.state.send_replace(State::Over(error.clone()));
            flight.take_all()
        };
        self.settled.notify_waiters();
        [&self.prompt, &self.waits, &self.kib].into_iter().for_each(Semaphore::close);
        let mut news: Vec<_> =
            tickets.into_iter().map(|ticket| News::Answered { ticket, result: Err(error.clone()) }).collect();
        news.push(News::Failed(error));
        self.handler.handle(&self, &mut news);
    }

    /// Connects, serves, and connects again, until no address will ever do.
    async fn stay_connected(&self, addresses: &[String], dialer: &Dialer) -> ClientError {
        let delays = ExponentialBuilder::default()
            .with_min_delay(RECONNECT_MIN)
            .with_max_delay(RECONNECT_MAX)
            .with_jitter()
            .without_max_times();
        let mut delay = delays.build();
        // Clients of one cluster should not all choose its first node.
        let mut turn = rand::random_range(0..addresses.len());
        let mut first = true;
        let mut hopeless = 0;
        loop {
            let address = &addresses[turn % addresses.len()];
            let dialed = tokio::time::timeout(ATTEMPT_TIMEOUT, dialer.dial(address)).await;
            let end = match dialed {
                Ok(Ok(wire)) => {
                    let since = Instant::now();
                    hopeless = 0;
                    let end = self.serve(address, wire, first).await;
                    first = false;
                    if since.elapsed() >= STABLE_AFTER {
                        delay = delays.build();
                    }
                    end
                }
                Ok(Err(end)) => end,
                Err(_) => Broken::ForNow("no answer".into()),
            };
            match end {
                Broken::ForNow(reason) => {
                    info!(%address, reason, "not connected, trying again");
                    hopeless = 0;
                    self.state.send_replace(State::Connecting { last: format!("{address}: {reason}") });
                }
                Broken::ForGood(error) => {
                    hopeless += 1;
                    if hopeless >= addresses.len() {
                        return error;
                    }
                    warn!(%address, code = error.code(), %error, "node refused, trying the next address");
                    self.state.send_replace(State::Connecting { last: format!("{address}: {error}") });
                }
            }
            turn += 1;
            tokio::time::sleep(delay.next().unwrap_or(RECONNECT_MAX)).await;
        }
    }

    async fn serve(&self, address: &str, wire: Wire, first: bool) -> Broken {
        let Wire { connection, send, recv, buffer, welcome } = wire;
        let mut goodbye = Goodbye { connection: &connection, armed: true };
        info!(%address, node = welcome.node.0, "connected");
        let freed = self.flight.lock().restart(H::is_abandoned);
        freed.into_iter().for_each(|freed| self.free(freed));
        let head = self.greet();
        self.tell(News::Connected { first, welcome });
        self.state.send_replace(State::Up);
        let ended = tokio::select! {
            ended = self.write(&connection, send, head) => ended,
            ended = self.read(&connection, recv, buffer) => ended,
        };
        goodbye.armed = false;
        self.tell(News::Disconnected);
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

    /// What goes before everything else. Greetings neither overtake nor are overtaken: they go on the shared stream
    /// whatever their size.
    fn greet(&self) -> Vec<u8> {
        let mut head = Vec::new();
        for (request, ticket) in self.handler.greeting() {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let frame = Bytes::from(encode(id, request));
            head.extend_from_slice(&frame);
            self.flight.lock().add_written(id, frame, Class::Greeting, ticket);
        }
        self.handler.credits(&mut head);
        head
    }

    /// Everything that waits goes out in one write per wake-up; large frames on streams of their own beside it.
    async fn write(&self, connection: &Connection, mut send: SendStream, head: Vec<u8>) -> Result<End, FrameError> {
        let mut out = head;
        let mut frames = Vec::new();
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
                flight.fill(Instant::now(), INLINE_MAX, &mut frames);
                flight.next_retry()
            };
            // Read after the frames are taken and written before them: a completion never leaves without its credit.
            self.handler.credits(&mut out);
            for frame in frames.drain(..) {
                if frame.len() > INLINE_MAX {
                    payloads.push(send_payload(connection, frame));
                } else {
                    out.extend_from_slice(&frame);
                }
            }
            if !out.is_empty() {
                continue;
            }
            let due = tokio::time::Instant::from_std(retry.unwrap_or_else(Instant::now));
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(due), if retry.is_some() => {}
                Some(()) = payloads.next() => {}
            }
        }
    }

    async fn read(
        &self,
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
            self.deliver(&mut frames, &mut news)?;
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

    /// Sorts a batch of frames: one lock, one call of the handler.
    fn deliver(&self, frames: &mut Vec<Frame>, news: &mut Vec<News<H::Ticket>>) -> Result<(), FrameError> {
        if frames.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let mut unexpected = None;
        let mut again = false;
        let (mut prompt, mut waits, mut bytes) = (0, 0, 0);
        let mut flight = self.flight.lock();
        for frame in frames.drain(..) {
            let (id, answer) = match frame {
                Frame::Answer { id, answer } => (id, answer),
                Frame::Push(push) => {
                    news.push(News::Push(push));
                    continue;
                }
                Frame::Hello { .. } | Frame::Welcome(_) | Frame::Request { .. } => {
                    unexpected = Some(FrameError::Unexpected { what: "not an answer or a push" });
                    break;
                }
            };
            match flight.settle(id, answer, now, rand::random()) {
                Settled::Answered { ticket, more, result, freed } => {
                    match freed.class {
                        Class::Greeting | Class::Internal => {}
                        Class::Prompt => (prompt, bytes) = (prompt + 1, bytes + kib(freed.bytes) as usize),
                        Class::Wait(_) => (waits, bytes) = (waits + 1, bytes + kib(freed.bytes) as usize),
                    }
                    let result = result.map_err(ClientError::Refused);
                    let others = more.into_iter().map(|ticket| News::Answered { ticket, result: result.clone() });
                    news.extend(others);
                    news.push(News::Answered { ticket, result });
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
            self.wake.notify_one();
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

/// Says goodbye when the courier is stopped in the middle of a connection.
struct Goodbye<'a> {
    connection: &'a Connection,
    armed: bool,
}

impl Drop for Goodbye<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.connection.close(VarInt::from_u32(CLOSE_GOODBYE), b"goodbye");
        }
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
