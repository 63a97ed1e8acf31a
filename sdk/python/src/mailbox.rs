//! What waits for Python, and the descriptor that says so: readable while something waits that Python should hear of at
//! once, written once per batch.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::told::Told;

/// The link is not read while Python has more than this before it. The link itself holds a bounded number behind that.
const WAITING_MAX: usize = 2_048;
/// With this many waiting, the descriptor is readable also if each of them alone could wait.
const QUIET_MAX: usize = 64;

/// A socket pair rather than an eventfd, so that laptops with macOS work too.
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    room: Notify,
    bell: UnixStream,
    ear: UnixStream,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Told>,
    /// A byte is in the socket.
    rung: bool,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Self { inbox: Mutex::default(), room: Notify::new(), bell, ear })
    }

    pub(crate) fn fileno(&self) -> RawFd {
        self.ear.as_raw_fd()
    }

    /// Adds a batch. Never waits: producers of many wait for [`Mailbox::room`] first.
    pub(crate) fn put(&self, batch: impl IntoIterator<Item = Told>) {
        let mut inbox = self.inbox.lock();
        let mut is_urgent = false;
        inbox.waiting.extend(batch.into_iter().inspect(|told| is_urgent |= !told.can_wait()));
        if !inbox.rung && (is_urgent || inbox.waiting.len() >= QUIET_MAX) {
            inbox.rung = true;
            self.ring();
        }
    }

    /// Takes up to `max`. The descriptor stays readable when more is left.
    pub(crate) fn take(&self, max: usize) -> Vec<Told> {
        let mut inbox = self.inbox.lock();
        let count = max.min(inbox.waiting.len());
        let taken = inbox.waiting.drain(..count).collect();
        if inbox.waiting.is_empty() && inbox.rung {
            inbox.rung = false;
            self.hush();
        }
        if inbox.waiting.len() < WAITING_MAX {
            self.room.notify_one();
        }
        taken
    }

    pub(crate) async fn room(&self) {
        while self.inbox.lock().waiting.len() >= WAITING_MAX {
            self.room.notified().await;
        }
    }

    /// At most one byte is in the socket, so this cannot block; a full buffer would be readable as well.
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
