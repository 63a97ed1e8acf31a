//! Mutual TLS 1.3 between nodes, and QUIC's settings for it. Each end checks that the other's certificate comes from the
//! cluster's authority; whose certificate it is, is checked by [`crate::peers::greet`], which can explain itself.
//!
//! Deliberately absent: tickets and 0-RTT. Every connection is a full handshake, so that a certificate that was replaced
//! or has expired opens no further one, and nothing can be replayed.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ServerConfig, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::endpoint::bound_incoming;
use crate::identity::{NodeIdentity, PeerIdentity, provider};
use crate::peers::PeerEndpointError;
use crate::peers::hello::PeerHello;
use crate::peers::limits::{
    ALPN_PEER, CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, IDLE_TIMEOUT, INITIAL_RTT, KEEP_ALIVE, STREAM_WINDOW_BYTES,
    UNGREETED_WINDOW_BYTES,
};

/// Both ends' configuration, for the node that says this of itself.
///
/// # Errors
/// [`PeerEndpointError::Certificate`] when the certificate cannot be used, or is another node's.
pub fn configs(identity: &NodeIdentity, me: &PeerHello) -> Result<(ServerConfig, ClientConfig), PeerEndpointError> {
    let first = identity.chain.first().ok_or_else(|| bad(&"there is no certificate"))?;
    let found = PeerIdentity::of(first).map_err(|error| bad(&error))?;
    if found != (PeerIdentity::Node { cluster: me.cluster, node: me.node }) {
        let (node, cluster) = (me.node, me.cluster);
        let of = found.cluster();
        return Err(bad(&format_args!("it is that of {found} of cluster {of}, and this is node {node} of {cluster}")));
    }
    Ok((server(identity)?, client(identity)?))
}

fn server(identity: &NodeIdentity) -> Result<ServerConfig, PeerEndpointError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider());
    // A node has one certificate: it need not choose.
    let verifier = verifier.clear_root_hint_subjects().build().map_err(|error| bad(&error))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| bad(&error))?;
    tls.alpn_protocols = vec![ALPN_PEER.to_vec()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| bad(&error))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport();
    // The control stream, and nothing else and not much, until the hello is understood: see `serve`.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1)).receive_window(VarInt::from_u32(UNGREETED_WINDOW_BYTES));
    // Nodes do not wander while they are connected; a node at another address dials again.
    server.transport_config(Arc::new(transport)).max_incoming(CONNECTIONS_MAX).migration(false);
    bound_incoming(&mut server);
    Ok(server)
}

fn client(identity: &NodeIdentity) -> Result<ClientConfig, PeerEndpointError> {
    let algorithms = provider().signature_verification_algorithms;
    let verifier = OfCluster { roots: identity.roots.clone(), algorithms };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| bad(&error))?;
    tls.alpn_protocols = vec![ALPN_PEER.to_vec()];
    tls.enable_early_data = false;
    tls.resumption = Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| bad(&error))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    // Who is dialled answers on the streams of who dialled, and opens none.
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("a few seconds fit")))
        .keep_alive_interval(Some(KEEP_ALIVE));
    transport
}

fn bad(why: &dyn std::fmt::Display) -> PeerEndpointError {
    PeerEndpointError::Certificate(why.to_string())
}

/// Accepts what the cluster's authority has signed, under whatever address it was dialled: nodes are known by the name
/// in their certificate and not by where they are.
#[derive(Debug)]
struct OfCluster {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OfCluster {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
