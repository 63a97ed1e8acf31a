//! The users' program. Everything is in the library, where it can be tested.

/// For RocksDB's allocations too. A node allocates and frees small pieces on several threads all the time: the system's
/// allocator took an eighth of its time doing so, and gave less memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    coda_cli::user::main()
}
