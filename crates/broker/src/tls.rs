//! Certificates and keys, made on first start and kept: a node's own authority, its certificate, and the QUIC keys
//! that let its successor reset connections it does not know.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::RngCore;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// The name that clients verify, whatever address they dialled.
pub const SERVER_NAME: &str = "coda";

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE_CERT: &str = "node.pem";
const NODE_KEY: &str = "node.key";
const QUIC_KEYS: &str = "quic.key";

/// What the endpoint needs.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub ca_path: PathBuf,
    pub quic: QuicKeys,
}

/// Secrets that must outlive a restart, or clients would notice it only by silence.
#[derive(Clone, Copy)]
pub struct QuicKeys {
    pub reset: [u8; 64],
    pub connection_ids: u64,
}

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot use {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Loads the identity under `dir`, or makes one.
///
/// # Errors
/// When files cannot be read or written, or hold something else.
pub fn load_or_make(dir: &Path) -> Result<Identity, TlsError> {
    fs::create_dir_all(dir).map_err(|error| file_error(dir, error))?;
    let ca_path = dir.join(CA_CERT);
    // The node's key is written last: without it the set is incomplete and made again.
    if !dir.join(NODE_KEY).exists() {
        make(dir)?;
    }
    let chain_path = dir.join(NODE_CERT);
    let chain = CertificateDer::pem_file_iter(&chain_path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(&chain_path, error))?;
    let key_path = dir.join(NODE_KEY);
    let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|error| file_error(&key_path, error))?;
    Ok(Identity { chain, key, ca_path, quic: quic_keys(&dir.join(QUIC_KEYS))? })
}

fn make(dir: &Path) -> Result<(), TlsError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "coda authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca, &ca_key);

    let node_key = KeyPair::generate()?;
    let mut node = CertificateParams::new(vec![SERVER_NAME.into(), "localhost".into()])?;
    node.distinguished_name.push(DnType::CommonName, "coda node");
    node.subject_alt_names.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
    let node_cert = node.signed_by(&node_key, &issuer)?;

    write(&dir.join(CA_CERT), ca_cert.pem().as_bytes(), 0o644)?;
    write(&dir.join(CA_KEY), ca_key.serialize_pem().as_bytes(), 0o600)?;
    write(&dir.join(NODE_CERT), node_cert.pem().as_bytes(), 0o644)?;
    write(&dir.join(NODE_KEY), node_key.serialize_pem().as_bytes(), 0o600)
}

fn quic_keys(path: &Path) -> Result<QuicKeys, TlsError> {
    let bytes = match fs::read(path) {
        Ok(bytes) if bytes.len() == 72 => bytes,
        Ok(_) | Err(_) => {
            let mut bytes = vec![0; 72];
            rand::rng().fill_bytes(&mut bytes);
            write(path, &bytes, 0o600)?;
            bytes
        }
    };
    let (reset, ids) = bytes.split_at(64);
    Ok(QuicKeys {
        reset: reset.try_into().expect("64 bytes"),
        connection_ids: u64::from_be_bytes(ids.try_into().expect("8 bytes")),
    })
}

/// Writes a whole file or none of it.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let temporary = path.with_extension("tmp");
    let result = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    result.map_err(|error| file_error(path, error))
}

fn file_error(path: &Path, why: impl ToString) -> TlsError {
    TlsError::File { path: path.into(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path()).unwrap();
        let second = load_or_make(dir.path()).unwrap();
        assert_eq!(first.chain, second.chain);
        assert_eq!(first.quic.reset, second.quic.reset);
    }

    #[test]
    fn a_half_written_set_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        load_or_make(dir.path()).unwrap();
        fs::remove_file(dir.path().join(NODE_KEY)).unwrap();
        assert_eq!(load_or_make(dir.path()).unwrap().chain.len(), 1);
    }
}
