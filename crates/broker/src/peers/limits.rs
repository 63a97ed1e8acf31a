//! Every bound of the connections between nodes, with its reason. Times first, then sizes.

use std::time::Duration;

use coda_protocol::codec::DECODE_BYTES_MAX;
use coda_raft_store::group::LOG_ENTRY_BYTES_MAX;

/// The ALPN protocol between nodes. Fixed: the version is agreed inside, so that a mismatch can be explained.
pub const ALPN_PEER: &[u8] = b"coda-peer/1";

/// Oldest and newest version of the peer protocol that this binary speaks. Nodes of two releases that follow each
/// other share one, or a cluster could not be upgraded node by node.
///
/// | version | since | what it is |
/// |---|---|---|
/// | 1 | 0.1.0 | the first |
pub const PEER_VERSIONS: (u16, u16) = (1, 1);

/// Both ends of a connection give a sign of life this often.
pub const KEEP_ALIVE: Duration = Duration::from_millis(300);
/// A connection that is silent for this long is gone: five signs of life in a row are lost. Short, so that what was
/// sent to a machine that vanished is soon sent again to its successor; long enough for a machine that stutters. No
/// election waits for it: followers stand by Raft's own timers, whatever their connections say, and a process that was
/// killed and is back resets its old connections at once.
pub const IDLE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Assumed until measured. A lost first packet is sent again after three times this; QUIC's own guess is for satellites.
pub const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Each of the two steps of dialling, the handshake and the hello. Fits round trips of a quarter of a second.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The same two steps at the end that is dialled, where a crowd may wait.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to reach a peer, doubled each time. At most about one election timeout: a peer that is back is
/// found before the next round, and at once if it makes itself known by dialling.
pub const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
pub const REDIAL_PAUSE_MAX: Duration = Duration::from_millis(250);
/// A connection that lasted this long was a good one, and the next attempt after it is made without a pause.
pub const STEADY_AFTER: Duration = Duration::from_secs(1);
/// A new stream waits this long for its turn when the peer serves as many as it may.
pub const OPEN_STREAM_TIMEOUT: Duration = Duration::from_secs(1);
/// A single append, such as a heartbeat. Raft gives up its heartbeats after 100 ms by itself.
pub const SINGLE_APPEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that a served call goes on, whatever its sender says.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// A stream of appends that waits for an answer, and has neither sent a byte nor got an answer for this long, has
/// failed. Openraft would wait for ever. The peer is alive by then, or its connection would have ended: its disk hangs,
/// or its group does. Sending again helps only if something was lost in there, so this is well above a disk's hiccup.
/// A slow link is progress, not a stall.
pub const APPENDS_STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a stream of appends is opened again that ended without an answer. Short, because a node that has just started opens
/// its groups in less; and not zero, because Raft would try thousands of times meanwhile.
pub const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// As [`APPENDS_STALL_TIMEOUT`] for a snapshot, which everything else may overtake.
pub const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The first frame of a stream. QUIC shows a stream as soon as a later one is heard of, and that of a snapshot has to let
/// all others go first.
pub const OPENING_TIMEOUT: Duration = SNAPSHOT_STALL_TIMEOUT;
/// How long a snapshot waits for its turn before its sender is told to try again. Raft then makes the file anew, which
/// is more work than to wait; but it must not look like a stall.
pub const SNAPSHOT_TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a peer may take to check and install what it received: as long as Raft gives it.
pub const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a node takes to answer another one's question, whatever it has to do for it.
pub const ASK_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// A stream may fail a moment before its connection says why it ended.
pub const CLOSE_REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing the endpoint waits for the peers to hear of it.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The same complaint about the same peer is logged once in this time.
pub const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Complaints remembered for that.
pub const COMPLAINTS_MAX: usize = 1_024;

/// Connections that are served at once, greeted or not. One per node that dials.
pub const CONNECTIONS_MAX: usize = 256;
/// While this many handshakes are under way, who dials must first show that its address is its own.
pub const UNPROVEN_HANDSHAKES_MAX: usize = 16;
/// Handshakes under way from one address, so that no single one takes the place of all others.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Addresses tried at once to reach a peer: those in the membership that the groups know, what the peer said itself,
/// and what names resolve to.
pub const ADDRESSES_MAX: usize = 4;
pub const RESOLVED_MAX: usize = 4;
/// Longest address or program name in a hello.
pub const HELLO_TEXT_BYTES_MAX: usize = 255;
/// The first frame of a connection, in each direction.
pub const HELLO_BYTES_MAX: usize = 4 << 10;
/// Body of a call, of its answer, and of what goes before a snapshot: votes, heartbeats, memberships.
pub const CALL_BYTES_MAX: usize = 64 << 10;
/// A frame of the control stream: a body, and less than this around it.
pub const FRAME_BYTES_MAX: usize = CALL_BYTES_MAX + 64;
/// Why a call failed, as the peer puts it.
pub const WHY_BYTES_MAX: usize = 1 << 10;
/// One append: an entry of the largest size behind as much as the log hands out at once.
pub const APPEND_BYTES_MAX: usize = LOG_ENTRY_BYTES_MAX + (8 << 20);
/// A question of one node to another, and its answer: what a client asked or is answered, and a little around it.
pub const ASK_BYTES_MAX: usize = coda_protocol::limits::FRAME_BYTES_MAX + (64 << 10);
/// Questions of one peer that are answered at once. Others wait in its streams.
pub const ASKS_SERVED_MAX: usize = 64;
/// Answers to appends are positions.
pub const APPEND_ANSWER_BYTES_MAX: usize = CALL_BYTES_MAX;
/// Calls of this node that wait for one peer.
pub const CALLS_WAITING_MAX: usize = 1_024;
/// Calls of one peer that are served at once, and those of one group: a group that hangs must not take the place of
/// others' heartbeats.
pub const CALLS_SERVED_MAX: usize = 1_024;
pub const CALLS_SERVED_PER_GROUP_MAX: usize = 64;
/// Messages handled in one step, of those that wait, and the bytes after which no further one is added.
pub const BATCH_MAX: usize = 256;
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches of appends of one stream that are read and not yet taken by their group. Few, because they may be large.
pub const BATCHES_READY_MAX: usize = 1;
/// Bytes asked of a stream at once, and the room in the buffer below which there is made some.
pub const READ_BYTES: usize = 64 << 10;
pub const READ_BYTES_MIN: usize = 4 << 10;
/// Larger messages are handed to QUIC as they are, smaller ones copied next to each other.
pub const COPY_BYTES_MAX: usize = 4 << 10;

/// Snapshots received at once, from all peers together; others wait for their turn.
pub const SNAPSHOTS_RECEIVED_MAX: usize = 4;
/// Largest snapshot.
pub const SNAPSHOT_BYTES_MAX: u64 = 1 << 40;
/// Bytes of a snapshot read and sent at once.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// A snapshot that is received is synced each time it has grown by this much. Installing syncs it as a whole; but left
/// to that, gigabytes of unwritten pages would wait in front of the next sync of the log, and with it the heartbeats of
/// every group on the disk.
pub const SNAPSHOT_SYNC_BYTES: usize = 1 << 20;
/// Bytes of snapshots that a node takes in a second, of all groups together: a node that catches up costs its peers, and
/// whoever shares its disk and its cores, a part of what they have, and not all of it.
pub const SNAPSHOT_BYTES_PER_S: u64 = 32 << 20;

/// Streams a peer may have open: its control stream, one of appends per group, snapshots, questions, and some that end.
pub const STREAMS_MAX: u32 = 128;
/// Bytes in flight or unread per stream. What a snapshot can put before others is at most this: 84 ms on a link of
/// 100 Mbit/s, less than Raft waits for a heartbeat. What it can fetch is this per round trip: 1 GB/s at 1 ms.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// All streams together. As they all fit, no stream can ever use up what another needs: a snapshot that nobody reads,
/// or a group that hangs, stalls alone. The same for what is sent and not acknowledged.
pub const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
/// What may arrive before the hello is understood.
pub const UNGREETED_WINDOW_BYTES: u32 = 16 << 10;

/// Priorities of streams: QUIC sends what waits at a higher one first.
pub const CONTROL_PRIORITY: i32 = 2;
pub const APPENDS_PRIORITY: i32 = 1;
pub const SNAPSHOT_PRIORITY: i32 = 0;

/// This node or its program ended the stream; nothing is wrong with the connection.
pub const RESET_CANCELLED: u32 = 1;

const _: () = assert!(APPEND_BYTES_MAX <= DECODE_BYTES_MAX && ASK_BYTES_MAX <= DECODE_BYTES_MAX);
const _: () = assert!(ASKS_SERVED_MAX < STREAMS_MAX as usize);
const _: () = assert!(HELLO_BYTES_MAX <= UNGREETED_WINDOW_BYTES as usize);
const _: () = assert!(2 * HELLO_TEXT_BYTES_MAX + 128 < HELLO_BYTES_MAX);
const _: () = assert!(STREAMS_MAX as u64 * STREAM_WINDOW_BYTES as u64 <= u32::MAX as u64);
const _: () = assert!(SNAPSHOTS_RECEIVED_MAX < STREAMS_MAX as usize);
const _: () = assert!(UNPROVEN_HANDSHAKES_MAX < HANDSHAKES_PER_ADDRESS_MAX);
const _: () = assert!(HANDSHAKES_PER_ADDRESS_MAX < CONNECTIONS_MAX);
const _: () = assert!(SNAPSHOT_TURN_TIMEOUT.as_millis() < SNAPSHOT_STALL_TIMEOUT.as_millis());
const _: () = assert!(KEEP_ALIVE.as_millis() * 5 <= IDLE_TIMEOUT.as_millis());
