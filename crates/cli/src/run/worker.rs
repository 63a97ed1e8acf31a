//! One worker: started, attended, started again, until it is told to stop or ends too often.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use coda_protocol::ids::SessionId;
use tokio::sync::watch;

use super::child::{Child, Recipe};
use super::restarts::{Decision, Restarts};
use super::say;
use super::sessions::Report;
use super::supervisor::Phase;

/// How a worker ended for good.
#[derive(Debug)]
pub enum Last {
    /// As asked. `killed` when it had to be.
    Stopped { killed: bool },
    /// Beyond its restarts.
    GaveUp { index: usize },
    /// Not even once.
    CannotStart(io::Error),
}

pub struct Worker {
    pub index: usize,
    pub recipe: Arc<Recipe>,
    pub restarts: Restarts,
    pub phase: watch::Receiver<Phase>,
    pub dead: Report,
}

impl Worker {
    pub async fn keep(mut self) -> Last {
        let mut first = true;
        loop {
            if *self.phase.borrow_and_update() != Phase::Running {
                return Last::Stopped { killed: false };
            }
            let session = SessionId::random();
            let started = Instant::now();
            let end = match self.recipe.start(self.index, session) {
                Ok(child) => self.attend(child, session).await,
                Err(error) if first && is_lasting(&error) => return Last::CannotStart(error),
                // Later the program may be missing for a moment, in the middle of a deploy.
                Err(error) => format!("cannot be started ({error})"),
            };
            first = false;
            match *self.phase.borrow() {
                Phase::Running => {}
                Phase::Draining => return Last::Stopped { killed: false },
                Phase::Killing => return Last::Stopped { killed: true },
            }
            match self.restarts.on_end(started, Instant::now()) {
                Decision::GiveUp => {
                    say(format_args!("worker {} {end}; it has ended too often", self.index));
                    return Last::GaveUp { index: self.index };
                }
                Decision::After(delay) => {
                    say(format_args!("worker {} {end}; next start in {} ms", self.index, delay.as_millis()));
                    // Told to stop meanwhile: seen at the top.
                    let _ = tokio::time::timeout(delay, self.phase.changed()).await;
                }
            }
        }
    }

    /// Waits for the end of one process, passing on what the phases ask.
    async fn attend(&mut self, mut child: Child, session: SessionId) -> String {
        let status = loop {
            tokio::select! {
                status = child.ended() => break status,
                Ok(()) = self.phase.changed() => match *self.phase.borrow_and_update() {
                    Phase::Running => {}
                    Phase::Draining => child.terminate(),
                    Phase::Killing => child.kill(),
                },
            }
        };
        let is_stopping = *self.phase.borrow() != Phase::Running;
        let said_goodbye = is_stopping && status.as_ref().is_ok_and(ExitStatus::success);
        if !said_goodbye {
            self.dead.report(session);
        }
        match status {
            Ok(status) => format!("(pid {}) ended with {status}", child.pid()),
            Err(error) => format!("(pid {}) cannot be waited for ({error})", child.pid()),
        }
    }
}

/// Whether trying again in a moment is pointless.
fn is_lasting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}
