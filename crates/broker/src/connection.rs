//! The actor of one connection: owns its reader, its writer and its taker of payload streams. The end, or the panic,
//! of one of them is the end of that connection and of nothing else.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coda_protocol::frame::{CLOSE_GOODBYE, CLOSE_REPLACED, CLOSE_SHUTDOWN, Frame, FrameError, LENGTH_BYTES};
use coda_protocol::limits::{FRAME_BYTES_MAX, FRAME_INLINE_BYTES_MAX, PAYLOAD_STREAMS_MAX};
use coda_protocol::push::Push;
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::config::{CLOSE_REASON_TIMEOUT, INTAKE_GRACE, OUTBOX_BYTES_MAX};
use crate::endpoint::{Greeted, READ_BYTES, close_for};
use crate::host::Host;
use crate::intake::{Room, Share};
use crate::messages::{AbortOnDrop, SessionMsg, SupervisorMsg};
use crate::outbox::{self, InTransit, Outgoing};
use crate::session::Session;

/// Frames taken for one write, and the bytes after which a write goes out.
const WRITE_FRAMES_MAX: usize = 256;
const WRITE_BYTES_MAX: usize = 256 << 10;

/// Serves a greeted connection until it ends.
pub async fn open(connection: Connection, host: Host, greeted: Greeted) {
    let supervisor = host.supervisor.get_cell();
    match Actor::spawn_linked(None, SessionActor, (connection.clone(), host, greeted), supervisor).await {
        Ok((_, handle)) => drop(handle.await),
        Err(error) => {
            warn!(%error, "cannot start a session");
            connection.close(VarInt::from_u32(CLOSE_SHUTDOWN), b"cannot start a session");
        }
    }
}

struct SessionActor;

struct SessionState {
    connection: Connection,
    host: Host,
    session: Arc<Session>,
    _tasks: [AbortOnDrop; 3],
}

impl Actor for SessionActor {
    type Msg = SessionMsg;
    type State = SessionState;
    type Arguments = (Connection, Host, Greeted);

    async fn pre_start(
        &self,
        me: ActorRef<SessionMsg>,
        (connection, host, greeted): Self::Arguments,
    ) -> Result<SessionState, ActorProcessingErr> {
        let Greeted { send, recv, buffer, hello } = greeted;
        let (outbox, outgoing) = outbox::channel(host.sessions.outboxes());
        let (epoch, before) = host.sessions.connect(hello.session, outbox.clone(), connection.clone());
        if let Some(before) = before {
            before.connection.close(VarInt::from_u32(CLOSE_REPLACED), b"replaced by a newer connection");
            before.outbox.close();
            host.session_gone(hello.session, before.epoch);
        }
        // Behind its registration: what changes from now on is said to it too, and twice does no harm.
        outbox.push(host.map().map_or(Push::Outside, |map| Push::Map((*map).clone())));
        // Of a group that is led here it is told once its leader has recovered.
        let heard = host.routes.leaders().into_iter().filter(|heard| heard.leader != Some(host.node));
        for heard in heard {
            outbox.push(Push::Leader(heard));
        }
        for router in host.routes.led() {
            outbox.push(Push::Leader(router.leader(host.node)));
        }
        debug!(session = %hello.session, agent = %hello.agent, peer = %connection.remote_address(), "connected");
        let session = Arc::new(Session {
            id: hello.session,
            epoch,
            outbox,
            host: host.clone(),
            serving: Default::default(),
            told_full: Default::default(),
        });
        let share = host.intake.share();
        let tasks = [
            watched(&me, read(connection.clone(), recv, buffer, session.clone(), share.clone())),
            watched(&me, write(connection.clone(), send, outgoing)),
            watched(&me, take_payloads(connection.clone(), session.clone(), share)),
        ];
        Ok(SessionState { connection, host, session, _tasks: tasks })
    }

    async fn handle(
        &self,
        me: ActorRef<SessionMsg>,
        SessionMsg::Ended: SessionMsg,
        _: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        me.stop(None);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<SessionMsg>, state: &mut SessionState) -> Result<(), ActorProcessingErr> {
        let SessionState { connection, host, session, .. } = state;
        // Asked before our own close, which would be the reason then.
        let goodbye = matches!(
            connection.close_reason(),
            Some(quinn::ConnectionError::ApplicationClosed(close)) if close.error_code == VarInt::from_u32(CLOSE_GOODBYE)
        );
        connection.close(VarInt::from_u32(CLOSE_SHUTDOWN), b"");
        session.outbox.close();
        host.session_gone(session.id, session.epoch);
        let was_current = host.sessions.disconnect(session.id, session.epoch);
        debug!(session = %session.id, goodbye, "disconnected");
        if was_current {
            drop(host.supervisor.cast(SupervisorMsg::SessionClosed { session: session.id, goodbye }));
        }
        Ok(())
    }
}

/// Tells the actor when a task ends, by a panic too.
fn watched(me: &ActorRef<SessionMsg>, task: impl Future<Output = ()> + Send + 'static) -> AbortOnDrop {
    struct Tell(ActorRef<SessionMsg>);
    impl Drop for Tell {
        fn drop(&mut self) {
            drop(self.0.cast(SessionMsg::Ended));
        }
    }
    let tell = Tell(me.clone());
    AbortOnDrop(tokio::spawn(async move {
        let _tell = tell;
        task.await;
    }))
}

async fn read(connection: Connection, mut recv: RecvStream, mut buffer: BytesMut, session: Arc<Session>, share: Share) {
    let mut room = None;
    loop {
        loop {
            match Frame::take(&mut buffer) {
                Ok(Some(frame)) => {
                    room = None;
                    if let Err(error) = session.on_frame(frame).await {
                        return close_for(&connection, &error);
                    }
                }
                Ok(None) => break,
                Err(error) => return close_for(&connection, &error),
            }
        }
        // What it says of itself was checked to be no more than a frame may have.
        let claimed = buffer.first_chunk().map_or(0, |prefix| u32::from_be_bytes(*prefix) as usize);
        room = match room {
            // The same frame, still.
            Some(room) if claimed > FRAME_INLINE_BYTES_MAX => Some(room),
            _ if claimed > FRAME_INLINE_BYTES_MAX => Some(share.room(claimed).await),
            _ => None,
        };
        match read_within(&mut recv, room.as_ref()).await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) if !buffer.is_empty() => return close_for(&connection, &FrameError::TooShort),
            Ok(None) => return,
            Err(Interrupted::TooSlow) => return close_for(&connection, &FrameError::SlowFrame { grace: INTAKE_GRACE }),
            // A stream may fail a moment before its connection says why, and a goodbye is worth the moment.
            Err(Interrupted::Lost) => return drop(timeout(CLOSE_REASON_TIMEOUT, connection.closed()).await),
        }
    }
}

/// Why nothing more comes of a frame.
enum Interrupted {
    Lost,
    /// Others waited for its room.
    TooSlow,
}

/// The next bytes of a stream, as long as there is room for the frame that they are of.
async fn read_within(recv: &mut RecvStream, room: Option<&Room>) -> Result<Option<Bytes>, Interrupted> {
    let lost = async {
        match room {
            Some(room) => room.lost().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        chunk = recv.read_chunk(READ_BYTES, true) => match chunk {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(_) => Err(Interrupted::Lost),
        },
        () = lost => Err(Interrupted::TooSlow),
    }
}

/// Frames too large for the main stream come on streams of their own; they may overtake. The peer may open another when
/// one has been read, which is no bound yet: so many are handled at once, too.
async fn take_payloads(connection: Connection, session: Arc<Session>, share: Share) {
    let places = Arc::new(Semaphore::new(PAYLOAD_STREAMS_MAX as usize));
    while let (Ok(place), Ok(mut stream)) = (places.clone().acquire_owned().await, connection.accept_uni().await) {
        let (connection, session, share) = (connection.clone(), session.clone(), share.clone());
        tokio::spawn(async move {
            let _place = place;
            let result = match take_payload(&mut stream, &share).await {
                Ok(Some((frame, _room))) => session.on_frame(frame).await,
                // Reset, or lost with the connection.
                Ok(None) => return,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                close_for(&connection, &error);
            }
        });
    }
}

/// The one frame of a stream, and its room. None if the stream was given up.
async fn take_payload(stream: &mut RecvStream, share: &Share) -> Result<Option<(Frame, Room)>, FrameError> {
    let mut prefix = [0; LENGTH_BYTES];
    match stream.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(_)) => return Err(FrameError::TooShort),
        Err(ReadExactError::ReadError(_)) => return Ok(None),
    }
    let claimed = u32::from_be_bytes(prefix) as usize;
    if claimed > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes: claimed });
    }
    let room = share.room(claimed).await;
    let mut buffer = BytesMut::from(&prefix[..]);
    loop {
        match read_within(stream, Some(&room)).await {
            Ok(Some(bytes)) if buffer.len() + bytes.len() > LENGTH_BYTES + claimed => {
                return Err(FrameError::Unexpected { what: "bytes behind the one frame of a payload stream" });
            }
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(Interrupted::Lost) => return Ok(None),
            Err(Interrupted::TooSlow) => return Err(FrameError::SlowFrame { grace: INTAKE_GRACE }),
        }
    }
    let frame = Frame::take(&mut buffer)?.ok_or(FrameError::TooShort)?;
    Ok(Some((frame, room)))
}

/// Writes until the connection ends, or more waits than may wait: the peer reads too slowly to be kept.
async fn write(connection: Connection, send: SendStream, outgoing: Outgoing) {
    let overrun = outgoing.overrun();
    tokio::select! {
        () = write_all(&connection, send, outgoing) => {}
        () = overrun => {
            close_for(&connection, &FrameError::TooSlow { bytes_max: OUTBOX_BYTES_MAX });
        }
    }
}

async fn write_all(connection: &Connection, mut send: SendStream, mut outgoing: Outgoing) {
    let mut frames = Vec::with_capacity(WRITE_FRAMES_MAX);
    let mut out = Vec::with_capacity(WRITE_BYTES_MAX);
    loop {
        if outgoing.take(&mut frames, WRITE_FRAMES_MAX).await == 0 {
            return;
        }
        // What it holds counts as waiting until it is written.
        let mut waiting: Vec<InTransit> = Vec::with_capacity(frames.len());
        for queued in frames.drain(..) {
            let (frame, transit) = outgoing.transit(queued);
            let start = out.len();
            frame.encode(&mut out);
            if out.len() - start > FRAME_INLINE_BYTES_MAX && may_overtake(&frame) {
                let payload = Bytes::from(out.split_off(start));
                tokio::spawn(send_payload(connection.clone(), payload, transit));
                continue;
            }
            waiting.push(transit);
            if out.len() > WRITE_BYTES_MAX {
                if send.write_all(&out).await.is_err() {
                    return;
                }
                out.clear();
                waiting.clear();
            }
        }
        if !out.is_empty() && send.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        out.shrink_to(4 * WRITE_BYTES_MAX);
    }
}

/// Whether a frame keeps its meaning when it arrives before or after its neighbours.
fn may_overtake(frame: &Frame) -> bool {
    matches!(frame, Frame::Answer { .. } | Frame::Push(Push::Task(_)))
}

async fn send_payload(connection: Connection, payload: Bytes, _waiting: InTransit) {
    // The connection's end is seen by its reader.
    let Ok(mut stream) = connection.open_uni().await else { return };
    if stream.write_chunk(payload).await.is_ok() {
        let _ = stream.finish();
    }
}
