//! The one class that Python sees: a client's or a worker's connection.

use std::collections::VecDeque;
use std::fmt::Display;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coda_client::protocol::ids::{LeaseId, SessionId};
use coda_client::protocol::request::Request;
use coda_client::{
    ClientCertificate, ClientError, ConnectOptions, Events, Link, Parcel, Served, WorkerLink, WorkerParcel,
};
use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use smol_str::SmolStr;
use tokio::runtime::Handle;

use crate::mailbox::Mailbox;
use crate::told::{Told, ticket};
use crate::{requests, runtime};

/// Events that move in one step from the link to the mailbox.
const BATCH_MAX: usize = 512;

/// A connection to the cluster. Connects in the background: what is posted meanwhile is sent then.
#[pyclass(frozen, weakref, module = "coda._native")]
pub(crate) struct Port {
    pid: u32,
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    mailbox: Mailbox,
    line: Mutex<Line>,
}

/// Requests wait here in their order: while the link is being opened, and while it has no room.
/// Waits for results wait apart, so that a full house of them never holds up anything else.
struct Line {
    end: End,
    queues: [Queue; 2],
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_sending: bool,
}

enum Waiting {
    Request { ticket: u64, request: Request },
    Client { ticket: u64, parcel: Parcel },
    Worker { ticket: u64, parcel: WorkerParcel },
}

#[derive(Clone)]
enum End {
    Opening,
    Client(Link),
    Worker(WorkerLink),
    Over(ClientError),
}

#[pymethods]
impl Port {
    /// `served` makes it a worker's: a list of `(queue, [task], [workflow], task_slots, run_slots)`.
    #[new]
    #[pyo3(signature = (address, ca, session, agent, connect_timeout, served=None, cert=None, key=None))]
    #[allow(clippy::too_many_arguments, reason = "Python gives them by name")]
    fn new(
        address: Option<&str>,
        ca: Option<&str>,
        session: &Bound<'_, PyAny>,
        agent: &str,
        connect_timeout: f64,
        served: Option<&Bound<'_, PyList>>,
        cert: Option<&str>,
        key: Option<&str>,
    ) -> PyResult<Self> {
        let session = SessionId(requests::id_of(session)?);
        let served = served.map(|served| served.iter().map(|each| requests::served(&each)).collect()).transpose()?;
        let mailbox = Mailbox::new().map_err(os_error)?;
        let queues = [Queue::default(), Queue::default()];
        let shared = Arc::new(Shared { mailbox, line: Mutex::new(Line { end: End::Opening, queues }) });
        let runtime = runtime::handle().map_err(os_error)?;
        match options(address, ca).and_then(|options| with_certificate(options, cert, key)) {
            Ok(mut options) => {
                options.session = session;
                options.agent = SmolStr::new(agent);
                options.connect_timeout = Duration::try_from_secs_f64(connect_timeout).unwrap_or(Duration::MAX);
                runtime.spawn(open(shared.clone(), options, served));
            }
            Err(error) => shared.over(error),
        }
        Ok(Self { pid: std::process::id(), shared, runtime })
    }

    /// Readable while `poll` has something.
    fn fileno(&self) -> PyResult<RawFd> {
        self.check_process()?;
        Ok(self.shared.mailbox.fileno())
    }

    /// Up to `max` events, never waiting.
    fn poll<'py>(&self, py: Python<'py>, max: usize) -> PyResult<Bound<'py, PyList>> {
        self.check_process()?;
        let told = self.shared.mailbox.take(max);
        let events = PyList::empty(py);
        for each in told {
            if let Some(event) = each.into_tuple(py)? {
                events.append(event)?;
            }
        }
        Ok(events)
    }

    /// Sends requests in their order, never waiting. Each is answered by one event with its token.
    fn post_batch(&self, batch: &Bound<'_, PyList>) -> PyResult<()> {
        self.check_process()?;
        for each in batch.iter() {
            let (token, request) = requests::request(each.cast::<PyTuple>()?)?;
            self.shared.clone().post(&self.runtime, ticket(token, &request), request);
        }
        Ok(())
    }

    /// A worker has stopped working on a lost lease.
    fn abandon(&self, kind: u8, id: &Bound<'_, PyAny>, lease: u64) -> PyResult<()> {
        self.check_process()?;
        let work = requests::work(kind, requests::id_of(id)?)?;
        if let End::Worker(link) = &self.shared.line.lock().end {
            link.abandon(work, LeaseId(lease));
        }
        Ok(())
    }

    /// A worker takes no further work. What it has been told of goes on.
    fn drain(&self) -> PyResult<()> {
        self.check_process()?;
        let end = self.shared.line.lock().end.clone();
        if let End::Worker(link) = end {
            let _guard = self.runtime.enter();
            link.drain();
        }
        Ok(())
    }

    /// How many leases a worker holds: told of, and not ended yet.
    fn held(&self) -> PyResult<usize> {
        self.check_process()?;
        let end = self.shared.line.lock().end.clone();
        Ok(if let End::Worker(link) = end { link.held() } else { 0 })
    }

    /// Says goodbye in the background; waits up to `timeout` seconds for it to have left.
    fn close(&self, py: Python<'_>, timeout: f64) {
        // In a forked child the connection is the parent's to close.
        if self.check_process().is_err() {
            return;
        }
        let end = std::mem::replace(&mut self.shared.line.lock().end, End::Over(ClientError::Closed));
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            match end {
                End::Client(link) => link.close().await,
                End::Worker(link) => link.close().await,
                End::Opening | End::Over(_) => shared.over(ClientError::Closed),
            }
            let _ = done.send(());
        });
        let timeout = Duration::try_from_secs_f64(timeout).unwrap_or_default();
        if !timeout.is_zero() {
            py.detach(move || wait.recv_timeout(timeout).ok());
        }
    }
}

impl Port {
    fn check_process(&self) -> PyResult<()> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err("forked"))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The parent's connection and threads: nothing of it may be touched here, not even to free it.
            let _kept = ManuallyDrop::new(self.shared.clone());
            return;
        }
        let end = std::mem::replace(&mut self.shared.line.lock().end, End::Over(ClientError::Closed));
        // A link closes with its last clone.
        drop(end);
    }
}

fn os_error(error: impl Display) -> PyErr {
    PyOSError::new_err(error.to_string())
}

/// What is not given is discovered. The session never comes from the environment: a client inside a worker would take
/// its worker's.
fn options(address: Option<&str>, ca: Option<&str>) -> Result<ConnectOptions, ClientError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let read = |path: &str, named_by: &str| {
        std::fs::read(path).map_err(|error| ClientError::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
            named_by: named_by.to_owned(),
        })
    };
    let ca_pem = match (ca, set("CODA_CA")) {
        (Some(path), _) => read(path, "`ca`")?,
        (None, Some(path)) => read(&path, "CODA_CA")?,
        (None, None) => ConnectOptions::discover()?.ca_pem,
    };
    match address.map(str::to_owned).or_else(|| set("CODA_ADDRESS")) {
        Some(address) => ConnectOptions::new(&address, ca_pem),
        None => Ok(ConnectOptions { ca_pem, ..ConnectOptions::discover()? }),
    }
}

/// Neither argument: what the environment names.
fn with_certificate(
    mut options: ConnectOptions,
    cert: Option<&str>,
    key: Option<&str>,
) -> Result<ConnectOptions, ClientError> {
    options.certificate = match (cert, key) {
        (None, None) => ClientCertificate::from_env()?,
        (cert, key) => ClientCertificate::read(
            cert.map(|path| (Path::new(path), "`cert`")),
            key.map(|path| (Path::new(path), "`key`")),
        )?,
    };
    Ok(options)
}

async fn open(shared: Arc<Shared>, options: ConnectOptions, served: Option<Vec<Served>>) {
    match served {
        None => match Link::open(options).await {
            Ok((link, events)) => {
                shared.clone().opened(End::Client(link));
                shared.pump(events).await;
            }
            Err(error) => shared.over(error),
        },
        Some(served) => match WorkerLink::open(options, served).await {
            Ok((link, events)) => {
                shared.clone().opened(End::Worker(link));
                shared.pump(events).await;
            }
            Err(error) => shared.over(error),
        },
    }
}

impl Shared {
    /// The link's last event, or the end of what never was one, is told before this.
    fn over(&self, error: ClientError) {
        let mut line = self.line.lock();
        line.end = End::Over(error.clone());
        let waiting = line.queues.iter_mut().flat_map(|queue| queue.waiting.drain(..));
        let refused = waiting.map(|waiting| Told::NotTaken { ticket: waiting.ticket(), error: error.clone() });
        let mut told: Vec<_> = refused.collect();
        told.push(Told::NotOpened(error.clone()));
        self.mailbox.put(told);
    }

    fn opened(self: Arc<Self>, end: End) {
        let mut line = self.line.lock();
        if matches!(line.end, End::Over(_)) {
            return;
        }
        line.end = end;
        for (index, queue) in line.queues.iter_mut().enumerate() {
            if !queue.waiting.is_empty() && !queue.is_sending {
                queue.is_sending = true;
                tokio::spawn(self.clone().send(index));
            }
        }
    }

    async fn pump<E: Into<Told>>(&self, mut events: Events<E>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while events.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.mailbox.put(batch.drain(..).map(Into::into));
            self.mailbox.room().await;
        }
    }

    fn post(self: Arc<Self>, runtime: &Handle, ticket: u64, request: Request) {
        let index = usize::from(matches!(request, Request::AwaitRun(_) | Request::AwaitTask(_)));
        let mut line = self.line.lock();
        let Line { end, queues } = &mut *line;
        let queue = &mut queues[index];
        if queue.is_sending || matches!(end, End::Opening) {
            queue.waiting.push_back(Waiting::Request { ticket, request });
            return;
        }
        let sent = match end {
            End::Opening => unreachable!("handled above"),
            End::Client(link) => {
                link.try_post(ticket, request).map(|back| back.map(|parcel| Waiting::Client { ticket, parcel }))
            }
            End::Worker(link) => {
                link.try_post(ticket, request).map(|back| back.map(|parcel| Waiting::Worker { ticket, parcel }))
            }
            End::Over(error) => Err(error.clone()),
        };
        match sent {
            Ok(None) => {}
            Ok(Some(waiting)) => {
                queue.waiting.push_back(waiting);
                queue.is_sending = true;
                runtime.spawn(self.clone().send(index));
            }
            Err(error) => {
                drop(line);
                self.mailbox.put([Told::NotTaken { ticket, error }]);
            }
        }
    }

    /// Sends what waits in one queue, each as soon as there is room, until nothing waits.
    async fn send(self: Arc<Self>, index: usize) {
        loop {
            let (end, waiting) = {
                let mut line = self.line.lock();
                let queue = &mut line.queues[index];
                let Some(waiting) = queue.waiting.pop_front() else {
                    queue.is_sending = false;
                    return;
                };
                (line.end.clone(), waiting)
            };
            let ticket = waiting.ticket();
            let sent = match (end, waiting) {
                (End::Client(link), Waiting::Request { request, .. }) => link.post(ticket, request).await,
                (End::Client(link), Waiting::Client { parcel, .. }) => link.post_parcel(parcel).await,
                (End::Worker(link), Waiting::Request { request, .. }) => link.post(ticket, request).await,
                (End::Worker(link), Waiting::Worker { parcel, .. }) => link.post_parcel(parcel).await,
                (End::Over(error), _) => Err(error),
                (End::Opening | End::Client(_) | End::Worker(_), _) => Err(ClientError::Closed),
            };
            if let Err(error) = sent {
                self.mailbox.put([Told::NotTaken { ticket, error }]);
            }
        }
    }
}

impl Waiting {
    fn ticket(&self) -> u64 {
        match self {
            Self::Request { ticket, .. } | Self::Client { ticket, .. } | Self::Worker { ticket, .. } => *ticket,
        }
    }
}
