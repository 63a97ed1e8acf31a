//! Bytes from anywhere into everything that reads some: [`TARGETS`] is the list.
//!
//! Each target is a function that panics if a promise is broken, and only then. `fuzz` feeds them with what a fuzzer finds
//! by coverage, and `tests/replay.rs` with what is in `fuzz/corpus`, with the bytes of every variant that the wire and the
//! log know, and with a fixed number of mutations of these, on every change. Whatever is fed, memory is measured: no
//! input makes a target take more at once than its bound says, however long it claims to be.

mod codec;
mod command;
mod frame;
mod keys;
mod meter;
pub mod mutate;
mod perform;
pub mod seeds;
mod store;

use coda_protocol::codec::DECODE_BYTES_MAX;

/// Something that reads bytes.
pub struct Target {
    pub name: &'static str,
    /// Whether it made sense.
    run: fn(&[u8]) -> bool,
    /// How much memory it may take at once beside [`PER_BYTE`] times its input.
    memory_bytes_max: usize,
    /// How many mutations a replay tries.
    pub mutations: usize,
    /// Of so many of what it begins with it makes sense: of most, where each is meant for it.
    pub understood_percent: usize,
}

/// Lists of lists may make room for this at once before the first element is there: serde's own bound is 1 MiB a list.
const DECODE_MEMORY_BYTES_MAX: usize = 4 << 20;
/// A value takes more room than its bytes: the smallest element of a list that takes the largest room has one byte.
const PER_BYTE: usize = 1_024;
/// What Raft's own types decode, whose texts are read as long as they claim to be. Only peers send them.
const RAFT_MEMORY_BYTES_MAX: usize = DECODE_BYTES_MAX + DECODE_MEMORY_BYTES_MAX;
/// The state of two groups and a log of entries.
const ENGINE_MEMORY_BYTES_MAX: usize = 64 << 20;

pub const TARGETS: [Target; 9] = [
    Target {
        name: "frame",
        run: frame::run,
        memory_bytes_max: DECODE_MEMORY_BYTES_MAX,
        mutations: 150_000,
        understood_percent: 100,
    },
    Target {
        name: "codec",
        run: codec::run,
        memory_bytes_max: DECODE_MEMORY_BYTES_MAX,
        mutations: 400_000,
        understood_percent: 100,
    },
    Target {
        name: "peer",
        run: codec::peer,
        memory_bytes_max: DECODE_MEMORY_BYTES_MAX,
        mutations: 200_000,
        understood_percent: 100,
    },
    Target {
        name: "command",
        run: command::run,
        memory_bytes_max: ENGINE_MEMORY_BYTES_MAX,
        mutations: 20_000,
        understood_percent: 70,
    },
    Target {
        name: "keys",
        run: keys::run,
        memory_bytes_max: DECODE_MEMORY_BYTES_MAX,
        mutations: 400_000,
        understood_percent: 30,
    },
    Target {
        name: "raft",
        run: store::raft,
        memory_bytes_max: RAFT_MEMORY_BYTES_MAX,
        mutations: 200_000,
        understood_percent: 100,
    },
    Target {
        name: "records",
        run: store::records,
        memory_bytes_max: RAFT_MEMORY_BYTES_MAX,
        mutations: 200_000,
        understood_percent: 100,
    },
    Target {
        name: "snapshot",
        run: store::snapshot,
        memory_bytes_max: ENGINE_MEMORY_BYTES_MAX,
        mutations: 20_000,
        understood_percent: 20,
    },
    Target {
        name: "certificate",
        run: codec::certificate,
        memory_bytes_max: DECODE_MEMORY_BYTES_MAX,
        mutations: 100_000,
        understood_percent: 100,
    },
];

impl Target {
    /// The target of that name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn named(name: &str) -> &'static Self {
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
    }

    /// Feeds it. Whether it made sense of the bytes.
    ///
    /// # Panics
    /// If a promise is broken.
    pub fn run(&self, bytes: &[u8]) -> bool {
        let mut understood = false;
        let peak = meter::peak_of(|| understood = (self.run)(bytes));
        let max = self.memory_bytes_max + PER_BYTE * bytes.len();
        assert!(peak <= max, "{} bytes made {} take {peak} bytes, more than the {max} allowed", bytes.len(), self.name);
        understood
    }
}
