//! `coda-admin support-bundle`: what somebody who helps needs to see, in one file.
//!
//! Deliberately absent: payloads, keys, certificates and tokens. What fails while it is put together is a file in it too:
//! a bundle is made when something does not work.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use coda_protocol::ids::Timestamp;
use coda_protocol::operate::ClusterReport;
use coda_protocol::reply::Reply;
use coda_protocol::request::Request;
use comfy_table::Cell;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tempfile::NamedTempFile;

use super::setting;
use crate::args::{Format, Global};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit, printable};
use crate::output::{self, Grid, Screen, bytes};
use crate::settings::Sources;
use crate::{queue, show};

/// Readable by whoever unpacks it.
const FILE_MODE: u32 = 0o600;
const CONTENTS: &str = "contents.txt";

/// Put what somebody who helps you needs to see into one file
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin support-bundle --out support.tar.gz
  coda-admin support-bundle --out support.tar.gz --config /etc/coda/node.toml

It holds what nodes report of themselves and of the cluster, settings, the list of queues, versions, and with --config what
a node is told. It holds addresses, and names of nodes, zones and queues, but no payloads, keys, certificates or tokens:
values that are secret are left out. Look through it before you pass it on. What could not be found out is in it as an
error, so it is made even where no node answers.")]
pub struct BundleArgs {
    /// Where to write it
    #[arg(long, value_name = "FILE.tar.gz")]
    out: PathBuf,
    /// A node's configuration, to be checked and added without its secrets
    #[arg(long, value_name = "NODE_TOML")]
    config: Option<PathBuf>,
    /// Overwrite a file that is there
    #[arg(long)]
    force: bool,
}

/// A file of the bundle.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    name: String,
    text: String,
}

/// The files of a bundle, in the order in which they were made.
#[derive(Debug, Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.push(Part { name: name.into(), text: text.into() });
    }

    /// What should be there, or why it is not.
    fn tell(&mut self, name: &str, found: Result<String, CliError>) {
        match found {
            Ok(text) => self.add(format!("{name}.json"), text),
            Err(error) => self.add(format!("{name}.error.txt"), plain(&error)),
        }
    }

    fn errors(&self) -> usize {
        self.0.iter().filter(|part| part.name.ends_with(".error.txt")).count()
    }
}

/// An error without colours.
fn plain(error: &CliError) -> String {
    let mut text = format!("error[{}]: {}\n", error.code, error.message);
    if let Some(detail) = &error.detail {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{detail}");
    }
    text
}

pub async fn bundle(args: &BundleArgs, global: &Global) -> Ended {
    // Asking all nodes for nothing would be a pity.
    if !args.force && args.out.exists() {
        return Err(CliError::exists(&args.out));
    }
    let screen = Screen { format: Format::Json, colours: false, ..Screen::new(global) };
    let mut parts = Parts::default();
    parts.add("versions.json", versions(global, &screen));
    match Cluster::connect(global).await {
        Ok(cluster) => {
            ask(&cluster, &screen, &mut parts).await;
            cluster.close().await;
        }
        Err(error) => parts.tell("cluster", Err(error)),
    }
    if let Some(path) = &args.config {
        let effective = Sources::new(Some(path)).load();
        parts.tell("config", effective.map(|effective| show::config::effective(&effective, &screen)));
    }
    let parts = finished(parts);
    save(&parts, &args.out, args.force, screen.now)?;
    output::print(&listed(&parts, &args.out, &Screen::new(global)))?;
    if parts.errors() > 0 {
        output::tip("Some things could not be found out: the files that end in .error.txt say why.");
    }
    output::tip(
        "It holds addresses and names, but no payloads, keys or tokens. Look through it before you pass it on.",
    );
    Ok(Exit::Ok)
}

fn versions(global: &Global, screen: &Screen) -> String {
    output::document(&json!({
        "program": concat!("coda-admin ", env!("CARGO_PKG_VERSION")),
        "platform": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "made_ms": screen.now.0,
        "address": global.address,
    }))
}

async fn ask(cluster: &Cluster, screen: &Screen, parts: &mut Parts) {
    let admin = cluster.admin();
    match admin.report().await {
        Ok(report) => add_report(&report, screen, parts),
        Err(error) => {
            parts.tell("cluster", Err(error.into()));
            // One node may know of itself what it cannot find out about all.
            let alone = cluster.own_report().await;
            let shown = alone.map(|report| show::node::report(&report, screen));
            parts.tell("node", shown.map_err(CliError::from));
        }
    }
    let described = cluster.ask(Request::DescribeNode).await.and_then(|reply| match reply {
        Reply::Node(node) => Ok(show::node::status(&node, screen)),
        _ => Err(coda_client::ClientError::UnexpectedReply { expected: "Node" }.into()),
    });
    parts.tell("description", described);
    parts.tell("settings", setting::all(&admin).await.map(|settings| show::setting::all(&settings, screen)));
    parts.tell("queues", queue::all(cluster).await.map(|queues| show::queue::list(&queues, screen)));
}

fn add_report(report: &ClusterReport, screen: &Screen, parts: &mut Parts) {
    parts.add("cluster.json", show::cluster::status(report, screen));
    parts.add("cluster.txt", show::cluster::status(report, &Screen { format: Format::Table, ..*screen }));
    for member in &report.members {
        let name = format!("nodes/node-{}", member.member.node);
        match &member.report {
            Ok(node) => parts.add(format!("{name}.json"), show::node::report(node, screen)),
            Err(why) => parts.add(format!("{name}.error.txt"), format!("it did not answer: {}\n", printable(why))),
        }
    }
}

/// With a list of what is in it.
fn finished(mut parts: Parts) -> Parts {
    let mut text = "What this bundle holds. No payloads, keys, certificates or tokens are in it.\n\n".to_owned();
    for part in &parts.0 {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>10}  {}", part.text.len(), part.name);
    }
    parts.0.insert(0, Part { name: CONTENTS.to_owned(), text });
    parts
}

fn listed(parts: &Parts, out: &Path, screen: &Screen) -> String {
    if screen.format == Format::Json {
        let file = |part: &Part| json!({ "name": part.name, "bytes": part.text.len() });
        let files: Vec<_> = parts.0.iter().map(file).collect();
        return output::document(&json!({ "path": out.display().to_string(), "files": files }));
    }
    let mut grid = Grid::new(screen, ["FILE", "SIZE"]);
    for part in &parts.0 {
        grid.row([Cell::new(&part.name), Cell::new(bytes(part.text.len() as u64))]);
    }
    grid.numbers([1]).render()
}

/// Whole or not at all: it gets its name when everything is in it.
fn save(parts: &Parts, out: &Path, force: bool, now: Timestamp) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::local_io(format!("cannot write {}: {error}", out.display()));
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(failed)?;
    write(parts, &mut file, now).map_err(failed)?;
    let saved = if force { file.persist(out) } else { file.persist_noclobber(out) };
    match saved {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Err(CliError::exists(out)),
        Err(error) => Err(failed(error.error)),
    }
}

fn write(parts: &Parts, to: impl Write, now: Timestamp) -> std::io::Result<()> {
    let folder = format!("coda-support-{}", now.0 / 1_000);
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
    for part in &parts.0 {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(FILE_MODE);
        header.set_mtime(now.0 / 1_000);
        archive.append_data(&mut header, format!("{folder}/{}", part.name), part.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;
    use crate::show::canned;

    const NOW: Timestamp = canned::NOW;

    fn screen() -> Screen {
        Screen { format: Format::Json, colours: false, now: NOW }
    }

    fn read(path: &Path) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let name = entry.path().unwrap().display().to_string();
            let (folder, name) = name.split_once('/').unwrap();
            assert!(folder.starts_with("coda-support-"), "{folder}");
            (name.to_owned(), text)
        });
        entries.collect()
    }

    #[test]
    fn it_holds_what_is_listed_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("support.tar.gz");
        let mut parts = Parts::default();
        add_report(&canned::degraded(), &screen(), &mut parts);
        parts.tell("queues", Err(CliError::local_io("no")));
        let parts = finished(parts);
        save(&parts, &out, false, NOW).unwrap();
        let files = read(&out);
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        let expected = [
            "cluster.json",
            "cluster.txt",
            "contents.txt",
            "nodes/node-1.json",
            "nodes/node-2.json",
            "nodes/node-3.error.txt",
            "queues.error.txt",
        ];
        assert_eq!(names, expected);
        assert!(files["contents.txt"].contains("  nodes/node-3.error.txt\n"));
        assert!(files["queues.error.txt"].starts_with("error[CODA4307]: no\n"));
        assert!(serde_json::from_str::<serde_json::Value>(&files["nodes/node-1.json"]).is_ok());
        assert_eq!(save(&parts, &out, false, NOW).unwrap_err().code, "CODA4325");
        save(&finished(Parts::default()), &out, true, NOW).unwrap();
        assert_eq!(read(&out).len(), 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_nodes_secrets_stay_where_they_are_and_no_node_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("node.toml");
        let out = folder.path().join("support.tar.gz");
        let ca = folder.path().join("no-such-ca.pem");
        let global = Global {
            address: Some("127.0.0.1:1".into()),
            ca: Some(ca.into()),
            cert: None,
            key: None,
            timeout: Some(std::time::Duration::from_millis(100)),
            output: Format::Json,
            no_color: true,
        };
        // Good settings, and such as are refused: what is said of them does not repeat a secret either.
        for text in [
            "[node]\nid = 3\n",
            "[node]\nid = 3\n[cluster]\njoin_token = \"sesame-open\"\n",
            "[node]\nid = 3\n[cluster]\njoin_token = 7\njoin_tokn = \"sesame-open\"\n",
            "[node]\nid = 3\n[cluster]\njoin_token = \"sesame-open\n",
        ] {
            std::fs::write(&config, text).unwrap();
            let args = BundleArgs { out: out.clone(), config: Some(config.clone()), force: true };
            assert_eq!(bundle(&args, &global).await.unwrap(), Exit::Ok);
            let files = read(&out);
            assert!(files["cluster.error.txt"].starts_with("error[CODA4003]"), "{files:?}");
            assert!(files.keys().any(|name| name.starts_with("config.")), "{files:?}");
            assert!(files.values().all(|text| !text.contains("sesame")), "{files:?}");
        }
    }
}
