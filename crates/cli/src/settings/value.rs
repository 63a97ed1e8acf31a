//! What a setting may be: its kinds, how each is written, and its bounds.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::args::parse_duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number {
        min: u64,
        max: u64,
    },
    Flag,
    Text {
        bytes_max: usize,
    },
    /// Relative ones count from where they are written: the file's folder, or the current one.
    Path,
    /// To listen on.
    Address,
    /// To dial.
    HostPort,
    HostPorts {
        count_max: usize,
    },
    Duration {
        ms_max: u64,
    },
    Bytes {
        min: u64,
        max: u64,
    },
    LogFilter,
    Choice(&'static [&'static str]),
}

/// As it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    /// In the environment or on the command line, where everything is text.
    Words(String),
    Text(String),
    Number(u64),
    Flag(bool),
    Texts(Vec<String>),
    /// Of a type that no setting has.
    Other(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Flag(bool),
    Text(String),
    Path(PathBuf),
    Address(SocketAddr),
    Texts(Vec<String>),
    Duration(Duration),
    Bytes(u64),
}

impl Kind {
    /// Reads a value, or says what would be one. `base` is where relative paths count from.
    pub fn read(self, raw: &Raw, base: &Path) -> Result<Value, String> {
        let found = match (self, raw) {
            (Self::Number { min, max }, Raw::Number(number)) => bounded(*number, min, max).map(Value::Number),
            (Self::Number { min, max }, Raw::Words(words)) => {
                words.parse().ok().and_then(|number| bounded(number, min, max)).map(Value::Number)
            }
            (Self::Flag, Raw::Flag(flag)) => Some(Value::Flag(*flag)),
            (Self::Flag, Raw::Words(words)) => words.parse().ok().map(Value::Flag),
            (Self::HostPorts { count_max }, Raw::Texts(texts)) => host_ports(texts, count_max),
            (Self::HostPorts { count_max }, Raw::Words(words)) => {
                host_ports(&words.split(',').map(|each| each.trim().to_owned()).collect::<Vec<_>>(), count_max)
            }
            (Self::Number { .. } | Self::Flag | Self::HostPorts { .. }, _) => None,
            (_, Raw::Text(text) | Raw::Words(text)) => self.read_text(text, base),
            (_, Raw::Number(_) | Raw::Flag(_) | Raw::Texts(_) | Raw::Other(_)) => None,
        };
        found.ok_or_else(|| self.to_string())
    }

    fn read_text(self, text: &str, base: &Path) -> Option<Value> {
        let value = match self {
            Self::Text { bytes_max } => {
                let good = (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control);
                good.then(|| Value::Text(text.to_owned()))?
            }
            Self::Path => (!text.is_empty()).then(|| Value::Path(base.join(text)))?,
            Self::Address => Value::Address(text.parse().ok()?),
            Self::HostPort => is_host_port(text).then(|| Value::Text(text.to_owned()))?,
            Self::Duration { ms_max } => {
                let duration = parse_duration(text).ok()?;
                (duration <= Duration::from_millis(ms_max)).then_some(Value::Duration(duration))?
            }
            Self::Bytes { min, max } => Value::Bytes(bounded(parse_bytes(text)?, min, max)?),
            Self::LogFilter => {
                (!text.is_empty() && EnvFilter::try_new(text).is_ok()).then(|| Value::Text(text.to_owned()))?
            }
            Self::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned()))?,
            Self::Number { .. } | Self::Flag | Self::HostPorts { .. } => return None,
        };
        Some(value)
    }
}

fn bounded(number: u64, min: u64, max: u64) -> Option<u64> {
    (min..=max).contains(&number).then_some(number)
}

fn host_ports(texts: &[String], count_max: usize) -> Option<Value> {
    let good = (1..=count_max).contains(&texts.len()) && texts.iter().all(|text| is_host_port(text));
    good.then(|| Value::Texts(texts.to_vec()))
}

/// Whether something can be dialled: a name or an address, and a port.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let has_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    };
    has_port && is_host
}

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn parse_bytes(text: &str) -> Option<u64> {
    let (unit, scale) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(*scale)
}

/// In the largest unit that needs no fraction.
fn format_bytes(bytes: u64) -> String {
    let (unit, scale) = UNITS.iter().find(|(_, scale)| bytes.is_multiple_of(*scale)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// What would be a value: "write …".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Flag => f.write_str("true or false"),
            Self::Text { bytes_max } => write!(f, "a text of 1 to {bytes_max} bytes without control characters"),
            Self::Path => f.write_str("a path"),
            Self::Address => f.write_str("an IP address and a port, such as 0.0.0.0:4747 or [::]:4747"),
            Self::HostPort => f.write_str("a host and a port, such as node-3.example:4747"),
            Self::HostPorts { count_max } => write!(f, "1 to {count_max} times a host and a port"),
            Self::Duration { ms_max } => write!(f, "a duration of at most {ms_max}ms, such as 2ms"),
            Self::Bytes { min, max } => {
                write!(f, "a size from {} to {}, such as 2GiB", format_bytes(*min), format_bytes(*max))
            }
            Self::LogFilter => f.write_str("a level such as info, or a filter such as coda_broker=debug"),
            Self::Choice(words) => f.write_str(&words.join(" or ")),
        }
    }
}

/// As it was written, for errors.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(text) | Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Texts(texts) => write!(f, "[{}]", texts.join(", ")),
            Self::Other(what) => write!(f, "<{what}>"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Path(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Texts(texts) => f.write_str(&texts.join(", ")),
            Self::Duration(duration) => write!(f, "{}ms", duration.as_millis()),
            Self::Bytes(bytes) => f.write_str(&format_bytes(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, text: &str) -> Result<String, String> {
        kind.read(&Raw::Words(text.into()), Path::new("/etc/coda")).map(|value| value.to_string())
    }

    #[test]
    fn each_kind_takes_what_it_says_and_nothing_else() {
        let number = Kind::Number { min: 1, max: 9 };
        let duration = Kind::Duration { ms_max: 1_000 };
        let bytes = Kind::Bytes { min: 1 << 10, max: 1 << 40 };
        let good = [
            (number, "9", "9"),
            (Kind::Flag, "true", "true"),
            (Kind::Text { bytes_max: 4 }, "eu-1", "eu-1"),
            (Kind::Path, "certs/a", "/etc/coda/certs/a"),
            (Kind::Path, "/a", "/a"),
            (Kind::Address, "[::]:1", "[::]:1"),
            (Kind::HostPort, "a.b:4747", "a.b:4747"),
            (Kind::HostPort, "[::1]:4747", "[::1]:4747"),
            (Kind::HostPorts { count_max: 2 }, "a:1, b:2", "a:1, b:2"),
            (duration, "1s", "1000ms"),
            (bytes, "2GiB", "2GiB"),
            (bytes, "1536 KiB", "1536KiB"),
            (Kind::LogFilter, "warn,coda_broker=debug", "warn,coda_broker=debug"),
            (Kind::Choice(&["text", "json"]), "json", "json"),
        ];
        for (kind, text, expected) in good {
            assert_eq!(read(kind, text).as_deref(), Ok(expected), "{kind:?}");
        }
        let bad = [
            (number, &["", "0", "10", "-1", "1.5", "+ 1", "x"][..]),
            (Kind::Flag, &["", "yes", "1", "True"]),
            (Kind::Text { bytes_max: 4 }, &["", "12345", "a\n"]),
            (Kind::Path, &[""]),
            (Kind::Address, &["", "4747", "host:4747", "0.0.0.0", "0.0.0.0:70000"]),
            (Kind::HostPort, &["", "a", "a:", ":1", "a:0", "a b:1", "https://a:1", "::1:1", "[x]:1"]),
            (Kind::HostPorts { count_max: 2 }, &["", "a:1,", "a:1,b:2,c:3"]),
            (duration, &["", "1001ms", "-1s", "1y"]),
            (bytes, &["", "1B", "2TiB", "5", "1GB", "-1MiB", "99999999999999TiB"]),
            (Kind::LogFilter, &["", "coda=loud", "a=b=c"]),
            (Kind::Choice(&["text", "json"]), &["", "xml", "Text"]),
        ];
        for (kind, texts) in bad {
            for text in texts {
                assert_eq!(read(kind, text), Err(kind.to_string()), "{kind:?} {text}");
            }
        }
    }

    #[test]
    fn in_a_file_a_value_has_a_type() {
        let base = Path::new("");
        let number = Kind::Number { min: 1, max: 9 };
        assert_eq!(number.read(&Raw::Number(3), base), Ok(Value::Number(3)));
        assert!(number.read(&Raw::Text("3".into()), base).is_err());
        assert!(Kind::Flag.read(&Raw::Text("true".into()), base).is_err());
        assert!(Kind::Path.read(&Raw::Number(3), base).is_err());
        assert!(Kind::Address.read(&Raw::Other("table"), base).is_err());
        let seeds = Raw::Texts(vec!["a:1".into(), "b:2".into()]);
        assert!(Kind::HostPorts { count_max: 2 }.read(&seeds, base).is_ok());
        assert!(Kind::HostPorts { count_max: 2 }.read(&Raw::Texts(vec![]), base).is_err());
    }
}
