//! The files beside the database: snapshots, on their way to a peer or from one.
//!
//! [`Files`] is the seam: it blocks, and knows what a crash may take away. [`SnapshotFile`] is what others are handed.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::FileSystem;
use crate::workshop::Workshop;

/// A file being written, from its start to its end.
pub trait FileWrite: Write + Send {
    /// Makes durable what was written; not yet the file's name.
    ///
    /// # Errors
    /// When the disk refuses.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file being read, from its start to its end.
pub trait FileRead: Read + Send {
    /// # Errors
    /// When the file system does not say.
    fn size(&self) -> io::Result<u64>;
}

/// Files in folders. A name is durable, or gone for good, once its folder is synced. Every call may block.
pub trait Files: Debug + Send + Sync + 'static {
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// A new file, in place of one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>>;
    fn open(&self, path: &Path) -> io::Result<Box<dyn FileRead>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes durable what is in a file, or which names are in a folder.
    fn sync_path(&self, path: &Path) -> io::Result<()>;
}

impl FileWrite for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl FileRead for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Files for FileSystem {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>> {
        Ok(Box::new(File::create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FileRead>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn sync_path(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// A snapshot in one file, or the place for one. Clones are the same file.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    files: Arc<dyn Files>,
    workshop: Workshop,
    path: PathBuf,
}

impl SnapshotFile {
    pub(crate) fn new(files: Arc<dyn Files>, workshop: Workshop, path: PathBuf) -> Self {
        Self { files, workshop, path }
    }

    /// One of the operating system's files.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self::new(Arc::new(FileSystem), Workshop::default(), path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Makes it, in place of one that is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn create(&self) -> io::Result<SnapshotWriter> {
        let (files, path) = (self.files.clone(), self.path.clone());
        let file = self.workshop.run(move || files.create(&path)).await??;
        Ok(SnapshotWriter { file: Some(file), workshop: self.workshop.clone() })
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    pub async fn open(&self) -> io::Result<SnapshotReader> {
        let (files, path) = (self.files.clone(), self.path.clone());
        let opened = self.workshop.run(move || {
            let file = files.open(&path)?;
            let bytes = file.size()?;
            io::Result::Ok((file, bytes))
        });
        let (file, bytes) = opened.await??;
        Ok(SnapshotReader { file: Some(file), bytes, workshop: self.workshop.clone() })
    }

    /// Removes it. May take a while, and blocks.
    ///
    /// # Errors
    /// When it is not there, or the disk refuses.
    pub fn remove(&self) -> io::Result<()> {
        self.files.remove(&self.path)
    }

    /// Who removes it without keeping anybody waiting.
    #[must_use]
    pub fn workshop(&self) -> &Workshop {
        &self.workshop
    }
}

/// A file with which a call under way went away.
fn abandoned() -> io::Error {
    io::Error::other("an earlier call was given up")
}

/// Writes a snapshot's file from its start to its end.
pub struct SnapshotWriter {
    /// Absent while a call is under way.
    file: Option<Box<dyn FileWrite>>,
    workshop: Workshop,
}

impl SnapshotWriter {
    async fn with(
        &mut self,
        work: impl FnOnce(&mut dyn FileWrite) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let mut file = self.file.take().ok_or_else(abandoned)?;
        let worked = self.workshop.run(move || {
            let result = work(&mut *file);
            (file, result)
        });
        let (file, result) = worked.await?;
        self.file = Some(file);
        result
    }

    /// # Errors
    /// When the disk refuses.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.with(move |file| file.write_all(&bytes)).await
    }

    /// # Errors
    /// When the disk refuses.
    pub async fn sync(&mut self) -> io::Result<()> {
        self.with(|file| file.sync()).await
    }
}

/// Reads a snapshot's file from its start to its end.
pub struct SnapshotReader {
    /// Absent while a call is under way.
    file: Option<Box<dyn FileRead>>,
    bytes: u64,
    workshop: Workshop,
}

impl SnapshotReader {
    /// How long the file was when it was opened.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes, as many of them if there are as many.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn read(&mut self, bytes_max: usize) -> io::Result<Bytes> {
        let mut file = self.file.take().ok_or_else(abandoned)?;
        let worked = self.workshop.run(move || {
            let mut bytes = Vec::with_capacity(bytes_max);
            let result = (&mut *file).take(bytes_max as u64).read_to_end(&mut bytes);
            (file, result.map(|_| Bytes::from(bytes)))
        });
        let (file, result) = worked.await?;
        self.file = Some(file);
        result
    }
}
