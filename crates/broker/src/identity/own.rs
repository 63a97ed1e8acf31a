//! The set that a node makes for itself on its first start and keeps: an authority, a certificate, and its QUIC keys.
//! For `coda dev`, where one machine is the cluster.

use std::path::Path;

use coda_protocol::ids::NodeId;

use super::authority::{Authority, CA_CERT, Lifetime};
use super::checked::{IdentityFiles, NodeIdentity, QuicKeys};
use super::error::IdentityError;
use super::files;

/// As in files that `coda-admin cert node` writes.
const NODE: &str = "node";
const NODE_CERT: &str = "node.pem";
const NODE_KEY: &str = "node.key";
pub const QUIC_KEYS: &str = "quic.key";
/// Where a program on the same machine may dial, beside `coda`.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Loads the identity under `dir`, or makes one.
///
/// # Errors
/// When files cannot be read or written, or hold something else.
pub fn load_or_make(dir: &Path, node: NodeId) -> Result<NodeIdentity, IdentityError> {
    files::make_folder(dir)?;
    let files = IdentityFiles { ca: dir.join(CA_CERT), cert: dir.join(NODE_CERT), key: dir.join(NODE_KEY) };
    // Without one of them the set is incomplete and made again.
    if !files.cert.exists() || !files.key.exists() {
        make(dir, node)?;
    }
    NodeIdentity::made(&files, QuicKeys::keep(&dir.join(QUIC_KEYS))?)
}

fn make(dir: &Path, node: NodeId) -> Result<(), IdentityError> {
    let authority = Authority::found(&"coda-dev".parse()?, Lifetime::unlimited())?;
    authority.save(dir, true)?;
    let hosts = HOSTS.map(str::parse).into_iter().collect::<Result<Vec<_>, _>>()?;
    // The node's certificate is written last.
    authority.node(node, &hosts, Lifetime::unlimited())?.save(dir, NODE, true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(dir: &Path) -> NodeIdentity {
        load_or_make(dir, NodeId(1)).unwrap()
    }

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (load(dir.path()), load(dir.path()));
        assert_eq!(first.chain, second.chain);
        assert_eq!(first.quic.reset, second.quic.reset);
        assert_eq!(first.cluster, second.cluster);
    }

    #[test]
    fn a_half_written_set_is_made_again() {
        for missing in [NODE_KEY, NODE_CERT] {
            let dir = tempfile::tempdir().unwrap();
            let first = load(dir.path());
            fs::remove_file(dir.path().join(missing)).unwrap();
            let second = load(dir.path());
            assert_eq!(second.chain.len(), 1);
            assert_ne!(first.chain, second.chain);
        }
    }

    #[test]
    fn a_set_of_an_earlier_version_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        // As versions before clusters had ids made it: no URI anywhere.
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let node_key = rcgen::KeyPair::generate().unwrap();
        let node = rcgen::CertificateParams::new(vec!["coda".into(), "localhost".into()]).unwrap();
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let node_cert = node.signed_by(&node_key, &rcgen::Issuer::from_params(&ca, &ca_key)).unwrap();
        fs::write(dir.path().join(CA_CERT), ca_cert.pem()).unwrap();
        fs::write(dir.path().join(NODE_CERT), node_cert.pem()).unwrap();
        fs::write(dir.path().join(NODE_KEY), node_key.serialize_pem()).unwrap();
        let loaded = load(dir.path());
        assert_eq!(loaded.chain[0], *node_cert.der());
        assert_eq!(loaded.cluster, None);
    }
}
