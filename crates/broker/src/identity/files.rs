//! PEM files: read with a bound, written whole or not at all.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::error::IdentityError;

/// Nobody's chain or bundle is as large; what is larger was named by mistake.
const PEM_BYTES_MAX: u64 = 1 << 20;

pub(super) const PUBLIC: u32 = 0o644;
pub(super) const SECRET: u32 = 0o600;

/// The certificates of a file, in their order; at least one.
///
/// # Errors
/// `CODA4202` when it cannot be read, `CODA4207` when it holds none, or something else under the same heading.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(malformed(path, &"there is no `BEGIN CERTIFICATE` in it")),
        Err(error) => Err(malformed(path, &error)),
    }
}

/// The first private key of a file.
///
/// # Errors
/// As [`read_certificates`].
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| malformed(path, &error))
}

/// Whether a private key is that of a certificate.
///
/// # Errors
/// `CODA4207` when the key is of a kind that TLS cannot use.
pub fn keys_match(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    what: &Path,
) -> Result<bool, IdentityError> {
    let provider = provider();
    let key = provider.key_provider.load_private_key(key.clone_key()).map_err(|error| malformed(what, &error))?;
    Ok(CertifiedKey::new(chain.to_vec(), key).keys_match().is_ok())
}

/// The provider is named wherever one is needed: with two in the build, rustls would panic rather than choose.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| file_error(path, &error))?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(file_error(path, &format!("it is larger than {PEM_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Writes a whole file or none of it, readable as `mode` says from its first moment.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    // Not `with_extension`: certificate and key differ in nothing else.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    // What a crash left behind may be readable for everyone.
    drop(fs::remove_file(&temporary));
    let result = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    result.map_err(|error| file_error(path, &error))
}

pub(super) fn make_folder(path: &Path) -> Result<(), IdentityError> {
    fs::create_dir_all(path).map_err(|error| file_error(path, &error))
}

pub(super) fn file_error(path: &Path, why: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::File { path: path.into(), why: why.to_string() }
}

fn malformed(path: &Path, why: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Malformed { what: path.display().to_string(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_holds_no_certificate_is_refused_with_a_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        let code = |path: &Path| read_certificates(path).unwrap_err().code();
        assert_eq!(code(&path), "CODA4202");
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(code(&path), "CODA4207", "{text}");
            assert_eq!(read_key(&path).unwrap_err().code(), "CODA4207", "{text}");
        }
        fs::write(&path, vec![b'a'; PEM_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(code(&path), "CODA4202");
    }

    #[test]
    fn a_secret_is_one_from_its_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        fs::write(dir.path().join("a.key.tmp"), "left behind").unwrap();
        write(&path, b"secret", SECRET).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("a.key.tmp").exists());
    }
}
