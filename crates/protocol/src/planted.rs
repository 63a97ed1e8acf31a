//! Bugs that are there on purpose, so that the simulation can show that it would find them.
//!
//! Deliberately absent from every program: without the feature `planted`, which the simulation alone enables, each
//! question is `false` when it is compiled, and nothing of the bug is left.

#[cfg(feature = "planted")]
static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// This process has this bug from now on. It can have one.
///
/// # Panics
/// If it has another already.
#[cfg(feature = "planted")]
pub fn plant(name: &str) {
    let planted = PLANTED.get_or_init(|| name.to_owned());
    assert_eq!(planted, name, "a process has one planted bug");
}

/// Whether this process has the bug.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(name: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == name)
}

/// Whether this process has the bug: never.
#[cfg(not(feature = "planted"))]
#[inline]
#[must_use]
pub const fn is(_name: &str) -> bool {
    false
}
