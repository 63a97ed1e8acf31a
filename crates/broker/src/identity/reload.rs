//! The identity in use, and its replacement while the node runs.
//!
//! Files are looked at every few seconds, which works on every file system and for every way to replace a file, and
//! when somebody asks. Certificate and key are two files, so a change is read once nothing has changed for a while;
//! a set that is refused is logged once, and the one in use stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::ids::{NodeId, Timestamp};
use coda_raft_store::store::Workshop;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::certificate::date;
use super::checked::{IdentityFiles, NodeIdentity, QuicKeys};
use super::error::IdentityError;
use crate::clock::Clock;

/// How often files are looked at. A change is in use after two to three of these.
const POLL: Duration = Duration::from_secs(2);
/// Before its end a certificate is warned about for this long, or for a third of its life if that is shorter.
const EXPIRY_WARNING_MS: u64 = 30 * 24 * 3_600 * 1_000;
/// As often as that.
const REMINDER: Duration = Duration::from_secs(24 * 3_600);
/// Refused files may become good without a change: what is not valid yet will be.
const RETRY: Duration = Duration::from_secs(60);
/// Wishes to reload that may wait; one is as good as many.
const ASKED_MAX: usize = 1;

/// The identity in use. Clones see the same one: ask for it at each connection, or wait for the next.
#[derive(Clone)]
pub struct CurrentIdentity {
    identity: watch::Receiver<Arc<NodeIdentity>>,
    ask: mpsc::Sender<()>,
}

impl CurrentIdentity {
    /// One that stays.
    pub(crate) fn fixed(identity: NodeIdentity) -> Self {
        Self::replaced_by(watch::channel(Arc::new(identity)).1)
    }

    /// One that somebody else replaces, and not for the asking.
    #[must_use]
    pub fn replaced_by(identity: watch::Receiver<Arc<NodeIdentity>>) -> Self {
        Self { identity, ask: mpsc::channel(ASKED_MAX).0 }
    }

    #[must_use]
    pub fn get(&self) -> Arc<NodeIdentity> {
        self.identity.borrow().clone()
    }

    /// The next one. None once there will be no other.
    pub async fn next(&mut self) -> Option<Arc<NodeIdentity>> {
        self.identity.changed().await.ok()?;
        Some(self.identity.borrow_and_update().clone())
    }

    /// Has the files read again soon, changed or not.
    pub fn reload(&self) {
        // Full: somebody has asked already. Closed: this one stays.
        let _ = self.ask.try_send(());
    }
}

/// Where an identity comes from, and what it must be.
pub(crate) struct Source {
    pub files: IdentityFiles,
    pub node: NodeId,
    pub quic: QuicKeys,
    pub clock: Arc<dyn Clock>,
    /// Who reads them: a file system that hangs must not hold a thread that serves connections.
    pub workshop: Workshop,
}

impl Source {
    fn load(&self) -> Result<NodeIdentity, IdentityError> {
        NodeIdentity::load(&self.files, self.node, self.quic, self.clock.now())
    }
}

/// Keeps a [`CurrentIdentity`] current.
pub(crate) struct Reloader {
    source: Arc<Source>,
    current: watch::Sender<Arc<NodeIdentity>>,
    asked: mpsc::Receiver<()>,
    changes: Changes,
    /// The code of the refusal that was logged, and when files were last read.
    refused: Option<(&'static str, Instant)>,
    /// When somebody was reminded, and whether of an end that had come.
    reminded: Option<(Instant, bool)>,
}

impl Reloader {
    /// Loads the first one.
    ///
    /// # Errors
    /// As [`NodeIdentity::load`].
    pub fn open(source: Source) -> Result<(Self, CurrentIdentity), IdentityError> {
        let seen = look(&source.files);
        let (current, identity) = watch::channel(Arc::new(source.load()?));
        let (ask, asked) = mpsc::channel(ASKED_MAX);
        let changes = Changes::new(seen);
        let reloader = Self { source: Arc::new(source), current, asked, changes, refused: None, reminded: None };
        Ok((reloader, CurrentIdentity { identity, ask }))
    }

    /// Runs until nobody holds the identity.
    pub async fn run(mut self) {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = poll.tick() => false,
                asked = self.asked.recv() => match asked {
                    Some(()) => true,
                    None => return,
                },
            };
            self.remind();
            let source = self.source.clone();
            let Ok(seen) = self.source.workshop.run(move || look(&source.files)).await else { return };
            let is_new = if asked { self.changes.read_now(seen) } else { self.changes.on(seen) };
            let again = self.refused.is_some_and(|(_, at)| self.source.clock.instant() >= at + RETRY);
            if is_new || again {
                self.load(is_new).await;
            }
        }
    }

    async fn load(&mut self, is_new: bool) {
        let source = self.source.clone();
        let loaded = match self.source.workshop.run(move || source.load()).await {
            Ok(loaded) => loaded.and_then(|identity| self.of_the_same_cluster(identity)),
            Err(_) => return,
        };
        match loaded {
            Ok(identity) => {
                info!(expires = %date(identity.not_after), "certificates are replaced");
                self.refused = None;
                self.current.send_replace(Arc::new(identity));
            }
            Err(error) => {
                let code = error.code();
                if is_new || self.refused.is_none_or(|(before, _)| before != code) {
                    warn!(code, %error, "new certificates are refused, those in use stay");
                }
                self.refused = Some((code, self.source.clock.instant()));
            }
        }
    }

    /// A node does not change its cluster while it runs.
    fn of_the_same_cluster(&self, identity: NodeIdentity) -> Result<NodeIdentity, IdentityError> {
        let before = self.current.borrow().cluster;
        match (identity.cluster, before) {
            (Some(found), Some(expected)) if found != expected => {
                let what = self.source.files.cert.display().to_string();
                Err(IdentityError::OtherCluster { what, found, expected })
            }
            _ => Ok(identity),
        }
    }

    /// Says so once a day, for as long as the certificate in use ends soon or has ended.
    fn remind(&mut self) {
        let identity = self.current.borrow().clone();
        let now = self.source.clock.now();
        if now < warn_from(identity.not_before, identity.not_after) {
            self.reminded = None;
            return;
        }
        let (instant, has_ended) = (self.source.clock.instant(), now > identity.not_after);
        if self.reminded.is_some_and(|(at, ended)| ended == has_ended && instant < at + REMINDER) {
            return;
        }
        self.reminded = Some((instant, has_ended));
        let (expires, path) = (date(identity.not_after), self.source.files.cert.display());
        if has_ended {
            error!(code = "CODA4208", %path, %expires, "the node's certificate has expired: no new connection is trusted");
        } else {
            warn!(code = "CODA4218", %path, %expires, "the node's certificate expires soon, replace it");
        }
    }
}

/// From when on people are warned that a certificate ends.
#[must_use]
pub fn warn_from(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    let life_ms = not_after.0.saturating_sub(not_before.0);
    Timestamp(not_after.0.saturating_sub(EXPIRY_WARNING_MS.min(life_ms / 3)))
}

/// What tells one state of the files from another, without reading them.
type Look = [Option<FileLook>; 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileLook {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

fn look(files: &IdentityFiles) -> Look {
    [&files.ca, &files.cert, &files.key].map(|path| look_at(path))
}

fn look_at(path: &Path) -> Option<FileLook> {
    let file = fs::metadata(path).ok()?;
    let modified = (file.mtime(), file.mtime_nsec());
    Some(FileLook { device: file.dev(), inode: file.ino(), bytes: file.size(), modified })
}

/// Decides when to read: once per change, as soon as it looks finished.
struct Changes {
    read: Look,
    last: Look,
}

impl Changes {
    fn new(read: Look) -> Self {
        Self { read, last: read }
    }

    /// Somebody has asked: they are read however they look, and not once more for the same change.
    fn read_now(&mut self, seen: Look) -> bool {
        (self.read, self.last) = (seen, seen);
        true
    }

    /// Whether files are to be read that look like this.
    fn on(&mut self, seen: Look) -> bool {
        let settled = seen == self.last && seen != self.read;
        self.last = seen;
        if settled {
            self.read = seen;
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(modified: i64) -> Look {
        [Some(FileLook { device: 1, inode: 2, bytes: 3, modified: (modified, 0) }); 3]
    }

    #[test]
    fn a_change_is_read_once_it_stands_still_and_only_once() {
        let mut changes = Changes::new(looks(0));
        assert!(!changes.on(looks(0)));
        assert!(!changes.on(looks(1)), "it may go on");
        assert!(!changes.on(looks(2)), "it went on");
        assert!(changes.on(looks(2)));
        assert!(!changes.on(looks(2)), "read already, refused or not");
        assert!(changes.read_now(looks(2)));
        assert!(!changes.on(looks(3)));
        assert!(changes.read_now(looks(3)));
        assert!(!changes.on(looks(3)), "read already, by request");
        let gone = [None; 3];
        assert!(!changes.on(gone));
        assert!(changes.on(gone));
        assert!(!changes.on(looks(2)));
        assert!(changes.on(looks(2)));
    }

    #[test]
    fn a_certificate_is_warned_about_for_a_month_or_a_third_of_its_life() {
        let day = 24 * 3_600 * 1_000;
        assert_eq!(warn_from(Timestamp(0), Timestamp(365 * day)), Timestamp(335 * day));
        assert_eq!(warn_from(Timestamp(0), Timestamp(9 * day)), Timestamp(6 * day));
        assert_eq!(warn_from(Timestamp(5), Timestamp(0)), Timestamp(0));
    }
}
