//! The operators' program. Everything is in the library, where it can be tested.

fn main() {
    coda_cli::admin::main()
}
