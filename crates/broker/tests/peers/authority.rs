//! A cluster's authority, and the certificates that it issues.

use std::sync::Arc;

use coda_broker::identity::{Holder, NodeIdentity, PeerIdentity};
use coda_protocol::ids::{ClusterId, NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::side::quic_keys;

pub struct Authority {
    pub certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// For a node, which trusts this authority alone.
    pub fn issue(&self, cluster: ClusterId, node: u64) -> NodeIdentity {
        self.issue_with(node, &[&name(cluster, node)], |_| ())
    }

    /// With other names than a node has.
    pub fn issue_named(&self, uris: &[&str]) -> NodeIdentity {
        self.issue_with(0, uris, |_| ())
    }

    /// One that was good until last year.
    pub fn issue_expired(&self, cluster: ClusterId, node: u64) -> NodeIdentity {
        let was = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        self.issue_with(node, &[&name(cluster, node)], was)
    }

    /// As a client has it.
    pub fn issue_for_client(&self, cluster: ClusterId) -> NodeIdentity {
        let client = Holder::Peer(PeerIdentity::Client { cluster, name: "ci".parse().unwrap() });
        let usages = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        self.issue_with(0, &[&client.uri()], usages)
    }

    fn issue_with(&self, node: u64, uris: &[&str], change: impl Fn(&mut CertificateParams)) -> NodeIdentity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "coda node");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        NodeIdentity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            authorities: vec![self.certificate.clone()],
            roots: store(&[&self.certificate]),
            cluster: None,
            not_before: Timestamp(0),
            not_after: Timestamp(u64::MAX),
            quic: quic_keys(node),
        }
    }
}

/// What a node's certificate says.
pub fn name(cluster: ClusterId, node: u64) -> String {
    Holder::Peer(PeerIdentity::Node { cluster, node: NodeId(node) }).uri()
}

pub fn store(authorities: &[&CertificateDer<'static>]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add((*authority).clone()).unwrap();
    }
    Arc::new(roots)
}
