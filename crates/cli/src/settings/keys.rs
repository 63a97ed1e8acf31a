//! Every key of `node.toml`. Nothing else is read, and a key that is not here is refused.

use coda_protocol::limits::{NODE_ID_MAX, ZONE_BYTES_MAX};

use super::value::Kind;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, as in the file.
    pub name: &'static str,
    pub kind: Kind,
    pub without: Without,
    pub about: &'static str,
    pub is_secret: bool,
}

/// What holds where nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// The node does not start.
    Missing,
    /// It has none.
    Nothing,
    /// Written as in the environment.
    Default(&'static str),
}

impl Key {
    const fn new(name: &'static str, kind: Kind, without: Without, about: &'static str) -> Self {
        Self { name, kind, without, about, is_secret: false }
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// Its name in the environment.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replacen('.', SEPARATOR, 1).to_uppercase())
    }
}

/// A variable with this prefix and separator is a setting: `CODA_LISTEN__CLIENT` is `listen.client`.
pub const PREFIX: &str = "CODA_";
pub const SEPARATOR: &str = "__";

const JOIN_TOKEN_BYTES_MAX: usize = 1_024;
const SEEDS_MAX: usize = 64;
const SYNC_DELAY_MS_MAX: u64 = 1_000;
const DISK_RESERVE_BYTES_MIN: u64 = 64 << 20;
const DISK_RESERVE_BYTES_MAX: u64 = 1 << 50;

use Kind as K;
use Without::{Default, Missing, Nothing};

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    Key::new("node.id", K::Number { min: 1, max: NODE_ID_MAX }, Missing,
        "which node of its cluster this is, for good; its certificate names the same"),
    Key::new("node.data_dir", K::Path, Default("/var/lib/coda"),
        "everything the node keeps; no other process may use it"),
    Key::new("node.zone", K::Text { bytes_max: ZONE_BYTES_MAX }, Nothing,
        "where it stands: a rack, a room, a zone of a cloud"),

    Key::new("listen.client", K::Address, Default("0.0.0.0:4747"),
        "where clients and workers connect; a UDP port"),
    Key::new("listen.advertise_client", K::HostPort, Nothing,
        "how clients reach that, where it is not what it listens on"),
    Key::new("listen.peer", K::Address, Nothing,
        "where other nodes connect; a UDP port"),
    Key::new("listen.advertise_peer", K::HostPort, Nothing,
        "how other nodes reach that"),

    Key::new("tls.ca", K::Path, Default("certs/ca.pem"),
        "whom the node trusts: its cluster's authority, two while one takes over"),
    Key::new("tls.cert", K::Path, Default("certs/node.pem"),
        "the node's certificate; `coda-admin cert node` makes it"),
    Key::new("tls.key", K::Path, Default("certs/node.key"),
        "its key"),

    Key::new("client.require_certificate", K::Flag, Default("false"),
        "serve only clients that show a certificate of the cluster's authority"),

    Key::new("cluster.seeds", K::HostPorts { count_max: SEEDS_MAX }, Nothing,
        "nodes to ask when joining, where clients reach them"),
    Key::new("cluster.join_token", K::Text { bytes_max: JOIN_TOKEN_BYTES_MAX }, Nothing,
        "lets the node join, once; `coda-admin cluster token create` makes it").secret(),

    Key::new("storage.sync_delay", K::Duration { ms_max: SYNC_DELAY_MS_MAX }, Default("0ms"),
        "added to every sync of the log; for benchmarks, never in production"),
    Key::new("storage.disk_reserve", K::Bytes { min: DISK_RESERVE_BYTES_MIN, max: DISK_RESERVE_BYTES_MAX }, Nothing,
        "writes are refused while less than this is free; without it 512 MiB, or a twentieth of a smaller disk"),

    Key::new("log.level", K::LogFilter, Default("info,openraft=warn"),
        "off, error, warn, info, debug, trace, or a filter with levels of single parts"),
    Key::new("log.format", K::Choice(&["text", "json"]), Default("text"),
        "for people or for programs"),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that somebody probably meant.
pub fn nearest(name: &str) -> &'static str {
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    // A key without its section is a mistake of its own.
    let distance = |key: &Key| {
        let whole = strsim::damerau_levenshtein(name, key.name);
        if name.contains('.') { whole } else { whole.min(strsim::damerau_levenshtein(name, last(key.name))) }
    };
    KEYS.iter().min_by_key(|key| distance(key)).map_or("", |key| key.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_section_and_a_key_and_stands_once() {
        for (index, key) in KEYS.iter().enumerate() {
            assert_eq!(key.name.split('.').count(), 2, "{}", key.name);
            assert!(!key.name.contains(SEPARATOR) && !key.about.is_empty(), "{}", key.name);
            assert!(KEYS[..index].iter().all(|other| other.name != key.name), "{}", key.name);
        }
        assert_eq!(
            find("listen.advertise_client").map(Key::variable).as_deref(),
            Some("CODA_LISTEN__ADVERTISE_CLIENT")
        );
    }

    #[test]
    fn what_was_meant_is_near() {
        for (typed, meant) in [
            ("listen.clinet", "listen.client"),
            ("lisen.client", "listen.client"),
            ("node.datadir", "node.data_dir"),
            ("tls.certificate", "tls.cert"),
            ("id", "node.id"),
            ("data_dir", "node.data_dir"),
            ("log.lvl", "log.level"),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
    }
}
