//! A node's own configuration and bounds. Nothing here can influence what an entry means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::NodeId;
use coda_protocol::limits::{
    CACHE_KEY_BYTES_MAX, FRAME_BYTES_MAX, LEASE_BYTES_PER_ENTRY_MAX, NAME_BYTES_MAX, PROPOSER_ENTRY_BYTES_MAX,
    SPAWN_BYTES_MAX, SPAWN_STEPS_MAX, SUBSCRIPTION_NAMES_MAX,
};

pub use coda_raft_store::store::{DiskOptions, DiskProbe, Medium, Space, SyncDelay};
use smol_str::SmolStr;

use crate::identity::IdentityFiles;
use crate::network::{Network, SystemNetwork};

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub node: NodeId,
    /// Data groups of a node that runs alone.
    pub groups: u16,
    /// Everything the node keeps lives here.
    pub data_dir: PathBuf,
    /// Where clients and workers connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How they reach that, where it is not what it listens on.
    pub advertise: Option<SmolStr>,
    /// How it meets other nodes. Without, it is alone, and makes a cluster of its own on its first start.
    pub peering: Option<Peering>,
    /// What fails together with it; empty if nobody said.
    pub zone: SmolStr,
    pub certificates: Certificates,
    /// Only clients with a certificate of the cluster's authority are served.
    pub require_client_certificate: bool,
    /// Added to every sync of the log: for benchmarks on disks that hide what a sync costs.
    pub sync_delay: SyncDelay,
    /// What is expected of the disk.
    pub disk: DiskOptions,
    /// Where its sockets come from.
    pub network: Arc<dyn Network>,
    /// What the folder of the store lies on.
    pub medium: Medium,
}

/// How a node meets others.
#[derive(Clone, Debug)]
pub struct Peering {
    /// Where other nodes connect.
    pub listen: SocketAddr,
    /// How they reach that, where it is not what it listens on.
    pub advertise: Option<SmolStr>,
}

/// How a node proves who it is.
#[derive(Clone, Debug)]
pub enum Certificates {
    /// By a set that it makes on its first start and keeps in its folder, with an authority of its own.
    Own,
    /// By files that people made, which are read again when they change.
    Files(IdentityFiles),
}

impl NodeConfig {
    /// A node for one machine.
    #[must_use]
    pub fn alone(data_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            node: NodeId(1),
            groups: 1,
            data_dir,
            listen,
            advertise: None,
            peering: None,
            zone: SmolStr::default(),
            certificates: Certificates::Own,
            require_client_certificate: false,
            sync_delay: SyncDelay::default(),
            disk: DiskOptions::default(),
            network: Arc::new(SystemNetwork),
            medium: Medium::default(),
        }
    }
}

/// Client connections at once.
pub const CONNECTIONS_MAX: usize = 4_096;
/// While this many connections have not said hello, who connects must first show that its address is its own.
pub const UNPROVEN_HANDSHAKES_MAX: usize = 64;
/// Connections from one address that have not said hello. Many workers may be behind one address.
pub const UNGREETED_PER_ADDRESS_MAX: usize = 512;
/// Bytes that may arrive on a connection before its hello was understood. It may open no further streams until then.
pub const UNGREETED_WINDOW_BYTES: u32 = 64 << 10;
/// Bytes of datagrams that may wait for a connection to be accepted, and for all such connections together.
pub const INCOMING_BYTES_MAX: u64 = 64 << 10;
pub const INCOMING_BYTES_TOTAL_MAX: u64 = 16 << 20;
/// A connection that has not said hello after this is closed.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for this long is gone. Both sides send keep-alives well within it.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Between two resets that a node sends to connections that it does not know: those of the process before it, which it tells
/// so that they are over. QUIC's own 20 ms are for servers whose connection ids cannot be checked. Whoever misses his reset
/// asks again after twice the time, until he has been silent for too long: the clients of a node that was killed and is back
/// ask at one moment, and each has to be told.
pub const RESET_INTERVAL_MIN: Duration = Duration::from_micros(20);
const _: () = assert!(RESET_INTERVAL_MIN.as_micros() * CONNECTIONS_MAX as u128 <= 100_000);
/// A session whose connection was lost may come back for this long before its leases are handed back.
pub const SESSION_GRACE: Duration = Duration::from_secs(2);
/// The same after a new leader took over, when all sessions have to find it first.
pub const RECLAIM_GRACE: Duration = Duration::from_secs(10);
/// A stream may fail a moment before its connection says why it ended.
pub const CLOSE_REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that may wait to be sent to one session: past it the session is too slow to keep.
pub const OUTBOX_BYTES_MAX: usize = 128 << 20;
/// Bytes that may wait to be sent to all sessions together. Past it, whoever has more than a session needs is too slow.
pub const OUTBOXES_BYTES_MAX: usize = 1 << 30;
/// What a session needs: as much as it is leased work for. Sessions within it are kept, however many there are.
pub const OUTBOX_CROWDED_BYTES_MAX: usize = LEASE_WINDOW_BYTES_MAX + 2 * LEASE_BYTES_PER_ENTRY_MAX;
/// Bytes of large frames that may be arriving, on all connections and on one: others wait at their senders.
pub const INTAKE_BYTES_MAX: usize = 512 << 20;
pub const INTAKE_BYTES_PER_CONNECTION_MAX: usize = 32 << 20;
/// How long a large frame may take to arrive while others wait for its room.
pub const INTAKE_GRACE: Duration = Duration::from_secs(10);
/// Bytes of memo pages that may wait to be sent to one session. A memo can be as large as a disk: its next page is read
/// when those before it have gone.
pub const MEMO_WINDOW_BYTES_MAX: usize = 8 << 20;
/// Bytes that may wait to be sent to one session before it is leased no more work: it has slots for more than it can
/// read. It is leased more once half of that has gone.
pub const LEASE_WINDOW_BYTES_MAX: usize = 32 << 20;
/// Bytes of requests that may wait for a group's proposer.
pub const PROPOSER_BYTES_MAX: usize = 64 << 20;
/// Sessions whose free slots travel with one entry.
pub const GRANTS_PER_ENTRY_MAX: usize = 64;
/// Bytes of an entry that grants may take, with the names and lanes that come with them.
pub const GRANT_BYTES_PER_ENTRY_MAX: usize = 1 << 20;
/// Queues with a subscriber at once.
pub const QUEUES_SERVED_MAX: usize = 16_384;
/// Actors that bring runs to workers; workflow names share them beyond this.
pub const WORKFLOW_ACTORS_MAX: u64 = 256;
/// Bytes of the first frame of a connection.
pub const HELLO_BYTES_MAX: usize = 4 << 10;
/// What an overloaded node asks of its clients.
pub const RETRY_AFTER_MS: u64 = 50;
/// What a node with a full disk asks of them: it looks at its disk twice a second.
pub const DISK_FULL_RETRY_AFTER_MS: u64 = 1_000;
/// A leader whose actors fail this often within [`LEADER_RESTART_WINDOW`] cannot go on.
pub const LEADER_RESTARTS_MAX: usize = 5;
pub const LEADER_RESTART_WINDOW: Duration = Duration::from_secs(60);
/// How long a shutdown waits for what is in flight.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a proposal that had no effect is made again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// The largest page must have room, and what else is sent must keep most of it.
const _: () = assert!(FRAME_BYTES_MAX <= MEMO_WINDOW_BYTES_MAX && 2 * MEMO_WINDOW_BYTES_MAX <= OUTBOX_BYTES_MAX);
/// So must what an entry leases to a session that is just not behind.
const _: () = assert!(LEASE_WINDOW_BYTES_MAX + 2 * LEASE_BYTES_PER_ENTRY_MAX + FRAME_BYTES_MAX <= OUTBOX_BYTES_MAX / 2);
const _: () = assert!(OUTBOX_CROWDED_BYTES_MAX < OUTBOX_BYTES_MAX && OUTBOX_BYTES_MAX < OUTBOXES_BYTES_MAX);
/// The largest frame must find room.
const _: () = assert!(FRAME_BYTES_MAX <= INTAKE_BYTES_PER_CONNECTION_MAX);
const _: () = assert!(INTAKE_BYTES_PER_CONNECTION_MAX <= INTAKE_BYTES_MAX && INTAKE_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(HELLO_BYTES_MAX <= UNGREETED_WINDOW_BYTES as usize);
const _: () =
    assert!(UNPROVEN_HANDSHAKES_MAX < UNGREETED_PER_ADDRESS_MAX && UNGREETED_PER_ADDRESS_MAX < CONNECTIONS_MAX);
/// One set of names must fit, or its session would never be offered work.
const _: () = assert!(2 * SUBSCRIPTION_NAMES_MAX * (NAME_BYTES_MAX + 64) < GRANT_BYTES_PER_ENTRY_MAX);
/// So must the largest command, a full `Spawn`, beside the grants.
const _: () = assert!(
    SPAWN_BYTES_MAX + SPAWN_STEPS_MAX * (CACHE_KEY_BYTES_MAX + 2 * NAME_BYTES_MAX + 256) + GRANT_BYTES_PER_ENTRY_MAX
        < PROPOSER_ENTRY_BYTES_MAX
);
