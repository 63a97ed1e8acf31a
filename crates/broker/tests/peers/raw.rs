//! A connection that may say anything.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use coda_broker::identity::NodeIdentity;
use coda_broker::peers::{PeerFrame, PeerHello};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::soon;

pub struct Raw {
    pub connection: Connection,
    _endpoint: Endpoint,
}

impl Raw {
    /// With this certificate, or none.
    pub async fn connect(to: SocketAddr, tls: Option<&NodeIdentity>, alpn: &[u8]) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config(tls, alpn), to, "coda").unwrap();
        let connection = soon("a handshake", connecting).await?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    pub async fn peer(to: SocketAddr, tls: &NodeIdentity) -> Self {
        Self::connect(to, Some(tls), b"coda-peer/1").await.unwrap()
    }

    /// Connected and welcome; with the control stream.
    pub async fn greeted(to: SocketAddr, tls: &NodeIdentity, me: PeerHello) -> (Self, SendStream, RecvStream) {
        let raw = Self::peer(to, tls).await;
        let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
        let hello = PeerFrame::Hello { versions: (1, 1), hello: me };
        send.write_all(&hello.to_bytes()).await.unwrap();
        let welcome = soon("a welcome", frame(&mut recv)).await;
        assert!(matches!(welcome, PeerFrame::Welcome { version: 1, .. }), "{welcome:?}");
        (raw, send, recv)
    }

    /// Says this first, and nothing else.
    pub async fn says(&self, bytes: &[u8]) {
        // It may be closed before that.
        if let Ok((mut send, _recv)) = self.connection.open_bi().await {
            let _ = send.write_all(bytes).await;
            self.connection.closed().await;
        }
    }

    /// How the other end closed it.
    pub async fn closed(&self) -> (u64, String) {
        match soon("the connection is closed", self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
            }
            ConnectionError::ConnectionClosed(close) => (close.error_code.into(), close.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

pub async fn frame(recv: &mut RecvStream) -> PeerFrame {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    recv.read_exact(&mut body).await.unwrap();
    PeerFrame::decode(Bytes::from(body)).unwrap()
}

fn config(tls: Option<&NodeIdentity>, alpn: &[u8]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut client = match tls {
        Some(tls) => builder.with_client_auth_cert(tls.chain.clone(), tls.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![alpn.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(std::time::Duration::from_millis(200)));
    config.transport_config(Arc::new(transport));
    config
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
