//! A command's connection to the cluster, and its deadline.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use coda_client::{Admin, ClientCertificate, ClientError, ConnectOptions, Event, Link};
use coda_protocol::ids::{NodeId, SessionId};
use coda_protocol::operate::NodeReport;
use coda_protocol::payload::WorkOutcome;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;
use indicatif::ProgressBar;

use crate::args::Global;
use crate::errors::CliError;

/// How long a command that awaits nothing tries before it gives up.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A wait that lasts this long shows that something is still alive.
const SPINNER_TICK: Duration = Duration::from_millis(120);

pub struct Cluster {
    link: Link,
    node: Option<NodeId>,
    started: Instant,
    timeout: Option<Duration>,
}

impl Cluster {
    pub async fn connect(global: &Global) -> Result<Self, CliError> {
        Self::open(options(global)?, global.timeout).await
    }

    pub async fn open(mut options: ConnectOptions, timeout: Option<Duration>) -> Result<Self, CliError> {
        let started = Instant::now();
        options.connect_timeout = timeout.unwrap_or(TIMEOUT_DEFAULT);
        let (link, mut events) = Link::open(options).await?;
        // The link is connected, so its first event has happened.
        let mut first = Vec::with_capacity(1);
        events.try_recv_many(&mut first, 1);
        let node = first.into_iter().find_map(|event| match event {
            Event::Connected { welcome, .. } => Some(welcome.node),
            Event::Answered { .. } | Event::Push(_) | Event::Disconnected | Event::Failed(_) => None,
        });
        Ok(Self { link, node, started, timeout })
    }

    /// Connects, works, and says goodbye whatever came of it: a node that is told nothing waits for a while to be sure.
    pub async fn during<T>(
        global: &Global,
        work: impl AsyncFnOnce(&Self) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let cluster = Self::connect(global).await?;
        let done = work(&cluster).await;
        cluster.close().await;
        done
    }

    /// The node that has answered first; others of its cluster may answer what is asked.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// What the node says of itself that has answered first.
    pub async fn own_report(&self) -> Result<Box<NodeReport>, ClientError> {
        match self.admin().node_report(self.node).await {
            // A node that is in no cluster knows itself under no number.
            Err(ClientError::Refused(Reject::NoCluster)) => self.admin().node_report(None).await,
            answer => answer,
        }
    }

    /// What operators ask, each question within the user's time or the usual one.
    pub fn admin(&self) -> Admin {
        Admin::new(self.link.clone(), self.timeout.unwrap_or(TIMEOUT_DEFAULT))
    }

    /// For what is asked again and again, within a time of its own: no single question takes all of it.
    pub fn admin_for_watching(&self) -> Admin {
        Admin::new(self.link.clone(), self.timeout.map_or(TIMEOUT_DEFAULT, |timeout| timeout.min(TIMEOUT_DEFAULT)))
    }

    /// Asks what is answered promptly.
    pub async fn ask(&self, request: Request) -> Result<Reply, CliError> {
        let left = self.timeout.unwrap_or(TIMEOUT_DEFAULT).saturating_sub(self.started.elapsed());
        let (reply, _) = self.link.request_within(request, left).await?;
        Ok(reply)
    }

    /// Waits for the end of a run or task, without limit unless the user set one.
    pub async fn wait(&self, request: Request, what: &str, id: &str) -> Result<WorkOutcome, CliError> {
        // Draws nothing where standard error is not a terminal.
        let spinner = ProgressBar::new_spinner().with_message(format!("waiting for {what} {id}"));
        spinner.enable_steady_tick(SPINNER_TICK);
        let answered = match self.timeout {
            Some(timeout) => self.link.request_within(request, timeout.saturating_sub(self.started.elapsed())).await,
            None => self.link.request(request).await,
        };
        spinner.finish_and_clear();
        match answered {
            Ok((Reply::Ended(outcome), _)) => Ok(outcome),
            Ok(_) => Err(ClientError::UnexpectedReply { expected: "Ended" }.into()),
            Err(ClientError::Deadline { .. }) => {
                Err(CliError::still_running(what, id, self.started.elapsed().as_millis()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says goodbye, so that the node need not wait to find out.
    pub async fn close(self) {
        self.link.close().await;
    }
}

/// Flags and environment first, else the nearest `.coda/client.json`; always under a session of its own.
pub fn options(global: &Global) -> Result<ConnectOptions, CliError> {
    let address = global.address.as_deref().filter(|address| !address.is_empty());
    let ca = global.ca.as_deref().filter(|ca| !ca.is_empty()).map(Path::new);
    let mut options = match (address, ca) {
        (Some(address), Some(ca)) => ConnectOptions::new(address, read_ca(ca)?)?,
        (address, ca) => {
            let mut found = ConnectOptions::discover()?;
            if let Some(address) = address {
                found.addresses = ConnectOptions::new(address, Vec::new())?.addresses;
            }
            if let Some(ca) = ca {
                found.ca_pem = read_ca(ca)?;
            }
            found
        }
    };
    options.certificate = certificate(global)?;
    // A command that a worker runs inherits the worker's CODA_SESSION, and must not pose as it.
    options.session = SessionId::random();
    options.agent = concat!("coda-cli/", env!("CARGO_PKG_VERSION")).into();
    options.outside = true;
    Ok(options)
}

/// As for the CA, an empty variable is as good as none.
fn certificate(global: &Global) -> Result<Option<ClientCertificate>, CliError> {
    let cert = named(global.cert.as_ref()).map(|path| (path, "--cert or CODA_CERT"));
    let key = named(global.key.as_ref()).map(|path| (path, "--key or CODA_KEY"));
    Ok(ClientCertificate::read(cert, key)?)
}

fn named(path: Option<&OsString>) -> Option<&Path> {
    path.filter(|path| !path.is_empty()).map(Path::new)
}

fn read_ca(path: &Path) -> Result<Vec<u8>, CliError> {
    let unreadable = |error: std::io::Error| ClientError::Unreadable {
        path: path.display().to_string(),
        why: error.to_string(),
        named_by: "--ca or CODA_CA".to_owned(),
    };
    Ok(std::fs::read(path).map_err(unreadable)?)
}
