//! Which versions of the wire this binary speaks, and how two sides agree on one.

/// Oldest and newest wire version that this binary speaks.
///
/// | version | since | what it is |
/// |---|---|---|
/// | 1 | 0.1.0 | the first |
pub const WIRE_VERSIONS: (u16, u16) = (1, 1);

/// The ALPN protocol of client connections. Fixed: the version is agreed inside, so that a mismatch can be explained.
pub const ALPN_CLIENT: &[u8] = b"coda";

/// The newest version both ranges hold.
#[must_use]
pub fn agree(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let version = ours.1.min(theirs.1);
    (version >= ours.0.max(theirs.0)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::agree;

    #[test]
    fn the_newest_common_version_is_chosen() {
        assert_eq!(agree((1, 3), (2, 9)), Some(3));
        assert_eq!(agree((2, 9), (1, 3)), Some(3));
        assert_eq!(agree((1, 1), (2, 2)), None);
        assert_eq!(agree((5, 6), (1, 4)), None);
    }
}
