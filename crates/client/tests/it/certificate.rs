//! The client's own certificate: what is wrong with it is told before anything is sent.

use coda_client::{ClientCertificate, ConnectOptions, Link};
use rcgen::{CertificateParams, KeyPair};

use crate::node::{Node, within};

fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_told_at_once() {
    let node = Node::start();
    let ((cert, key), (_, other)) = (certificate(), certificate());
    for (cert_pem, key_pem, why) in [
        ("", key.as_str(), "no certificate"),
        (cert.as_str(), "", "its key cannot be read"),
        ("nonsense", "nonsense", "no certificate"),
        (cert.as_str(), other.as_str(), "keys may not be consistent"),
    ] {
        let certificate = ClientCertificate { cert_pem: cert_pem.into(), key_pem: key_pem.into() };
        let options = ConnectOptions { certificate: Some(certificate), ..node.options() };
        let error = within(Link::open(options)).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "CODA4227");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_asks_for_none_is_shown_none_and_serves() {
    let node = Node::start();
    let (cert, key) = certificate();
    let certificate = ClientCertificate { cert_pem: cert.into(), key_pem: key.into() };
    let options = ConnectOptions { certificate: Some(certificate), ..node.options() };
    let (opened, peer) = tokio::join!(Link::open(options), node.accept());
    assert!(opened.is_ok() && peer.connection.peer_identity().is_none());
}
