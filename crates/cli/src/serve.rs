//! `coda serve`: a node as a service, told by a file what it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use coda_client::{ClientCertificate, ClientError, ConnectOptions};
use coda_protocol::cluster::Registration;
use coda_protocol::ids::NodeId;
use coda_protocol::join::JoinToken;
use tracing::{error, info, warn};

use crate::args::parse_setting;
use crate::cluster::Cluster;
use crate::entry::{self, Ended};
use crate::errors::{CliError, Exit};
use crate::node::{Certificates, DiskOptions, Node, NodeConfig};
use crate::operate::join;
use crate::output;
use crate::service::{self, Stage};
use crate::settings::{Settings, Sources};
use crate::signals::Signals;

/// Run a node as a service
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda serve --config /etc/coda/node.toml
  coda serve --config node.toml --data-dir /srv/coda --set log.level=debug
  CODA_NODE__ID=1 CODA_TLS__CA=/run/ca.pem coda serve     no file at all

Settings come from the file, the environment (`listen.client` is CODA_LISTEN__CLIENT) and the command line; the
later wins. `coda-admin config check` shows what holds and why, `coda-admin config keys` all that can be set.

The first line on standard output is `coda is ready on HOST:PORT`, printed once the node answers; under systemd the
unit is ready then too. SIGTERM or Ctrl-C stops it cleanly, a second one at once (exit status 130 or 143).
Certificates are read again when their files change, and on SIGHUP.

With `listen.peer`, a node is one of several: `coda-admin cluster init` begins a cluster with the first of them, and the
others join with `cluster.seeds` and `cluster.join_token`, or by `coda-admin cluster join`. Without, it is alone.")]
pub struct ServeArgs {
    /// What the node is, in TOML
    #[arg(long, value_name = "FILE", env = "CODA_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Short for --set node.data_dir=FOLDER
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Short for --set listen.client=ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Short for --set log.level=LEVEL
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any setting of the file; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

impl ServeArgs {
    fn sources(&self) -> Sources {
        let mut sources = Sources::new(self.config.as_deref());
        sources.set(&self.set);
        let options = [
            ("--data-dir", "node.data_dir", &self.data_dir),
            ("--listen", "listen.client", &self.listen),
            ("--log-level", "log.level", &self.log_level),
        ];
        for (option, key, value) in options {
            sources.options.extend(value.iter().map(|value| (option.to_owned(), key.to_owned(), value.clone())));
        }
        sources
    }
}

pub fn serve(args: &ServeArgs) -> Ended {
    let settings = Settings::of(&args.sources().load()?);
    entry::log_as(&settings.log_level, settings.log_is_json);
    service::run(keep(settings))
}

async fn keep(settings: Settings) -> Ended {
    let (signals, reloads) = Signals::of_a_service()?;
    if !settings.require_certificate && !settings.listen.ip().is_loopback() {
        warn!(
            listen = %settings.listen,
            "everyone who reaches this address can use this node; `client.require_certificate` changes that"
        );
    }
    let config = NodeConfig {
        node: settings.node,
        groups: 1,
        advertise: settings.advertise.as_deref().map(Into::into),
        peering: settings.peering.clone(),
        zone: settings.zone.as_deref().unwrap_or_default().into(),
        certificates: Certificates::Files(settings.certificates.clone()),
        require_client_certificate: settings.require_certificate,
        sync_delay: settings.sync_delay.into(),
        disk: DiskOptions { reserve_bytes: settings.disk_reserve, ..DiskOptions::default() },
        ..NodeConfig::alone(settings.data_dir.clone(), settings.listen)
    };
    let mut tell = |stage: Stage<'_>| {
        match stage {
            Stage::Starting => info!(data = %settings.data_dir.display(), "still starting, reading the folder"),
            Stage::Ready(node) => {
                output::print(&greeting(node, &settings))?;
                notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("ready")]);
                if let Some(joining) = Joining::of(node, &settings)? {
                    tokio::spawn(joining.run());
                }
            }
            Stage::Stopping => {
                notify(&[sd_notify::NotifyState::Stopping, sd_notify::NotifyState::Status("stopping")]);
                info!("stopping; a second signal stops it at once");
            }
            // The node has logged it.
            Stage::Stopped => {}
        }
        Ok(())
    };
    service::keep(config, signals, reloads, &mut tell).await
}

/// What a node needs that is to join a cluster by its settings.
struct Joining {
    node: NodeId,
    registration: Registration,
    token: JoinToken,
    options: ConnectOptions,
}

/// Before a cluster that does not answer is asked again.
const JOIN_AGAIN: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

impl Joining {
    /// None for a node that is in a cluster, or was not told of one.
    fn of(node: &Node, settings: &Settings) -> Result<Option<Self>, CliError> {
        let Some(token) = settings.join_token.as_deref().filter(|_| node.is_outside()) else { return Ok(None) };
        if settings.seeds.is_empty() {
            warn!("`cluster.join_token` without `cluster.seeds`: nobody to ask, waiting for `coda-admin cluster join`");
            return Ok(None);
        }
        let token = token.parse::<JoinToken>().map_err(ClientError::Refused)?;
        let files = &settings.certificates;
        let read = |path: &Path| {
            let why = |error: std::io::Error| CliError::local_io(format!("cannot read {}: {error}", path.display()));
            std::fs::read(path).map_err(why)
        };
        // A node's certificate is as good as a client's.
        let certificate = ClientCertificate { cert_pem: read(&files.cert)?, key_pem: read(&files.key)? };
        let options = ConnectOptions {
            certificate: Some(certificate),
            agent: concat!("coda-serve/", env!("CARGO_PKG_VERSION")).into(),
            ..ConnectOptions::new(&settings.seeds.join(","), read(&files.ca)?)?
        };
        Ok(Some(Self { node: settings.node, registration: node.registration().clone(), token, options }))
    }

    /// Asks until the cluster says yes, or no.
    async fn run(self) {
        loop {
            match self.ask().await {
                Ok(()) => return info!(node = self.node.0, "let into the cluster, its groups are on their way"),
                Err(error) if matches!(error.exit, Exit::Unavailable | Exit::Timeout) => {
                    warn!(code = error.code, why = error.message, "the cluster does not answer, asking again");
                }
                Err(error) => {
                    error!(code = error.code, why = error.message, "not let into the cluster, waiting outside of it");
                    return;
                }
            }
            tokio::time::sleep(JOIN_AGAIN).await;
        }
    }

    async fn ask(&self) -> Result<(), CliError> {
        let cluster = Cluster::open(self.options.clone(), Some(JOIN_PATIENCE)).await?;
        let joined = join::join(&cluster.admin(), &self.token, self.node, self.registration.clone()).await;
        cluster.close().await;
        joined
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd does not hear this node");
    }
}

/// The first line is for programs.
fn greeting(node: &Node, settings: &Settings) -> String {
    let address = node.address();
    let mut out = format!("coda is ready on {address}\n");
    let reached = settings.advertise.as_ref().map(|advertise| format!("clients  {advertise}"));
    let zone = settings.zone.as_ref().map(|zone| format!("zone     {zone}"));
    let lines = [Some(format!("node     {}", settings.node.0)), zone, reached];
    let data = format!("data     {}", settings.data_dir.display());
    for line in lines.into_iter().flatten().chain([data]) {
        out.push_str(&format!("  {line}\n"));
    }
    out
}
