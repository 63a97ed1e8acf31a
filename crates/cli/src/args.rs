//! Options that every command takes, and how durations are written.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};
use coda_protocol::ids::{GroupId, NodeId};
use coda_protocol::limits::{GROUPS_MAX, NODE_ID_MAX};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Nodes to connect to, several separated by commas. Without it: the nearest `.coda/client.json`
    #[arg(long, global = true, env = "CODA_ADDRESS", hide_env_values = true, value_name = "HOST:PORT")]
    pub address: Option<String>,

    /// The cluster's CA certificate, a PEM file
    #[arg(long, global = true, env = "CODA_CA", hide_env_values = true, value_name = "FILE")]
    pub ca: Option<OsString>,

    /// This program's own certificate, a PEM file, where nodes ask for one
    #[arg(long, global = true, env = "CODA_CERT", hide_env_values = true, value_name = "FILE")]
    pub cert: Option<OsString>,

    /// Its key
    #[arg(long, global = true, env = "CODA_KEY", hide_env_values = true, value_name = "FILE")]
    pub key: Option<OsString>,

    /// Give up after this long, e.g. 500ms, 10s, 5m [default: 10s; no limit where a result is awaited]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,

    /// How data is printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,

    /// No colours. They are also off when piped, and by NO_COLOR
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: one document, stable names
    Json,
}

/// Reads `250ms`, `30s`, `5m`, `1h`, `2d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number and a unit, such as 250ms, 30s, 5m, 1h or 2d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a whole number and a unit, such as 30s".to_owned())?;
    number.checked_mul(scale_ms).map(Duration::from_millis).ok_or_else(|| "that is too long".to_owned())
}

pub fn parse_node(text: &str) -> Result<NodeId, String> {
    let node = text.parse().ok().filter(|node| (1..=NODE_ID_MAX).contains(node));
    node.map(NodeId).ok_or_else(|| format!("nodes are numbers from 1 to {NODE_ID_MAX}"))
}

/// 0 is the meta group.
pub fn parse_group(text: &str) -> Result<GroupId, String> {
    let group = text.parse().ok().filter(|group| *group <= u32::from(GROUPS_MAX));
    group.map(GroupId).ok_or_else(|| format!("groups are numbers from 0, the meta group, to {GROUPS_MAX}"))
}

/// Reads `section.key=value`. Whether there is such a key is for the settings to say.
pub fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as log.level=debug")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_count_from_1_and_groups_from_0() {
        assert_eq!((parse_node("1"), parse_node("65535")), (Ok(NodeId(1)), Ok(NodeId(65_535))));
        assert_eq!((parse_group("0"), parse_group("256")), (Ok(GroupId(0)), Ok(GroupId(256))));
        for text in ["", "-1", "node-1", "65536", "99999999999999999999"] {
            assert!(parse_node(text).is_err() && parse_group(text).is_err(), "{text}");
        }
        assert!(parse_node("0").is_err());
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let ms = |text| parse_duration(text).map(|duration| duration.as_millis());
        let texts = ["250ms", "30s", "5m", "1h", "2d", "7", "0s"];
        assert_eq!(texts.map(|text| ms(text).unwrap()), [250, 30_000, 300_000, 3_600_000, 172_800_000, 7_000, 0]);
        for text in ["", "s", "1.5s", "-1s", "5 m", "5w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(ms(text).is_err(), "{text}");
        }
    }
}
