//! The users' program. Everything is in the library, where it can be tested.

fn main() -> std::process::ExitCode {
    coda_cli::user::main()
}
