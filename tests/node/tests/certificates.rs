//! A node with certificates that people made: who is let in, and what happens when the files change.

use std::fs;
use std::path::PathBuf;

use coda_broker::clock::{Clock, SystemClock};
use coda_broker::identity::{Authority, IdentityFiles, Issued, Lifetime};
use coda_broker::node::{Certificates, Node, NodeConfig};
use coda_client::{Client, ClientCertificate, ClientError, ConnectOptions};
use coda_node_tests::raw::{Raw, client_config, endpoint, tls};
use coda_node_tests::{logs, soon, until};
use coda_protocol::ids::NodeId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

/// An authority, and the files of its node 1.
struct Cluster {
    dir: TempDir,
    authority: Authority,
}

fn days(days: u32) -> Lifetime {
    Lifetime::days(SystemClock.now(), days).unwrap()
}

fn pem(issued: &Issued) -> ClientCertificate {
    ClientCertificate { cert_pem: issued.cert_pem.clone().into(), key_pem: issued.key_pem.clone().into() }
}

impl Cluster {
    fn new() -> Self {
        logs::collect();
        let cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::found(&"shop".parse().unwrap(), days(100)).unwrap(),
        };
        cluster.authority.save(&cluster.path("ca"), false).unwrap();
        cluster.certify(&cluster.authority);
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the node another certificate.
    fn certify(&self, by: &Authority) {
        by.node(NodeId(1), &[], days(30)).unwrap().save(&self.path("certs"), "node", true).unwrap();
    }

    fn successor(&self) -> Authority {
        let successor = self.authority.successor(days(100)).unwrap();
        successor.save(&self.path("ca-2"), false).unwrap();
        successor
    }

    fn ca(&self, folders: &[&str]) -> String {
        folders.iter().map(|folder| fs::read_to_string(self.path(folder).join("ca.pem")).unwrap()).collect()
    }

    fn trust(&self, folders: &[&str]) {
        fs::write(self.path("certs/ca.pem"), self.ca(folders)).unwrap();
    }

    fn config(&self, require_client_certificate: bool) -> NodeConfig {
        let [ca, cert, key] = ["ca.pem", "node.pem", "node.key"].map(|name| self.path("certs").join(name));
        NodeConfig {
            certificates: Certificates::Files(IdentityFiles { ca, cert, key }),
            require_client_certificate,
            ..NodeConfig::alone(self.path("data"), "127.0.0.1:0".parse().unwrap())
        }
    }

    async fn start(&self, require_client_certificate: bool) -> Node {
        let started = soon("the node starts", Node::start(self.config(require_client_certificate))).await;
        started.unwrap_or_else(|error| panic!("{}: {error}", error.code()))
    }

    fn client(&self) -> ClientCertificate {
        pem(&self.authority.client(&"ci".parse().unwrap(), days(30)).unwrap())
    }

    async fn connect(&self, node: &Node, certificate: Option<ClientCertificate>) -> Result<Client, ClientError> {
        let options = ConnectOptions::new(&node.address().to_string(), self.ca(&["certs"])).unwrap();
        soon("an answer", Client::connect(ConnectOptions { certificate, ..options })).await
    }

    async fn refusal(&self, node: &Node, certificate: Option<ClientCertificate>) -> (&'static str, String) {
        let Err(error) = self.connect(node, certificate).await else { panic!("let in") };
        (error.code(), error.to_string())
    }
}

/// The certificate that new connections are shown.
async fn shown(node: &Node, ca: &str) -> CertificateDer<'static> {
    let raw = Raw::connect_with(endpoint(), client_config(tls(ca.as_bytes(), &[b"coda"])), node.address()).await;
    let chain = raw.connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0].clone()
}

fn in_file(cluster: &Cluster) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(cluster.path("certs/node.pem")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_being_asked_clients_need_no_certificate_and_may_have_one() {
    let cluster = Cluster::new();
    let node = cluster.start(false).await;
    assert!(cluster.connect(&node, None).await.unwrap().describe_node().await.is_ok());
    assert!(cluster.connect(&node, Some(cluster.client())).await.unwrap().describe_node().await.is_ok());
    // Only `coda dev` is found by whoever stands in its folder.
    assert!(!cluster.path("data/client.json").exists() && !cluster.path("data/certs").exists());
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_certificates_of_the_cluster_are_let_in_and_others_are_told_why() {
    let cluster = Cluster::new();
    let node = cluster.start(true).await;
    assert!(cluster.connect(&node, Some(cluster.client())).await.unwrap().describe_node().await.is_ok());
    let as_node = pem(&cluster.authority.node(NodeId(2), &[], days(30)).unwrap());
    assert!(cluster.connect(&node, Some(as_node)).await.unwrap().describe_node().await.is_ok());

    let (code, text) = cluster.refusal(&node, None).await;
    assert_eq!(code, "CODA4225");
    assert!(text.contains(&node.address().to_string()), "{text}");
    // An authority of the same name, which is another cluster's.
    let other = Authority::found(&"shop".parse().unwrap(), days(100)).unwrap();
    let stranger = pem(&other.client(&"ci".parse().unwrap(), days(30)).unwrap());
    let (code, text) = cluster.refusal(&node, Some(stranger)).await;
    assert_eq!(code, "CODA4226");
    assert!(text.contains("no authority that the node trusts"), "{text}");

    let certificate = ClientCertificate { key_pem: cluster.client().key_pem, ..cluster.client() };
    assert_eq!(cluster.refusal(&node, Some(certificate)).await.0, "CODA4227");
    let certificate = ClientCertificate { cert_pem: b"none".to_vec(), ..cluster.client() };
    assert_eq!(cluster.refusal(&node, Some(certificate)).await.0, "CODA4227");
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_the_authority_signed_for_something_else_is_refused() {
    let cluster = Cluster::new();
    let node = cluster.start(true).await;
    let ca_key = rcgen::KeyPair::from_pem(&fs::read_to_string(cluster.path("ca/ca.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&cluster.ca(&["ca"]), ca_key).unwrap();
    let make = |uri: Option<String>, years: (i32, i32), usage: rcgen::ExtendedKeyUsagePurpose| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let uri = uri.map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uri);
        params.extended_key_usages = vec![usage];
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let cert_pem = params.signed_by(&key, &issuer).unwrap().pem().into();
        ClientCertificate { cert_pem, key_pem: key.serialize_pem().into() }
    };
    let ours = Some(format!("coda:client:{}:ci", cluster.authority.cluster()));
    let theirs = Some("coda:client:00000000-0000-4000-8000-000000000000:ci".to_owned());
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let long = (2020, 4000);
    assert!(cluster.connect(&node, Some(make(ours.clone(), long, ClientAuth))).await.is_ok());
    for (uri, years, usage, why) in [
        (ours.clone(), (2020, 2021), ClientAuth, "expired"),
        (ours.clone(), (3999, 4000), ClientAuth, "not valid yet"),
        (ours, long, ServerAuth, "may not be used by a client"),
        (theirs, long, ClientAuth, "of this cluster"),
        (None, long, ClientAuth, "of this cluster"),
    ] {
        let (code, text) = cluster.refusal(&node, Some(make(uri.clone(), years, usage))).await;
        assert_eq!(code, "CODA4226", "{uri:?}");
        assert!(text.contains(why), "{uri:?}: {text}");
    }
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_the_wrong_files_does_not_start() {
    let cluster = Cluster::new();
    let config = NodeConfig { node: NodeId(2), ..cluster.config(false) };
    let Err(error) = soon("an answer", Node::start(config)).await else { panic!("started") };
    assert_eq!(error.code(), "CODA4212");
    fs::remove_file(cluster.path("certs/node.key")).unwrap();
    let Err(error) = soon("an answer", Node::start(cluster.config(false))).await else { panic!("started") };
    assert_eq!(error.code(), "CODA4202");
    // Nothing of it stands in the way once the files are right.
    cluster.certify(&cluster.authority);
    let node = cluster.start(false).await;
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_used_for_new_connections_and_open_ones_stay() {
    let cluster = Cluster::new();
    let node = cluster.start(true).await;
    let client = cluster.connect(&node, Some(cluster.client())).await.unwrap();
    cluster.certify(&cluster.authority);
    let mut current = node.identity().clone();
    // Nobody asks: it sees the change by itself.
    let next = soon("the files are read", current.next()).await.unwrap();
    assert_eq!(next.chain[0], in_file(&cluster));
    assert!(client.describe_node().await.is_ok());
    assert!(cluster.connect(&node, Some(cluster.client())).await.unwrap().describe_node().await.is_ok());
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authority_takes_over_from_another_while_the_node_runs() {
    let cluster = Cluster::new();
    let node = cluster.start(false).await;
    let (old, successor) = (cluster.ca(&["ca"]), cluster.successor());
    let (both, new) = (cluster.ca(&["ca", "ca-2"]), cluster.ca(&["ca-2"]));
    assert_eq!(shown(&node, &old).await, in_file(&cluster));

    // Everybody learns to trust both, then the node changes, then nobody trusts the old one.
    for step in ["trust both", "another certificate", "trust the new one"] {
        let mut current = node.identity().clone();
        match step {
            "trust both" => cluster.trust(&["ca", "ca-2"]),
            "another certificate" => cluster.certify(&successor),
            _ => cluster.trust(&["ca-2"]),
        }
        node.identity().reload();
        soon(step, current.next()).await.unwrap();
        until(step, || async { (shown(&node, &both).await == in_file(&cluster)).then_some(()) }).await;
    }
    assert_eq!(shown(&node, &new).await, in_file(&cluster));
    let untrusting = ConnectOptions::new(&node.address().to_string(), old).unwrap();
    let Err(error) = soon("an answer", Client::connect(untrusting)).await else { panic!("trusted") };
    assert_eq!(error.code(), "CODA4008");
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_new_set_is_refused_and_the_old_one_stays() {
    let cluster = Cluster::new();
    let node = cluster.start(false).await;
    let before = in_file(&cluster);
    let other = Authority::found(&"other".parse().unwrap(), days(100)).unwrap();
    let stranger = other.node(NodeId(1), &[], days(30)).unwrap();
    fs::write(cluster.path("certs/node.pem"), &stranger.cert_pem).unwrap();
    fs::write(cluster.path("certs/node.key"), &stranger.key_pem).unwrap();
    let path = cluster.path("certs/node.pem").display().to_string();
    let refusal = || logs::matching(&path).into_iter().find(|line| line.contains("are refused"));
    let warned = until("a warning", || async { refusal() }).await;
    assert!(warned.contains("CODA4213"), "{warned}");
    assert_eq!(shown(&node, &cluster.ca(&["ca"])).await, before);
    // And the next good one is used.
    cluster.certify(&cluster.authority);
    let mut current = node.identity().clone();
    node.identity().reload();
    soon("the files are read", current.next()).await.unwrap();
    let ca = cluster.ca(&["ca"]);
    until("it is shown", || async { (shown(&node, &ca).await == in_file(&cluster)).then_some(()) }).await;
    soon("the node stops", node.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_soon_is_warned_about() {
    let cluster = Cluster::new();
    let clock = coda_node_tests::clock::TestClock::new();
    clock.advance_ms(25 * 24 * 3_600 * 1_000);
    let node = soon("the node starts", Node::start_with(cluster.config(false), clock)).await.unwrap();
    let path = cluster.path("certs/node.pem").display().to_string();
    let warning = || logs::matching(&path).into_iter().find(|line| line.contains("CODA4218"));
    until("a warning", || async { warning() }).await;
    soon("the node stops", node.shutdown()).await;
}
