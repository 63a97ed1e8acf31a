//! What waits for Python, and the descriptor that says so: readable while something waits, written once per batch.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::told::Told;

/// The link is not read while Python has more than this before it. The link itself holds a bounded number behind that.
const WAITING_MAX: usize = 2_048;

/// A socket pair rather than an eventfd, so that laptops with macOS work too.
pub(crate) struct Mailbox {
    waiting: Mutex<VecDeque<Told>>,
    room: Notify,
    bell: UnixStream,
    ear: UnixStream,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Self { waiting: Mutex::new(VecDeque::new()), room: Notify::new(), bell, ear })
    }

    pub(crate) fn fileno(&self) -> RawFd {
        self.ear.as_raw_fd()
    }

    /// Adds a batch. Never waits: producers of many wait for [`Mailbox::room`] first.
    pub(crate) fn put(&self, batch: impl IntoIterator<Item = Told>) {
        let mut waiting = self.waiting.lock();
        let was_empty = waiting.is_empty();
        waiting.extend(batch);
        if was_empty && !waiting.is_empty() {
            self.ring();
        }
    }

    /// Takes up to `max`. The descriptor stays readable when more is left.
    pub(crate) fn take(&self, max: usize) -> Vec<Told> {
        let mut waiting = self.waiting.lock();
        let count = max.min(waiting.len());
        let taken = waiting.drain(..count).collect();
        if waiting.is_empty() {
            self.hush();
        }
        if waiting.len() < WAITING_MAX {
            self.room.notify_one();
        }
        taken
    }

    pub(crate) async fn room(&self) {
        while self.waiting.lock().len() >= WAITING_MAX {
            self.room.notified().await;
        }
    }

    /// One byte is in the socket while anything waits, so this cannot block; a full buffer would be readable as well.
    fn ring(&self) {
        while matches!((&self.bell).write(&[1]), Err(error) if error.kind() == ErrorKind::Interrupted) {}
    }

    fn hush(&self) {
        let mut bytes = [0; 16];
        loop {
            match (&self.ear).read(&mut bytes) {
                Ok(count) if count == bytes.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}
