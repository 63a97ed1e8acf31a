//! Who is let in where certificates are required of clients: whoever the cluster's authority has signed for.

use std::sync::Arc;

use coda_protocol::ids::ClusterId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::PeerIdentity;
use super::checked::NodeIdentity;
use super::files::provider;

/// Verifies as TLS does, and then that the certificate is of this cluster.
#[derive(Debug)]
struct ClientsOf {
    cluster: Option<ClusterId>,
    signed: Arc<dyn ClientCertVerifier>,
}

/// # Errors
/// When nobody is trusted.
pub fn clients_of(identity: &NodeIdentity) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let signed = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    Ok(Arc::new(ClientsOf { cluster: identity.cluster, signed }))
}

impl ClientCertVerifier for ClientsOf {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A client has one certificate or none: it need not choose.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.signed.verify_client_cert(certificate, chain, now)?;
        match PeerIdentity::of(certificate) {
            Ok(peer) if Some(peer.cluster()) == self.cluster => Ok(verified),
            Ok(_) | Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}
