//! What a certificate says about itself. Reading proves nothing: who signed it is verified apart, by rustls.

use std::fmt;

use coda_protocol::ids::{ClusterId, NodeId, Timestamp};
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::error::IdentityError;
use super::names::ClientName;

/// Whose a certificate is, the authority's included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Authority(ClusterId),
    Peer(PeerIdentity),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdentity {
    Node { cluster: ClusterId, node: NodeId },
    Client { cluster: ClusterId, name: ClientName },
}

impl PeerIdentity {
    /// Reads it from a certificate whose chain has been verified.
    ///
    /// # Errors
    /// `CODA4207` for what is no certificate, `CODA4211` for one that is neither a node's nor a client's.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let what = "the peer's certificate";
        match Certificate::read(certificate, what)?.holder {
            Some(Holder::Peer(peer)) => Ok(peer),
            Some(Holder::Authority(_)) | None => Err(IdentityError::OtherPurpose {
                what: what.into(),
                expected: "a node's or a client's",
                why: "it names neither `coda:node:…` nor `coda:client:…`".into(),
            }),
        }
    }

    /// Whose certificate the other end of a connection has shown; none if it was not asked for one.
    ///
    /// # Errors
    /// As [`PeerIdentity::of`].
    pub(crate) fn shown(connection: &Connection) -> Result<Option<Self>, IdentityError> {
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        chain.as_ref().and_then(|chain| chain.first()).map(Self::of).transpose()
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        match self {
            Self::Node { cluster, .. } | Self::Client { cluster, .. } => *cluster,
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { node, .. } => write!(f, "node {}", node.0),
            Self::Client { name, .. } => write!(f, "client {name}"),
        }
    }
}

impl Holder {
    /// As it stands in the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Authority(cluster) => format!("coda:cluster:{cluster}"),
            Self::Peer(PeerIdentity::Node { cluster, node }) => format!("coda:node:{cluster}:{}", node.0),
            Self::Peer(PeerIdentity::Client { cluster, name }) => format!("coda:client:{cluster}:{name}"),
        }
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        match self {
            Self::Authority(cluster) => *cluster,
            Self::Peer(peer) => peer.cluster(),
        }
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let parts: Vec<&str> = uri.split(':').collect();
        let holder = match parts.as_slice() {
            ["coda", "cluster", cluster] => Self::Authority(cluster.parse().ok()?),
            ["coda", "node", cluster, node] => Self::Peer(PeerIdentity::Node {
                cluster: cluster.parse().ok()?,
                node: NodeId(node.parse().ok().filter(|id| *id > 0)?),
            }),
            ["coda", "client", cluster, name] => {
                Self::Peer(PeerIdentity::Client { cluster: cluster.parse().ok()?, name: name.parse().ok()? })
            }
            _ => return None,
        };
        // `+3` and `03` are numbers too, and would be second names of node 3; a cluster's id without hyphens is one too.
        (holder.uri() == uri).then_some(holder)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(_) => f.write_str("authority"),
            Self::Peer(peer) => peer.fmt(f),
        }
    }
}

/// A certificate, read.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Its common name.
    pub subject: String,
    /// None where it is not one of Coda's, such as those that `coda dev` made before there were clusters.
    pub holder: Option<Holder>,
    /// DNS names and addresses.
    pub hosts: Vec<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub is_authority: bool,
    pub for_servers: bool,
    pub for_clients: bool,
}

impl Certificate {
    /// Reads a certificate; `what` names it in errors.
    ///
    /// # Errors
    /// `CODA4207` for what is no certificate, and for one of Coda's that does not say clearly whose it is.
    pub fn read(der: &CertificateDer<'_>, what: &str) -> Result<Self, IdentityError> {
        let malformed = |why: String| IdentityError::Malformed { what: what.into(), why };
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the certificate".into()));
        }
        let error = |error: x509_parser::error::X509Error| malformed(error.to_string());
        let (mut holder, mut hosts) = (None, Vec::new());
        let names = parsed.subject_alternative_name().map_err(error)?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) if uri.starts_with("coda:") => {
                    let found = Holder::from_uri(uri);
                    if found.is_none() || holder.is_some() {
                        return Err(malformed(format!("it does not say clearly whose it is: `{uri}`")));
                    }
                    holder = found;
                }
                GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
                _ => {}
            }
        }
        let usage = parsed.extended_key_usage().map_err(error)?.map(|usage| usage.value);
        // Without the extension a certificate may be used for anything.
        let allows = |server: bool| usage.is_none_or(|u| u.any || if server { u.server_auth } else { u.client_auth });
        Ok(Self {
            subject: parsed
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .unwrap_or("")
                .into(),
            holder,
            hosts,
            not_before: timestamp(parsed.validity().not_before.timestamp()),
            not_after: timestamp(parsed.validity().not_after.timestamp()),
            is_authority: parsed.is_ca(),
            for_servers: allows(true),
            for_clients: allows(false),
        })
    }

    /// # Errors
    /// `CODA4208` after its end, `CODA4209` before its beginning.
    pub fn check_time(&self, what: &str, now: Timestamp) -> Result<(), IdentityError> {
        if now > self.not_after {
            return Err(IdentityError::Expired { what: what.into(), at: date(self.not_after) });
        }
        if now < self.not_before {
            return Err(IdentityError::NotYetValid { what: what.into(), from: date(self.not_before) });
        }
        Ok(())
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string())).ok()
}

fn timestamp(unix_s: i64) -> Timestamp {
    Timestamp(u64::try_from(unix_s).unwrap_or(0).saturating_mul(1_000))
}

/// A moment as people write it, in UTC.
#[must_use]
pub fn date(at: Timestamp) -> String {
    match OffsetDateTime::from_unix_timestamp(i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX)) {
        Ok(at) => {
            format!("{}-{:02}-{:02} {:02}:{:02} UTC", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute())
        }
        Err(_) => "a time far away".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_whose_a_certificate_is_and_has_one_form() {
        let cluster = ClusterId::random();
        let node = Holder::Peer(PeerIdentity::Node { cluster, node: NodeId(3) });
        let client = Holder::Peer(PeerIdentity::Client { cluster, name: "ci".parse().unwrap() });
        for holder in [Holder::Authority(cluster), node, client] {
            assert_eq!(Holder::from_uri(&holder.uri()), Some(holder));
        }
        for bad in [
            "coda:".to_owned(),
            "coda:cluster:1".to_owned(),
            format!("coda:cluster:{cluster}:1"),
            format!("coda:cluster:{}", cluster.to_string().to_uppercase()),
            format!("coda:cluster:{}", cluster.to_string().replace('-', "")),
            format!("coda:node:{cluster}"),
            format!("coda:node:{cluster}:0"),
            format!("coda:node:{cluster}:03"),
            format!("coda:node:{cluster}:+3"),
            format!("coda:node:{cluster}:3:4"),
            format!("coda:client:{cluster}:"),
            format!("coda:client:{cluster}:a b"),
            format!("coda:king:{cluster}:1"),
        ] {
            assert_eq!(Holder::from_uri(&bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&b""[..], b"\x30\x00", b"hello"] {
            assert_eq!(PeerIdentity::of(&CertificateDer::from(bytes)).unwrap_err().code(), "CODA4207");
        }
    }

    #[test]
    fn dates_are_written_in_utc() {
        assert_eq!(date(Timestamp(0)), "1970-01-01 00:00 UTC");
        assert_eq!(date(Timestamp(1_763_794_140_000)), "2025-11-22 06:49 UTC");
        assert_eq!(date(Timestamp(u64::MAX)), "a time far away");
    }
}
