//! What may stand in a certificate: names and hosts, checked before anything is signed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::DnsName;
use smol_str::SmolStr;

use super::error::IdentityError;

/// X.520 allows a common name no more.
const NAME_BYTES_MAX: usize = 64;

/// What people call a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(SmolStr);

/// Whose a client's certificate is: a service, a machine, a person.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientName(SmolStr);

impl ClusterName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClientName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        name(text, "a cluster's name").map(Self)
    }
}

impl FromStr for ClientName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        name(text, "a client's name").map(Self)
    }
}

/// Characters that mean nothing in a URI, a file name or a shell.
fn name(text: &str, what: &str) -> Result<SmolStr, IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(SmolStr::new(text));
    }
    let why = format!(
        "`{text}` is not {what}: use 1 to {NAME_BYTES_MAX} letters, digits, hyphens, underscores and full stops"
    );
    Err(IdentityError::BadInput { why })
}

/// A host that a node's certificate names, beside [`super::SERVER_NAME`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match DnsName::try_from(text) {
            Ok(name) => Ok(Self::Name(name.as_ref().to_ascii_lowercase())),
            Err(_) => Err(IdentityError::BadInput {
                why: format!("`{text}` is not a host: write a DNS name or an IP address, without a port"),
            }),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_stays_itself_in_a_uri_and_in_a_file_name() {
        for good in ["ci", "shop-1", "a.b_c", &"x".repeat(64)] {
            assert_eq!(good.parse::<ClientName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a:b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<ClusterName>().unwrap_err().code(), "CODA4216", "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_dns_name_or_an_address() {
        assert_eq!("10.0.0.3".parse::<Host>().unwrap(), Host::Address([10, 0, 0, 3].into()));
        assert_eq!("::1".parse::<Host>().unwrap(), Host::Address("::1".parse().unwrap()));
        assert_eq!("Node-3.example".parse::<Host>().unwrap(), Host::Name("node-3.example".into()));
        for bad in ["", "a:4747", "[::1]", "a b", "https://a", "-a", "a..b"] {
            assert_eq!(bad.parse::<Host>().unwrap_err().code(), "CODA4216", "{bad}");
        }
    }
}
