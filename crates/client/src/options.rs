//! How to reach a cluster, and every bound and time of this crate.

use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::SessionId;
use coda_protocol::limits::{REQUESTS_IN_FLIGHT_MAX, SUBSCRIPTIONS_PER_SESSION_MAX};
use smol_str::SmolStr;

use crate::certificate::ClientCertificate;
use crate::error::ClientError;
use crate::network::{Network, SystemNetwork};

/// The port of a node's client endpoint when an address names none.
pub const PORT_DEFAULT: u16 = 4747;
/// How long `open` waits for a first node, unless told otherwise.
pub const CONNECT_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// One attempt at one address is given up after this; the next address may answer.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2_000);
/// Delays between attempts grow between these, with jitter.
pub(crate) const RECONNECT_MIN: Duration = Duration::from_millis(20);
pub(crate) const RECONNECT_MAX: Duration = Duration::from_millis(1_000);
/// Without any connection for so long, the program's own addresses are tried again: the cluster may have moved.
pub(crate) const SEEDS_AGAIN_AFTER: Duration = Duration::from_millis(5_000);
/// A connection that lived at least this long was a good one: delays start again from the smallest.
pub(crate) const STABLE_AFTER: Duration = Duration::from_millis(1_000);
/// Delays before a request that was refused as unavailable is sent again.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(5);
pub(crate) const RETRY_MAX: Duration = Duration::from_millis(1_000);
/// A node that asks for more time than this gets this much.
pub(crate) const RETRY_ASKED_MAX: Duration = Duration::from_secs(60);
/// How long a clean close waits for its goodbye to leave.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Unanswered waits for results of one link: a quarter of the node's bound stays free for everything else.
pub(crate) const WAITS_IN_FLIGHT_MAX: usize = REQUESTS_IN_FLIGHT_MAX / 4 * 3;
/// Unanswered requests that are answered promptly. Greetings and hand-backs are not counted here, so room stays for them.
pub(crate) const PROMPT_IN_FLIGHT_MAX: usize =
    REQUESTS_IN_FLIGHT_MAX - WAITS_IN_FLIGHT_MAX - 2 * SUBSCRIPTIONS_PER_SESSION_MAX;
/// Bytes of unanswered requests that one link keeps to be able to send them again.
pub(crate) const IN_FLIGHT_KIB_MAX: usize = 64 << 10;
/// Events that may wait for the program before the link stops reading.
pub(crate) const EVENTS_MAX: usize = 4_096;
/// One write to the stream takes whole frames until it has this many bytes.
pub(crate) const WRITE_BYTES_MAX: usize = 256 << 10;

/// How to reach a cluster, and as whom.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `host:port` of one or more nodes.
    pub addresses: Vec<String>,
    /// The cluster's CA certificates. Nodes are verified against these alone, under the name `coda`.
    pub ca_pem: Vec<u8>,
    /// Shown to nodes that ask for one. Read once: a program that has been given a new one is started again.
    pub certificate: Option<ClientCertificate>,
    /// This process's identity across reconnects. Two live processes must never share one.
    pub session: SessionId,
    /// Program and version, for the node's logs and status.
    pub agent: SmolStr,
    /// How long `open` waits for a first node to answer. Later the link reconnects for ever.
    pub connect_timeout: Duration,
    /// Connect to nodes too that are in no cluster yet: for those who bring them into one.
    pub outside: bool,
    /// Where its socket comes from: the machine, but in simulations.
    #[doc(hidden)]
    pub network: Arc<dyn Network>,
}

impl ConnectOptions {
    /// Options with a fresh session and the default agent and timeout.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`]; the CA is checked when it is used.
    pub fn new(addresses: &str, ca_pem: impl Into<Vec<u8>>) -> Result<Self, ClientError> {
        Ok(Self {
            addresses: parse_addresses(addresses)?,
            ca_pem: ca_pem.into(),
            certificate: None,
            session: SessionId::random(),
            agent: SmolStr::new_static(concat!("coda-rust/", env!("CARGO_PKG_VERSION"))),
            connect_timeout: Duration::from_millis(CONNECT_TIMEOUT_MS_DEFAULT),
            outside: false,
            network: Arc::new(SystemNetwork),
        })
    }
}

/// Splits `host[:port],host[:port]` and adds the default port where none is given.
pub(crate) fn parse_addresses(text: &str) -> Result<Vec<String>, ClientError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let addresses = parts.map(parse_address).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() {
        return Err(ClientError::BadAddress { address: text.to_owned() });
    }
    Ok(addresses)
}

fn parse_address(text: &str) -> Result<String, ClientError> {
    let bad = || ClientError::BadAddress { address: text.to_owned() };
    // `::1` and `[::1]` are hosts whose colons separate no port.
    let bare_v6 = text.parse::<std::net::Ipv6Addr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        _ if bare_v6 => return Ok(format!("[{text}]:{PORT_DEFAULT}")),
        Some((host, port)) if !text.ends_with(']') => (host, port.parse::<u16>().map_err(|_| bad())?),
        _ => (text, PORT_DEFAULT),
    };
    let good = !host.is_empty() && port != 0 && !host.chars().any(|c| c.is_whitespace() || c == '/');
    if good { Ok(format!("{host}:{port}")) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_default() {
        assert_eq!(parse_addresses("a, b:1 ,10.0.0.1").unwrap(), ["a:4747", "b:1", "10.0.0.1:4747"]);
        assert_eq!(parse_addresses("::1,[::1],[::1]:9").unwrap(), ["[::1]:4747", "[::1]:4747", "[::1]:9"]);
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_code() {
        for text in ["", ",", "https://a:1", "a:b", "a:0", "a:70000", ":1"] {
            assert_eq!(parse_addresses(text).unwrap_err().code(), "CODA4002", "{text}");
        }
    }
}
