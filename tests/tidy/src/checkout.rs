//! The files of the checkout, as text, in one fixed order. Build outputs, environments and hidden folders are left out.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folders that hold what tools have made.
const OUTPUTS: &[&str] = &["target", "node_modules", "__pycache__"];

pub struct Checkout {
    root: PathBuf,
}

/// A text file; `path` is relative to the checkout, with forward slashes.
pub struct File {
    pub path: String,
    pub text: String,
}

impl Checkout {
    /// The checkout that this crate lies in.
    ///
    /// # Panics
    /// If the folder is not where this crate expects it.
    pub fn here() -> Checkout {
        // Read when the test runs: a cached binary may have been compiled for another clone.
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let root = Path::new(&here).join("../..").canonicalize().expect("tests/tidy lies two folders below the root");
        assert!(root.join("Cargo.lock").is_file(), "{} is not the root of the checkout", root.display());
        Checkout { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every file below `folder` (`""` for the root) whose name ends in `suffix`. An absent folder has no files.
    ///
    /// # Panics
    /// If a file cannot be read as UTF-8 text.
    pub fn files(&self, folder: &str, suffix: &str) -> Vec<File> {
        let mut found = Vec::new();
        walk(&self.root.join(folder), true, &mut found);
        self.read(found, suffix)
    }

    /// As `files`, without descending.
    ///
    /// # Panics
    /// If a file cannot be read as UTF-8 text.
    pub fn files_in(&self, folder: &str, suffix: &str) -> Vec<File> {
        let mut found = Vec::new();
        walk(&self.root.join(folder), false, &mut found);
        self.read(found, suffix)
    }

    /// One file, or nothing where there is none.
    pub fn file(&self, path: &str) -> Option<File> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(File { path: path.to_owned(), text })
    }

    fn read(&self, mut found: Vec<PathBuf>, suffix: &str) -> Vec<File> {
        found.retain(|path| path.to_string_lossy().ends_with(suffix));
        found.sort();
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let name = |path: &Path| path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned();
        found.iter().map(|path| File { path: name(path), text: text(path) }).collect()
    }
}

fn walk(folder: &Path, descend: bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if name.starts_with('.') || OUTPUTS.contains(&name.as_ref()) || path.is_symlink() {
            continue;
        }
        if path.is_file() {
            found.push(path);
        } else if descend {
            walk(&path, descend, found);
        }
    }
}
