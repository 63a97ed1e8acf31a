//! Every bound of the system. The same in every binary of a version; units come last in the name.

use crate::ids::Millis;
use crate::policy::RetryPolicy;

/// Hash slots of ids. Never changes: it is part of the key format.
pub const SLOTS: u16 = 4_096;

/// Longest name of a queue, task or workflow.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest encoded cache key.
pub const CACHE_KEY_BYTES_MAX: usize = 1_024;
/// Largest payload: arguments, input or result.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Longest name of a payload's codec.
pub const CODEC_NAME_BYTES_MAX: usize = 32;
/// Largest failure (type, message and traceback together). SDKs cut the traceback to fit.
pub const FAILURE_BYTES_MAX: usize = 64 << 10;

/// Most steps in one `Spawn`.
pub const SPAWN_STEPS_MAX: usize = 256;
/// Most bytes of arguments in one `Spawn`.
pub const SPAWN_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;
/// Most bytes of results in the answer to one `Spawn`; further results follow as pushes.
pub const SPAWN_REPLY_BYTES_MAX: usize = 256 << 10;
/// Most bytes of such pushes; if there are more, the run's memo is sent again, as fast as its worker takes it.
pub const SPAWN_PUSH_BYTES_MAX: usize = 8 << 20;
/// Most results in a page of a run's memo, and most bytes of results that start another page.
pub const MEMO_PAGE_ITEMS_MAX: usize = 512;
pub const MEMO_PAGE_BYTES_MAX: usize = 256 << 10;
/// Most rows that are read for such a page, those that are left out included.
pub const MEMO_PAGE_ROWS_MAX: usize = 4_096;
/// Most task and workflow names in one subscription.
pub const SUBSCRIPTION_NAMES_MAX: usize = 1_024;
/// Most queues that one session subscribes to.
pub const SUBSCRIPTIONS_PER_SESSION_MAX: usize = 64;
/// Most unused slots that a session may offer per queue and kind.
pub const CREDIT_MAX: u32 = 4_096;
/// How long a node's word that it wants slots holds, unless it is said again.
pub const WANTS_MS: u64 = 1_000;
/// Most leases a session may hold.
pub const LEASES_PER_SESSION_MAX: usize = 16_384;

/// Largest frame: a payload, or a full page, and its envelope.
pub const FRAME_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (1 << 20);
/// A frame larger than this travels on a stream of its own when its kind may overtake others.
pub const FRAME_INLINE_BYTES_MAX: usize = 64 << 10;
/// Most bytes that a receiver makes room for because a frame says it is that long; further room follows what has arrived.
pub const FRAME_RESERVE_BYTES_MAX: usize = 64 << 10;
/// Most payload streams one peer may have open at once.
pub const PAYLOAD_STREAMS_MAX: u32 = 64;
/// Most requests of one connection that may wait for their reply, long waits for results included.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 16_384;

/// Most commands in one log entry; a `Spawn` counts once.
pub const COMMANDS_PER_ENTRY_MAX: usize = 512;
/// A proposer closes an entry once its commands and grants have this many bytes. The log takes more: see raft-store.
pub const PROPOSER_ENTRY_BYTES_MAX: usize = 8 << 20;
/// Most leases granted by one log entry. Fits the 16 bits a lease id has for it.
pub const LEASES_PER_ENTRY_MAX: usize = 1_024;
/// An entry grants no further lease once the leased payloads reach this many bytes.
pub const LEASE_BYTES_PER_ENTRY_MAX: usize = 8 << 20;
/// Requests that may wait for a group's proposer before clients are told `overloaded`.
pub const PROPOSER_QUEUE_MAX: usize = 8_192;

/// Most due items that one tick handles; the rest is handled by the next.
pub const TICK_DUE_MAX: usize = 256;
/// Most rows that one tick deletes for retention, and most bytes of results that it reads to find them.
pub const TICK_DELETE_MAX: usize = 2_048;
pub const TICK_DELETE_BYTES_MAX: usize = 16 << 20;
/// Most leases that the end of a session takes back at once; the rest follows in further commands.
pub const LEASES_PER_END_MAX: usize = 1_024;

/// Priorities are `0..=PRIORITY_MAX`, higher first.
pub const PRIORITY_MAX: u8 = 9;
pub const PRIORITY_DEFAULT: u8 = 4;
/// Most retries of a policy.
pub const RETRIES_MAX: u32 = 1_000_000;
/// Longest delay before a first attempt or between attempts: a year.
pub const DELAY_MS_MAX: u64 = 366 * 24 * 3_600 * 1_000;
/// Work whose workers vanish this often without reporting is failed: it probably kills them. Below the number of
/// deaths that a supervisor of workers puts up with.
pub const LOST_LEASES_MAX: u32 = 10;
/// How long such work waits after each loss but the first: longer than a supervisor waits before it starts the next
/// worker, or that worker would find the same work at the head of its line.
pub const LOST_LEASES_DELAY: RetryPolicy = RetryPolicy {
    max_retries: LOST_LEASES_MAX,
    initial: Millis(1_000),
    factor_percent: 200,
    max: Millis(60_000),
    jitter_percent: 20,
};
/// How long a finished run or task and its result can still be read.
pub const RETENTION_MS: u64 = 24 * 3_600 * 1_000;

/// Most rows in a listing, or in a page of one.
pub const LIST_ROWS_MAX: usize = 1_000;
/// Most rows that are read for such a page, and most bytes of results beside which its rows lie.
pub const LIST_SCAN_ROWS_MAX: usize = 10_000;
pub const LIST_READ_BYTES_MAX: usize = 16 << 20;
/// Most bytes of failures in a listing; the rows behind them are left out.
pub const LIST_FAILURE_BYTES_MAX: usize = 256 << 10;

/// How many nodes hold a copy of each group: one of these. Odd, since an even number survives no more failures.
pub const REPLICATION_FACTORS: [u8; 3] = [1, 3, 5];
/// Most voters of a group: one more than its copies, while one of them is being replaced.
pub const VOTERS_MAX: usize = 6;
/// Most nodes of a cluster, removed ones not counted.
pub const CLUSTER_NODES_MAX: usize = 64;
/// Node ids are below or at this, from 1.
pub const NODE_ID_MAX: u64 = 65_535;
/// Removed nodes that are still known, to be refused by name; those before are strangers like any other.
pub const REMOVED_NODES_MAX: usize = 512;
/// Most data groups of a cluster.
pub const GROUPS_MAX: u16 = 256;
/// Longest address, `host:port`: a DNS name and a port.
pub const ADDRESS_BYTES_MAX: usize = 259;
/// Longest name of a zone.
pub const ZONE_BYTES_MAX: usize = 64;
/// Longest version of a binary.
pub const VERSION_BYTES_MAX: usize = 64;
/// Largest encoded cluster map: it never needs a stream of its own.
pub const CLUSTER_MAP_BYTES_MAX: usize = FRAME_INLINE_BYTES_MAX;
/// Most join tokens that are known at a time, used and expired ones included.
pub const JOIN_TOKENS_MAX: usize = 256;
/// How long a join token may be used.
pub const JOIN_TOKEN_TTL_MS_MIN: u64 = 60 * 1_000;
pub const JOIN_TOKEN_TTL_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;
pub const JOIN_TOKEN_TTL_MS_DEFAULT: u64 = 3_600 * 1_000;

const _: () = assert!(PAYLOAD_BYTES_MAX + FAILURE_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(LEASES_PER_ENTRY_MAX < 1 << 16);
const _: () = assert!(COMMANDS_PER_ENTRY_MAX * SPAWN_STEPS_MAX < 1 << 28);
const _: () = assert!(SPAWN_BYTES_MAX <= PROPOSER_ENTRY_BYTES_MAX);
const _: () = assert!(FRAME_INLINE_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_RESERVE_BYTES_MAX <= FRAME_INLINE_BYTES_MAX);
const _: () = assert!(PRIORITY_DEFAULT <= PRIORITY_MAX);
const _: () = assert!(LIST_ROWS_MAX <= LIST_SCAN_ROWS_MAX);
const _: () = assert!(GROUPS_MAX <= SLOTS);
const _: () = assert!(VOTERS_MAX == REPLICATION_FACTORS[REPLICATION_FACTORS.len() - 1] as usize + 1);
const _: () = assert!(VOTERS_MAX <= CLUSTER_NODES_MAX);
const _: () = assert!(JOIN_TOKEN_TTL_MS_MIN <= JOIN_TOKEN_TTL_MS_DEFAULT);
const _: () = assert!(JOIN_TOKEN_TTL_MS_DEFAULT <= JOIN_TOKEN_TTL_MS_MAX);
const _: () = assert!(CLUSTER_NODES_MAX + REMOVED_NODES_MAX <= LIST_ROWS_MAX);
