//! The certificate that a client shows where a node asks for one.

use std::fmt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::discover::read;
use crate::error::ClientError;

/// A certificate of the cluster's CA and its key, in PEM; `coda-admin cert client` makes them.
#[derive(Clone)]
pub struct ClientCertificate {
    pub cert_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

impl ClientCertificate {
    /// Reads both files, each named by an option or variable. Neither is fine; one without the other is not.
    ///
    /// # Errors
    /// [`ClientError::Unreadable`], and [`ClientError::BadCertificate`] when one of the two is missing.
    pub fn read(cert: Option<(&Path, &str)>, key: Option<(&Path, &str)>) -> Result<Option<Self>, ClientError> {
        let alone = |(_, named_by): (&Path, &str), other: &str| ClientError::BadCertificate {
            why: format!("{named_by} was given without the {other} that belongs to it"),
        };
        match (cert, key) {
            (None, None) => Ok(None),
            (Some(cert), None) => Err(alone(cert, "key")),
            (None, Some(key)) => Err(alone(key, "certificate")),
            (Some((cert, cert_named_by)), Some((key, key_named_by))) => {
                Ok(Some(Self { cert_pem: read(cert, cert_named_by)?, key_pem: read(key, key_named_by)? }))
            }
        }
    }

    pub(crate) fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ClientError> {
        let bad = |why: String| ClientError::BadCertificate { why };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| bad(error.to_string()))?;
        if chain.is_empty() {
            return Err(bad("it holds no certificate".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key_pem);
        Ok((chain, key.map_err(|error| bad(format!("its key cannot be read: {error}")))?))
    }
}

/// Keys are not for logs.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}
