//! `coda-admin cert`: a cluster's authority, and what it signs. Needs no node.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use coda_broker::identity::{
    Authority, Certificate, ClientName, ClusterName, Host, IdentityError, Issued, Lifetime, date, keys_match,
    read_certificates, read_key,
};
use coda_protocol::ids::{Millis, NodeId, Timestamp};
use coda_protocol::limits::NODE_ID_MAX;

use crate::args::Global;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Screen};
use crate::show;
use crate::show::cert::{Key, Shown, State};

const CA: &str = "ca";
const NODE: &str = "node";
const CLIENT: &str = "client";

/// Ten years: replacing it reaches every node and client.
const CA_DAYS: u32 = 3_650;
/// A year: replacing it is two files.
const LEAF_DAYS: u32 = 365;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

#[derive(Subcommand, Debug)]
pub enum CertCommand {
    Ca(CaArgs),
    Node(NodeArgs),
    Client(ClientArgs),
    Show(ShowArgs),
}

/// Make the authority (CA) of a cluster
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cert ca --out ca --cluster-name shop          of a new cluster
  coda-admin cert ca --out ca-2 --successor-of ca          to take over from another, of the same cluster

Writes ca.pem, which everybody may have, and ca.key, which makes certificates: keep it away from nodes.")]
pub struct CaArgs {
    /// The folder to write to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// What people call the cluster
    #[arg(long, value_name = "NAME", required_unless_present = "successor_of", value_parser = name::<ClusterName>)]
    cluster_name: Option<ClusterName>,
    /// The folder of the authority that this one is to replace
    #[arg(long, value_name = "FOLDER", conflicts_with = "cluster_name")]
    successor_of: Option<PathBuf>,
    /// For how long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = CA_DAYS)]
    days: u32,
    /// Overwrite an authority that is there. What it has signed is worth nothing then
    #[arg(long)]
    force: bool,
}

/// Make the certificate of a node
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cert node --ca ca --id 3 --host node-3.example --host 10.0.0.3 --out node-3

Writes node.pem, node.key and the cluster's ca.pem: what `coda serve` reads below certs/.")]
pub struct NodeArgs {
    // Of the same id and type as the option of all commands, whose place it takes here.
    /// The authority's folder
    #[arg(id = "ca", long = "ca", value_name = "FOLDER", required = true)]
    ca: OsString,
    /// Which node of the cluster
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=NODE_ID_MAX))]
    id: u64,
    /// A name or address under which other programs know the node; may be given several times. Coda itself needs none
    #[arg(long = "host", value_name = "HOST", value_parser = name::<Host>)]
    hosts: Vec<Host>,
    /// The folder to write to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// For how long it is valid, but no longer than the authority
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS)]
    days: u32,
    /// Overwrite a certificate and key that are there
    #[arg(long)]
    force: bool,
}

/// Make the certificate of a client or worker
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cert client --ca ca --name ci --out ci

Writes client.pem, client.key and the cluster's ca.pem, for CODA_CERT, CODA_KEY and CODA_CA.")]
pub struct ClientArgs {
    // Of the same id and type as the option of all commands, whose place it takes here.
    /// The authority's folder
    #[arg(id = "ca", long = "ca", value_name = "FOLDER", required = true)]
    ca: OsString,
    /// Whose it is
    #[arg(long, value_name = "NAME", value_parser = name::<ClientName>)]
    name: ClientName,
    /// The folder to write to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// For how long it is valid, but no longer than the authority
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS)]
    days: u32,
    /// Overwrite a certificate and key that are there
    #[arg(long)]
    force: bool,
}

/// Show whose certificates a file holds, until when, and whether its key is there
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cert show node-3/node.pem
  coda-admin cert show node.pem /run/secrets/node.key
  coda-admin cert show /etc/coda/certs/ca.pem -o json

The exit status is 1 when one of them cannot be used now.")]
pub struct ShowArgs {
    /// A PEM file
    file: PathBuf,
    /// The first certificate's key, if it does not lie beside it under the same name
    #[arg(value_name = "KEY_FILE")]
    key_file: Option<PathBuf>,
}

fn name<T: std::str::FromStr<Err = IdentityError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: IdentityError| error.to_string())
}

pub fn cert(command: CertCommand, global: &Global) -> Ended {
    let screen = Screen::new(global);
    match command {
        CertCommand::Ca(args) => {
            let authority = found(&args, screen.now)?;
            authority.save(&args.out, args.force)?;
            made(&args.out, CA, &screen)
        }
        CertCommand::Node(args) => {
            let authority = Authority::load(Path::new(&args.ca), screen.now)?;
            let issued = authority.node(NodeId(args.id), &args.hosts, lifetime(screen.now, args.days)?)?;
            save(&issued, &authority, &To::new(&args.out, args.force, args.days), NODE, &screen)
        }
        CertCommand::Client(args) => {
            let authority = Authority::load(Path::new(&args.ca), screen.now)?;
            let issued = authority.client(&args.name, lifetime(screen.now, args.days)?)?;
            save(&issued, &authority, &To::new(&args.out, args.force, args.days), CLIENT, &screen)
        }
        CertCommand::Show(args) => show_file(&args.file, args.key_file.as_deref(), &screen),
    }
}

fn found(args: &CaArgs, now: Timestamp) -> Result<Authority, CliError> {
    let lifetime = lifetime(now, args.days)?;
    Ok(match (&args.cluster_name, &args.successor_of) {
        (_, Some(before)) => Authority::load(before, now)?.successor(lifetime)?,
        (Some(name), None) => Authority::found(name, lifetime)?,
        (None, None) => unreachable!("clap requires one of them"),
    })
}

fn lifetime(now: Timestamp, days: u32) -> Result<Lifetime, CliError> {
    Ok(Lifetime::days(now, days)?)
}

/// Where a certificate goes, and for how long it was asked to be valid.
struct To<'a> {
    folder: &'a Path,
    overwrite: bool,
    days: u32,
}

impl<'a> To<'a> {
    fn new(folder: &'a Path, overwrite: bool, days: u32) -> Self {
        Self { folder, overwrite, days }
    }
}

fn save(issued: &Issued, authority: &Authority, to: &To<'_>, name: &str, screen: &Screen) -> Ended {
    issued.save(to.folder, name, to.overwrite)?;
    if authority.expires() < screen.now + Millis(u64::from(to.days) * DAY_MS) {
        eprintln!("note: the certificate ends with its authority, at {}", date(authority.expires()));
    }
    made(to.folder, name, screen)
}

/// Shows what was written.
fn made(folder: &Path, name: &str, screen: &Screen) -> Ended {
    let path = folder.join(format!("{name}.pem"));
    output::print(&show::cert::list(&look_at(&path, None)?, screen))?;
    Ok(Exit::Ok)
}

fn show_file(path: &Path, key: Option<&Path>, screen: &Screen) -> Ended {
    let shown = look_at(path, key)?;
    output::print(&show::cert::list(&shown, screen))?;
    let what = path.display().to_string();
    for each in &shown {
        each.certificate.check_time(&what, screen.now)?;
        if each.state(screen.now) == State::EndsSoon {
            eprintln!("warning[CODA4218]: {what} expires at {}: replace it", date(each.certificate.not_after));
        }
        if let Key::Differs(key) = &each.key {
            return Err(IdentityError::KeyMismatch { certificate: path.into(), key: key.clone() }.into());
        }
    }
    Ok(Exit::Ok)
}

/// What a file holds. The key is that of the first certificate: the others are those that signed it, or a bundle.
fn look_at(path: &Path, key: Option<&Path>) -> Result<Vec<Shown>, CliError> {
    let what = path.display().to_string();
    let chain = read_certificates(path)?;
    let beside = path.with_extension("key");
    let key = match key {
        Some(key) => Some(key),
        None => beside.exists().then_some(beside.as_path()),
    };
    let mut shown = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        let key = match key.filter(|_| index == 0) {
            Some(key) if keys_match(&chain[..1], &read_key(key)?, key)? => Key::Matches(key.to_owned()),
            Some(key) => Key::Differs(key.to_owned()),
            None => Key::NotThere,
        };
        shown.push(Shown { certificate: Certificate::read(der, &what)?, key });
    }
    Ok(shown)
}
