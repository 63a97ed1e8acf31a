//! Waiting for conditions, and what tests need on disk.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub const CODA: &str = env!("CARGO_BIN_EXE_coda");
pub const ADMIN: &str = env!("CARGO_BIN_EXE_coda-admin");

/// Nothing here takes this long; a test that does is broken.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "this thread polls other processes; no runtime is blocked")]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The whole lines of a file that may be being written, or not exist yet.
pub fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

/// A CA that no node has.
pub fn ca_file(folder: &Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["coda".to_owned()]).unwrap().self_signed(&key).unwrap();
    let path = folder.join("ca.pem");
    fs::write(&path, certificate.pem()).unwrap();
    path.display().to_string()
}
