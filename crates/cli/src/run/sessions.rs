//! Tells the cluster which sessions have died, so that their leases return at once.
//!
//! Best effort: without this the node finds out by itself some seconds later. Nothing here ever delays a restart, and a
//! node that cannot be reached costs a few seconds at the very end.

use std::time::Duration;

use coda_client::Link;
use coda_protocol::ids::SessionId;
use coda_protocol::request::Request;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::say;
use crate::args::Global;
use crate::cluster;
use crate::errors::CliError;

/// Past this many the rest is left to the node's own patience.
const WAITING_MAX: usize = 1_024;
/// Longer than this, and the node has noticed by itself.
const TELL_TIMEOUT: Duration = Duration::from_secs(3);

pub struct DeadSessions {
    report: Report,
    teller: JoinHandle<()>,
}

/// Where workers report their dead.
#[derive(Clone)]
pub struct Report(mpsc::Sender<SessionId>);

impl Report {
    pub fn report(&self, session: SessionId) {
        let _ = self.0.try_send(session);
    }
}

impl DeadSessions {
    pub fn start(global: Global) -> Self {
        let (sender, mut sessions) = mpsc::channel(WAITING_MAX);
        let teller = tokio::spawn(async move {
            let mut dead = Vec::new();
            while sessions.recv_many(&mut dead, WAITING_MAX).await > 0 {
                if let Err(error) = tell(&global, &dead).await {
                    let CliError { code, message, .. } = error;
                    say(format_args!(
                        "the cluster was not told of the end, it will notice by itself ({code}: {message})"
                    ));
                }
                dead.clear();
            }
        });
        Self { report: Report(sender), teller }
    }

    pub fn report(&self) -> Report {
        self.report.clone()
    }

    /// To be awaited when every worker has ended.
    pub async fn tell_the_rest(self) {
        drop(self.report);
        let _ = tokio::time::timeout(TELL_TIMEOUT, self.teller).await;
    }
}

/// The configuration is read each time: a node may be started, or moved, after its workers.
async fn tell(global: &Global, dead: &[SessionId]) -> Result<(), CliError> {
    let mut options = cluster::options(global)?;
    options.connect_timeout = TELL_TIMEOUT;
    let (link, _) = Link::open(options).await?;
    for &session in dead {
        link.request_within(Request::EndSession(session), TELL_TIMEOUT).await?;
    }
    link.close().await;
    Ok(())
}
