//! A simulated disk's files, and what a crash leaves of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

use super::disk::Life;
use super::tables::{Mood, some};
use crate::files::{FileRead, FileWrite, Files};

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// So many of them are durable.
    synced: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

type Names = BTreeMap<PathBuf, u64>;

fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Link(path, file) => drop(names.insert(path.clone(), *file)),
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Unlink(path) => drop(names.remove(path)),
    }
}

/// All files, by name.
#[derive(Debug, Default)]
pub(crate) struct FileTable {
    contents: BTreeMap<u64, Content>,
    made: u64,
    names: Names,
    durable_names: Names,
    /// Changes of names since they were last synced.
    changes: Vec<Change>,
}

impl FileTable {
    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn create(&mut self, path: &Path) -> u64 {
        self.made += 1;
        self.contents.insert(self.made, Content::default());
        self.change(Change::Link(path.to_owned(), self.made));
        self.made
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(file) => self.sync_file(*file),
            None => {
                // There is but one folder.
                let changes = std::mem::take(&mut self.changes);
                changes.iter().for_each(|change| apply(&mut self.durable_names, change));
            }
        }
        Ok(())
    }

    fn sync_file(&mut self, file: u64) {
        if let Some(content) = self.contents.get_mut(&file) {
            content.synced = content.bytes.len();
        }
    }

    pub fn bytes(&self) -> u64 {
        let contents = self.names.values().filter_map(|file| self.contents.get(file));
        contents.map(|content| content.bytes.len() as u64).sum()
    }

    /// What a power failure leaves. Returns how much it took.
    pub fn crash(&mut self, random: &mut StdRng) -> u64 {
        let kept = some(self.changes.len(), random);
        let mut lost = (self.changes.len() - kept) as u64;
        let changes = std::mem::take(&mut self.changes);
        changes.iter().take(kept).for_each(|change| apply(&mut self.durable_names, change));
        self.names = self.durable_names.clone();
        for content in self.contents.values_mut() {
            let unsynced = content.bytes.len() - content.synced;
            let kept = some(unsynced, random);
            lost += u64::from(kept < unsynced);
            content.synced += kept;
            content.bytes.truncate(content.synced);
        }
        let names = &self.names;
        self.contents.retain(|file, _| names.values().any(|named| named == file));
        lost
    }

    /// Flips a bit of some file.
    pub fn rot(&mut self, random: &mut StdRng) -> bool {
        let named: Vec<u64> = self.names.values().copied().collect();
        let written = |file: &u64| self.contents.get(file).is_some_and(|content| !content.bytes.is_empty());
        let files: Vec<u64> = named.into_iter().filter(written).collect();
        if files.is_empty() {
            return false;
        }
        let file = files[random.random_range(0..files.len())];
        let bytes = &mut self.contents.get_mut(&file).expect("it was just found").bytes;
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        true
    }
}

fn refuse(mood: Mood) -> io::Result<()> {
    match mood {
        Mood { full: true, .. } => Err(io::ErrorKind::StorageFull.into()),
        Mood { fails: true, .. } => Err(io::Error::other("Input/output error")),
        Mood { .. } => Ok(()),
    }
}

impl Files for Life {
    /// Folders are but parts of names.
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>> {
        let file = self.files(|files| Ok(files.create(path)))?;
        Ok(Box::new(SimFile { life: self.clone(), file, at: 0 }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FileRead>> {
        let file = self.files(|files| files.find(path))?;
        Ok(Box::new(SimFile { life: self.clone(), file, at: 0 }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files(|files| {
            files.find(from)?;
            files.change(Change::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files(|files| {
            files.find(path)?;
            files.change(Change::Unlink(path.to_owned()));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.files(|files| Ok(files.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect()))
    }

    fn sync_path(&self, path: &Path) -> io::Result<()> {
        refuse(self.mood(0))?;
        self.files(|files| files.sync(path))
    }
}

struct SimFile {
    life: Life,
    file: u64,
    at: usize,
}

impl Read for SimFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (file, at) = (self.file, self.at);
        let read = self.life.files(|files| {
            let content = files.contents.get(&file).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            (&content.bytes[at..]).read(buffer)
        })?;
        self.at += read;
        Ok(read)
    }
}

impl FileRead for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.life.files(|files| Ok(files.contents.get(&self.file).map_or(0, |content| content.bytes.len() as u64)))
    }
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        refuse(Mood { fails: false, ..self.life.mood(bytes.len() as u64) })?;
        self.life.files(|files| {
            let content = files.contents.get_mut(&self.file);
            content.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileWrite for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        refuse(self.life.mood(0))?;
        self.life.files(|files| {
            files.sync_file(self.file);
            Ok(())
        })
    }
}
