//! `node.toml`: what a node is told, from where, and each mistake in it.
//!
//! Three layers, of which the later wins: the file, the environment (`CODA_SECTION__KEY`), the command line.
//! [`keys::KEYS`] is the page to read: every key with its kind, its bounds and its default. None of it can influence
//! what an entry of the log means; limits that must be equal on all nodes are elsewhere.

pub mod keys;
mod layers;
mod problem;
mod value;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::node::Peering;
use coda_broker::identity::IdentityFiles;
use coda_protocol::ids::NodeId;

use crate::errors::CliError;
use keys::{KEYS, Key, Without};
pub use layers::Origin;
use layers::{Given, Layers};
use problem::Problem;
use value::Raw;
pub use value::Value;

/// What a node is told.
#[derive(Debug)]
pub struct Settings {
    pub node: NodeId,
    pub data_dir: PathBuf,
    pub zone: Option<String>,
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    /// How it meets other nodes; none if it is alone.
    pub peering: Option<Peering>,
    /// Whom to ask to be let into a cluster, and with what.
    pub seeds: Vec<String>,
    pub join_token: Option<String>,
    pub certificates: IdentityFiles,
    pub require_certificate: bool,
    pub sync_delay: Duration,
    /// Writes are refused while less than this is free; none for the default.
    pub disk_reserve: Option<u64>,
    pub log_level: String,
    pub log_is_json: bool,
}

/// A key, what holds, and why.
#[derive(Debug)]
pub struct Effective {
    pub key: &'static Key,
    pub value: Option<Value>,
    pub origin: Origin,
}

/// Where settings come from.
#[derive(Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    pub variables: Vec<(OsString, OsString)>,
    /// An option's name, the key that it sets, and to what.
    pub options: Vec<(String, String, String)>,
}

impl Sources {
    /// A file and this process's environment.
    pub fn new(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_owned), variables: std::env::vars_os().collect(), options: Vec::new() }
    }

    /// Adds what `--set KEY=VALUE` says.
    pub fn set(&mut self, pairs: &[(String, String)]) {
        self.options.extend(pairs.iter().map(|(key, value)| ("--set".into(), key.clone(), value.clone())));
    }

    /// What holds, key by key.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(&self) -> Result<Vec<Effective>, CliError> {
        let mut layers = Layers::default();
        if let Some(path) = &self.file {
            layers.file(path);
        }
        let base = layers.base.clone();
        layers.variables(self.variables.iter().cloned());
        self.options.iter().for_each(|(option, key, value)| layers.option(option, key, value));
        let mut problems = std::mem::take(&mut layers.problems);
        let effective = KEYS.iter().filter_map(|key| match effective(key, layers.get(key.name), &base) {
            Ok(effective) => Some(effective),
            Err(problem) => {
                problems.push(problem);
                None
            }
        });
        let effective: Vec<Effective> = effective.collect();
        problems.extend(alone(&effective));
        if problems.is_empty() {
            return Ok(effective);
        }
        // Without its file nothing else is known: what is missing is not the mistake.
        if problems.iter().any(|problem| problem.code == "CODA4219") {
            problems.retain(|problem| problem.code == "CODA4219");
        }
        problems.sort_by(|a, b| a.place.is_none().cmp(&b.place.is_none()).then(a.place.cmp(&b.place)));
        Err(problem::refusal(&problems))
    }
}

/// What is said about other nodes of a node that meets none.
fn alone(effective: &[Effective]) -> Vec<Problem> {
    let is_set = |name: &str| effective.iter().any(|one| one.key.name == name && one.value.is_some());
    if is_set(PEER) {
        return Vec::new();
    }
    let pointless = effective.iter().filter(|one| OF_PEERS.contains(&one.key.name) && one.value.is_some());
    pointless.map(|one| Problem::alone(one.origin.clone(), one.key)).collect()
}

/// A node with this meets others, and the rest is about how.
const PEER: &str = "listen.peer";
const OF_PEERS: [&str; 3] = ["listen.advertise_peer", "cluster.seeds", "cluster.join_token"];

/// `base` is where relative defaults count from.
fn effective(key: &'static Key, given: Option<&Given>, base: &Path) -> Result<Effective, Problem> {
    let (raw, origin, base) = match (given, key.without) {
        (Some(Given { raw, origin, base }), _) => (raw.clone(), origin.clone(), base.as_path()),
        (None, Without::Default(text)) => (Raw::Words(text.to_owned()), Origin::Default, base),
        (None, Without::Nothing) => return Ok(Effective { key, value: None, origin: Origin::Default }),
        (None, Without::Missing) => return Err(Problem::missing(key)),
    };
    match key.kind.read(&raw, base) {
        Ok(value) => Ok(Effective { key, value: Some(value), origin }),
        Err(expected) => Err(Problem::bad_value(origin, key, &raw, &expected)),
    }
}

impl Settings {
    /// The same, with the types that a node wants. `effective` is what [`Sources::load`] gave.
    pub fn of(effective: &[Effective]) -> Self {
        let held = Held(effective);
        Self {
            node: NodeId(held.number("node.id")),
            data_dir: held.path("node.data_dir"),
            zone: held.text("node.zone"),
            listen: held.address("listen.client"),
            advertise: held.text("listen.advertise_client"),
            peering: held
                .maybe_address("listen.peer")
                .map(|listen| Peering { listen, advertise: held.text("listen.advertise_peer").map(Into::into) }),
            seeds: held.texts("cluster.seeds"),
            join_token: held.text("cluster.join_token"),
            certificates: IdentityFiles {
                ca: held.path("tls.ca"),
                cert: held.path("tls.cert"),
                key: held.path("tls.key"),
            },
            require_certificate: held.flag("client.require_certificate"),
            sync_delay: held.duration("storage.sync_delay"),
            disk_reserve: held.bytes("storage.disk_reserve"),
            log_level: held.text("log.level").unwrap_or_default(),
            log_is_json: held.text("log.format").as_deref() == Some("json"),
        }
    }
}

/// Values by name. What is asked for has the kind that [`keys::KEYS`] says: anything else is our mistake.
struct Held<'a>(&'a [Effective]);

impl Held<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|effective| effective.key.name == name);
        found.unwrap_or_else(|| unreachable!("there is no key {name}")).value.as_ref()
    }

    fn number(&self, name: &str) -> u64 {
        let Some(Value::Number(number)) = self.get(name) else { unreachable!("{name} is a number") };
        *number
    }

    fn flag(&self, name: &str) -> bool {
        let Some(Value::Flag(flag)) = self.get(name) else { unreachable!("{name} is a flag") };
        *flag
    }

    fn path(&self, name: &str) -> PathBuf {
        let Some(Value::Path(path)) = self.get(name) else { unreachable!("{name} is a path") };
        path.clone()
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.maybe_address(name).unwrap_or_else(|| unreachable!("{name} is an address"))
    }

    fn maybe_address(&self, name: &str) -> Option<SocketAddr> {
        match self.get(name) {
            Some(Value::Address(address)) => Some(*address),
            None => None,
            Some(_) => unreachable!("{name} is an address"),
        }
    }

    fn duration(&self, name: &str) -> Duration {
        let Some(Value::Duration(duration)) = self.get(name) else { unreachable!("{name} is a duration") };
        *duration
    }

    fn bytes(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Bytes(bytes)) => Some(*bytes),
            None => None,
            Some(_) => unreachable!("{name} is a number of bytes"),
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::Texts(texts)) => texts.clone(),
            None => Vec::new(),
            Some(_) => unreachable!("{name} is a list of texts"),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            None => None,
            Some(_) => unreachable!("{name} is a text"),
        }
    }
}
