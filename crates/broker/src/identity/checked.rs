//! A node's identity, checked before it is used: what a client or peer would refuse is refused here, with a reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coda_protocol::ids::{NodeId, Timestamp};
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
use super::names::ClusterId;

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
        let (roots, expected) = load_roots(&files.ca, now)?;
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
        let roots = Arc::new(roots);
        verify(&chain, &roots, now).map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
            ) => IdentityError::OtherAuthority { what: what.clone(), ca: files.ca.clone() },
            other => other_purpose(other.to_string()),
        })?;
        warn_if_readable(&files.key);
        let (not_before, not_after) = (read.not_before, read.not_after);
        Ok(Self { chain, key, roots, cluster: Some(expected), not_before, not_after, quic })
    }

    /// Loads a set that the node has made itself.
    pub(super) fn trusted(files: &IdentityFiles, quic: QuicKeys) -> Result<Self, IdentityError> {
        let chain = files::read_certificates(&files.cert)?;
        let key = files::read_key(&files.key)?;
        let mut roots = RootCertStore::empty();
        for certificate in files::read_certificates(&files.ca)? {
            add(&mut roots, certificate, &files.ca)?;
        }
        let read = Certificate::read(&chain[0], &files.cert.display().to_string())?;
        let (not_before, not_after) = (read.not_before, read.not_after);
        let cluster = read.holder.map(|holder| holder.cluster());
        Ok(Self { chain, key, roots: Arc::new(roots), cluster, not_before, not_after, quic })
    }
}

/// The trust bundle, and the one cluster whose authorities it holds.
fn load_roots(path: &Path, now: Timestamp) -> Result<(RootCertStore, ClusterId), IdentityError> {
    let mut roots = RootCertStore::empty();
    let mut expected = None;
    let mut expired = None;
    for certificate in files::read_certificates(path)? {
        let (cluster, read) = authority_of(&certificate, path)?;
        let expected = *expected.get_or_insert(cluster);
        if cluster != expected {
            return Err(IdentityError::OtherCluster { what: path.display().to_string(), found: cluster, expected });
        }
        // TLS does not look at the dates of those it trusts. Of two, the one that has ended may still lie there.
        match read.check_time(&path.display().to_string(), now) {
            Ok(()) => add(&mut roots, certificate, path)?,
            Err(error) => {
                warn!(path = %path.display(), ends = %date(read.not_after), "an authority is not valid now, and not trusted");
                expired = Some(error);
            }
        }
    }
    match (expected, expired) {
        (Some(cluster), _) if !roots.is_empty() => Ok((roots, cluster)),
        (_, Some(error)) => Err(error),
        (_, None) => Err(IdentityError::Malformed { what: path.display().to_string(), why: "it is empty".into() }),
    }
}

fn add(roots: &mut RootCertStore, certificate: CertificateDer<'static>, path: &Path) -> Result<(), IdentityError> {
    let malformed =
        |error: rustls::Error| IdentityError::Malformed { what: path.display().to_string(), why: error.to_string() };
    roots.add(certificate).map_err(malformed)
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
