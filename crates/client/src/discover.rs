//! Finding the cluster without being told: the environment first, else the nearest `.coda/client.json`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::certificate::ClientCertificate;
use crate::error::ClientError;
use crate::options::ConnectOptions;

const ADDRESS: &str = "CODA_ADDRESS";
const CA: &str = "CODA_CA";
const CERT: &str = "CODA_CERT";
const KEY: &str = "CODA_KEY";
const SESSION: &str = "CODA_SESSION";
const CLIENT_FILE: &str = ".coda/client.json";

/// What `coda dev` leaves for the programs of a project. `ca` is relative to the file's folder.
#[derive(Deserialize)]
struct ClientFile {
    address: String,
    ca: PathBuf,
}

impl ConnectOptions {
    /// Reads `CODA_ADDRESS`, `CODA_CA` and `CODA_SESSION`, else the nearest `.coda/client.json` upward from the
    /// current directory. A variable that is set wins over the file's field. `CODA_CERT` and `CODA_KEY` name the
    /// client's own certificate, where nodes ask for one.
    ///
    /// # Errors
    /// `CODA4001` to `CODA4006` and `CODA4227`, each with what to do next.
    pub fn discover() -> Result<Self, ClientError> {
        let here = std::env::current_dir().unwrap_or_default();
        discover_in(&here, variable)
    }
}

fn discover_in(here: &Path, env: impl Fn(&str) -> Option<String>) -> Result<ConnectOptions, ClientError> {
    let mut address = env(ADDRESS);
    let mut ca = env(CA).map(|path| (PathBuf::from(path), CA.to_owned()));
    if address.is_none() || ca.is_none() {
        let path = here.ancestors().map(|folder| folder.join(CLIENT_FILE)).find(|path| path.is_file());
        let path = path.ok_or(ClientError::NotConfigured)?;
        let file = read_client_file(&path)?;
        let folder = path.parent().unwrap_or(here);
        address = address.or(Some(file.address));
        ca = ca.or_else(|| Some((folder.join(file.ca), path.display().to_string())));
    }
    let (Some(address), Some((ca, named_by))) = (address, ca) else { return Err(ClientError::NotConfigured) };
    let mut options = ConnectOptions::new(&address, read(&ca, &named_by)?)?;
    options.certificate = ClientCertificate::in_env(&env)?;
    if let Some(value) = env(SESSION) {
        options.session = value.parse().map_err(|_| ClientError::BadSession { value })?;
    }
    Ok(options)
}

impl ClientCertificate {
    /// Reads the files that `CODA_CERT` and `CODA_KEY` name.
    ///
    /// # Errors
    /// As [`ClientCertificate::read`].
    pub fn from_env() -> Result<Option<Self>, ClientError> {
        Self::in_env(variable)
    }

    fn in_env(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ClientError> {
        let (cert, key) = (env(CERT), env(KEY));
        let cert = cert.as_deref().map(|path| (Path::new(path), CERT));
        Self::read(cert, key.as_deref().map(|path| (Path::new(path), KEY)))
    }
}

/// An empty variable is as good as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read_client_file(path: &Path) -> Result<ClientFile, ClientError> {
    let text = read(path, "the folder's permissions")?;
    let bad = |error: serde_json::Error| ClientError::BadClientFile {
        path: path.display().to_string(),
        why: error.to_string(),
    };
    serde_json::from_slice(&text).map_err(bad)
}

pub(crate) fn read(path: &Path, named_by: &str) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|error| ClientError::Unreadable {
        path: path.display().to_string(),
        why: error.to_string(),
        named_by: named_by.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> tempfile::TempDir {
        let project = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(project.path().join(".coda/certs")).unwrap();
        std::fs::create_dir_all(project.path().join("src/deep")).unwrap();
        std::fs::write(project.path().join(".coda/certs/ca.pem"), "the CA").unwrap();
        write_file(&project, r#"{"address": "127.0.0.1:4747", "ca": "certs/ca.pem"}"#);
        project
    }

    fn write_file(project: &tempfile::TempDir, text: &str) {
        std::fs::write(project.path().join(CLIENT_FILE), text).unwrap();
    }

    #[test]
    fn the_nearest_client_file_upward_is_used() {
        let project = project();
        let options = discover_in(&project.path().join("src/deep"), |_| None).unwrap();
        assert_eq!((options.addresses, options.ca_pem), (vec!["127.0.0.1:4747".to_owned()], b"the CA".to_vec()));
    }

    #[test]
    fn the_environment_wins_and_names_the_session() {
        let project = project();
        let session = coda_protocol::ids::SessionId::random();
        let options = discover_in(project.path(), |name| match name {
            ADDRESS => Some("a,b:2".into()),
            SESSION => Some(session.to_string()),
            _ => None,
        });
        let options = options.unwrap();
        assert_eq!((options.addresses, options.session), (vec!["a:4747".to_owned(), "b:2".to_owned()], session));
    }

    #[test]
    fn the_environment_names_the_clients_own_certificate() {
        let project = project();
        let path = |name: &str| project.path().join(name).display().to_string();
        std::fs::write(path("me.pem"), "certificate").unwrap();
        std::fs::write(path("me.key"), "key").unwrap();
        let options = discover_in(project.path(), |name| match name {
            CERT => Some(path("me.pem")),
            KEY => Some(path("me.key")),
            _ => None,
        });
        let certificate = options.unwrap().certificate.unwrap();
        assert_eq!(
            (certificate.cert_pem.as_slice(), certificate.key_pem.as_slice()),
            (&b"certificate"[..], &b"key"[..])
        );
        assert!(!format!("{certificate:?}").contains("key_pem"));
    }

    #[test]
    fn each_mistake_has_its_code() {
        let empty = tempfile::tempdir().unwrap();
        let code = |here: &Path, env: &dyn Fn(&str) -> Option<String>| discover_in(here, env).unwrap_err().code();
        assert_eq!(code(empty.path(), &|_| None), "CODA4001");
        assert_eq!(code(empty.path(), &|name| (name == ADDRESS).then(|| "a".into())), "CODA4001");
        let project = project();
        assert_eq!(code(project.path(), &|name| (name == ADDRESS).then(|| "a:b".into())), "CODA4002");
        assert_eq!(code(project.path(), &|name| (name == CA).then(|| "/no/such".into())), "CODA4003");
        assert_eq!(code(project.path(), &|name| (name == SESSION).then(|| "me".into())), "CODA4006");
        assert_eq!(code(project.path(), &|name| (name == CERT).then(|| "me.pem".into())), "CODA4227");
        assert_eq!(code(project.path(), &|name| (name == KEY).then(|| "me.key".into())), "CODA4227");
        let both = |name: &str| (name == CERT || name == KEY).then(|| "/no/such".into());
        assert_eq!(code(project.path(), &both), "CODA4003");
        write_file(&project, "{");
        assert_eq!(code(project.path(), &|_| None), "CODA4004");
    }
}
