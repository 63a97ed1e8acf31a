//! A node's identity, checked before it is used: what a client or peer would refuse is refused here, with a reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coda_protocol::ids::{ClusterId, NodeId, Timestamp};
use rand::RngCore;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use tracing::warn;

use super::SERVER_NAME;
use super::authority::authority_of;
use super::certificate::{Certificate, Holder, PeerIdentity, date};
use super::error::IdentityError;
use super::files::{self, SECRET, provider};

/// Where a node's certificates lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Who is trusted: the cluster's authority, two of them while one takes over from the other.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Secrets that must outlive a restart, or clients would notice it only by silence.
#[derive(Clone, Copy)]
pub struct QuicKeys {
    pub reset: [u8; 64],
    pub connection_ids: u64,
}

impl QuicKeys {
    /// Reads them, or makes them where there are none.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub fn keep(path: &Path) -> Result<Self, IdentityError> {
        let bytes = match fs::read(path) {
            Ok(bytes) if bytes.len() == 72 => bytes,
            Ok(_) | Err(_) => {
                let mut bytes = vec![0; 72];
                rand::rng().fill_bytes(&mut bytes);
                files::write(path, &bytes, SECRET)?;
                bytes
            }
        };
        let (reset, ids) = bytes.split_at(64);
        Ok(Self {
            reset: reset.try_into().expect("64 bytes"),
            connection_ids: u64::from_be_bytes(ids.try_into().expect("8 bytes")),
        })
    }
}

/// What the node's endpoints need.
pub struct NodeIdentity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Who is trusted, as certificates and as rustls wants them.
    pub authorities: Vec<CertificateDer<'static>>,
    pub roots: Arc<RootCertStore>,
    /// None for a set that `coda dev` made before clusters had ids.
    pub cluster: Option<ClusterId>,
    /// When the node's certificate begins and ends.
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub quic: QuicKeys,
}

impl NodeIdentity {
    /// Loads a set that people made, and checks all that its users will: who signed it and for what, whose it is, when
    /// it is valid, and that the parts belong together.
    ///
    /// # Errors
    /// Each mistake has its code; see [`IdentityError`].
    pub fn load(files: &IdentityFiles, node: NodeId, quic: QuicKeys, now: Timestamp) -> Result<Self, IdentityError> {
        let Trusted { authorities, cluster: expected } = trusted(&files.ca, now)?;
        let roots = Arc::new(store(&authorities, &files.ca)?);
        let chain = files::read_certificates(&files.cert)?;
        let what = files.cert.display().to_string();
        let read = Certificate::read(&chain[0], &what)?;
        let other_purpose =
            |why: String| IdentityError::OtherPurpose { what: what.clone(), expected: "a node's certificate", why };
        match &read.holder {
            Some(Holder::Peer(PeerIdentity::Node { cluster, node: found })) => {
                if *cluster != expected {
                    return Err(IdentityError::OtherCluster { what, found: *cluster, expected });
                }
                if *found != node {
                    return Err(IdentityError::OtherNode { what, found: *found, expected: node });
                }
            }
            Some(Holder::Peer(peer @ PeerIdentity::Client { .. })) => {
                return Err(other_purpose(format!("it is that of {peer}")));
            }
            Some(Holder::Authority(_)) => return Err(other_purpose("it is an authority's".into())),
            None => return Err(other_purpose("it names no `coda:node:…`".into())),
        }
        read.check_time(&what, now)?;
        let key = files::read_key(&files.key)?;
        if !files::keys_match(&chain, &key, &files.key)? {
            return Err(IdentityError::KeyMismatch { certificate: files.cert.clone(), key: files.key.clone() });
        }
        verify(&chain, &roots, now).map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
            ) => IdentityError::OtherAuthority { what: what.clone(), ca: files.ca.clone() },
            other => other_purpose(other.to_string()),
        })?;
        warn_if_readable(&files.key);
        let (not_before, not_after) = (read.not_before, read.not_after);
        Ok(Self { chain, key, authorities, roots, cluster: Some(expected), not_before, not_after, quic })
    }

    /// Loads a set that the node has made itself.
    pub(super) fn made(files: &IdentityFiles, quic: QuicKeys) -> Result<Self, IdentityError> {
        let chain = files::read_certificates(&files.cert)?;
        let key = files::read_key(&files.key)?;
        let authorities = files::read_certificates(&files.ca)?;
        let roots = Arc::new(store(&authorities, &files.ca)?);
        let read = Certificate::read(&chain[0], &files.cert.display().to_string())?;
        let (not_before, not_after) = (read.not_before, read.not_after);
        let cluster = read.holder.map(|holder| holder.cluster());
        Ok(Self { chain, key, authorities, roots, cluster, not_before, not_after, quic })
    }
}

/// A trust bundle: the authorities that are valid now, all of one cluster.
struct Trusted {
    authorities: Vec<CertificateDer<'static>>,
    cluster: ClusterId,
}

fn trusted(path: &Path, now: Timestamp) -> Result<Trusted, IdentityError> {
    let what = path.display().to_string();
    let mut authorities = Vec::new();
    let (mut expected, mut untimely) = (None, None);
    for certificate in files::read_certificates(path)? {
        let (found, read) = authority_of(&certificate, path)?;
        let expected = *expected.get_or_insert(found);
        if found != expected {
            return Err(IdentityError::OtherCluster { what, found, expected });
        }
        // TLS does not look at the dates of those it trusts. Of two, the one that has ended may still lie there.
        match read.check_time(&what, now) {
            Ok(()) => authorities.push(certificate),
            Err(error) => {
                warn!(path = %what, ends = %date(read.not_after), "an authority is not valid now, and not trusted");
                untimely = Some(error);
            }
        }
    }
    match (expected, untimely) {
        (Some(cluster), _) if !authorities.is_empty() => Ok(Trusted { authorities, cluster }),
        (_, Some(error)) => Err(error),
        (_, None) => Err(IdentityError::Malformed { what, why: "it is empty".into() }),
    }
}

fn store(authorities: &[CertificateDer<'static>], path: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority.clone())
            .map_err(|error| IdentityError::Malformed { what: path.display().to_string(), why: error.to_string() })?;
    }
    Ok(roots)
}

/// As clients will verify it, and as peers will.
fn verify(chain: &[CertificateDer<'static>], roots: &Arc<RootCertStore>, now: Timestamp) -> Result<(), rustls::Error> {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    let general = |error: rustls::client::VerifierBuilderError| rustls::Error::General(error.to_string());
    let (own, rest) = (&chain[0], &chain[1..]);
    let name = ServerName::try_from(SERVER_NAME).expect("a constant");
    let as_server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).build().map_err(general)?;
    as_server.verify_server_cert(own, rest, &name, &[], now)?;
    let as_client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build().map_err(general)?;
    as_client.verify_client_cert(own, rest, now)?;
    Ok(())
}

/// Only said: where secrets are mounted into a container, the mount may be what protects them.
fn warn_if_readable(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if fs::metadata(key).is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
        warn!(key = %key.display(), "everyone on this machine can read the node's key");
    }
}
