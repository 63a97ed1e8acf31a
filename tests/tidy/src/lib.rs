//! Rules about the checkout itself, for what neither the compiler nor clippy can see.
//!
//! Each rule is a function from text to problems, tested here on small texts; `tests/checkout.rs` applies all of them
//! to the checkout. There is no list of exceptions: a rule that is wrong is changed, with its reason, in its own file.
//! Absent: anything that a formatter, a lint in `Cargo.toml` or a `clippy.toml` already says.

pub mod codes;
pub mod imports;
pub mod links;
pub mod source;

mod checkout;
mod lexer;

pub use checkout::{Checkout, File};

/// One broken rule: where, what is wrong, and what the reader should do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: String,
    pub wrong: String,
    pub to_do: String,
}

impl Problem {
    pub fn new(place: impl Into<String>, wrong: impl Into<String>, to_do: impl Into<String>) -> Problem {
        Problem { place: place.into(), wrong: wrong.into(), to_do: to_do.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}\n    to do: {}", self.place, self.wrong, self.to_do)
    }
}
