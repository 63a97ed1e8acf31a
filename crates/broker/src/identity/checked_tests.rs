//! A node's certificates, each mistake that people make with them, and the authority that signs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coda_protocol::ids::{NodeId, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn days(days: u32) -> Lifetime {
    Lifetime::days(NOW, days).unwrap()
}

fn later(days: u64) -> Timestamp {
    Timestamp(NOW.0 + days * DAY_MS)
}

fn found(name: &str) -> Authority {
    Authority::found(&name.parse().unwrap(), days(3_650)).unwrap()
}

/// A folder as `coda-admin cert` fills it: an authority in `ca`, node 3 in `node`.
struct Folder {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = found("shop");
        authority.save(&dir.path().join("ca"), false).unwrap();
        let hosts = ["a.example", "10.0.0.3"].map(|host| host.parse().unwrap());
        authority.node(NodeId(3), &hosts, days(365)).unwrap().save(&dir.path().join("node"), "node", false).unwrap();
        Self { dir, authority }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn files(&self) -> IdentityFiles {
        let [ca, cert, key] = ["ca.pem", "node.pem", "node.key"].map(|name| self.path("node").join(name));
        IdentityFiles { ca, cert, key }
    }

    fn load_as(&self, node: u64, now: Timestamp) -> Result<NodeIdentity, IdentityError> {
        let quic = QuicKeys::keep(&self.path("quic.key"))?;
        NodeIdentity::load(&self.files(), NodeId(node), quic, now)
    }

    fn refusal(&self) -> (&'static str, String) {
        self.refusal_at(NOW)
    }

    fn refusal_at(&self, now: Timestamp) -> (&'static str, String) {
        let Err(error) = self.load_as(3, now) else { panic!("accepted") };
        (error.code(), error.to_string())
    }

    fn replace(&self, issued: &Issued) {
        fs::write(self.files().cert, &issued.cert_pem).unwrap();
        fs::write(self.files().key, &issued.key_pem).unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_the_authority_signs_for_a_node_is_accepted_as_that_node() {
    let folder = Folder::new();
    let identity = folder.load_as(3, NOW).unwrap();
    assert_eq!(identity.cluster, Some(folder.authority.cluster()));
    let peer = PeerIdentity::of(&identity.chain[0]).unwrap();
    assert_eq!(peer, PeerIdentity::Node { cluster: folder.authority.cluster(), node: NodeId(3) });
    let read = Certificate::read(&identity.chain[0], "it").unwrap();
    assert_eq!(read.hosts, ["coda", "a.example", "10.0.0.3"]);
    assert!(read.for_servers && read.for_clients && !read.is_authority);
    assert_eq!(identity.not_after, later(365));
    for (file, expected) in [("ca/ca.key", 0o600), ("ca/ca.pem", 0o644), ("node/node.key", 0o600)] {
        assert_eq!(mode(&folder.path(file)), expected, "{file}");
    }
    assert!(!folder.path("node/ca.key").exists());
}

#[test]
fn a_client_is_a_client_and_nothing_else() {
    let authority = found("shop");
    let issued = authority.client(&"ci".parse().unwrap(), days(365)).unwrap();
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let read = Certificate::read(&der, "it").unwrap();
    assert!(read.for_clients && !read.for_servers && !read.is_authority && read.hosts.is_empty());
    assert_eq!(PeerIdentity::of(&der).unwrap().to_string(), "client ci");
}

#[test]
fn an_authority_is_no_peer() {
    let folder = Folder::new();
    let ca = read_certificates(&folder.files().ca).unwrap();
    assert_eq!(PeerIdentity::of(&ca[0]).unwrap_err().code(), "CODA4211");
}

#[test]
fn time_is_looked_at_on_both_ends() {
    let folder = Folder::new();
    let (code, text) = folder.refusal_at(later(366));
    assert_eq!(code, "CODA4208");
    assert!(text.contains("node.pem has expired at 2028-01-15"), "{text}");
    let (code, text) = folder.refusal_at(Timestamp(NOW.0 - DAY_MS));
    // The authority is as young.
    assert_eq!(code, "CODA4209", "{text}");
    assert!(folder.load_as(3, Timestamp(NOW.0 - 1_000)).is_ok(), "clocks may differ a little");
    assert!(folder.load_as(3, later(364)).is_ok());
}

#[test]
fn another_nodes_certificate_is_refused() {
    let folder = Folder::new();
    let Err(error) = folder.load_as(4, NOW) else { panic!("accepted") };
    assert_eq!(error.code(), "CODA4212");
    assert!(error.to_string().contains("of node 3, not of node 4"), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let folder = Folder::new();
    let other = folder.authority.node(NodeId(3), &[], days(365)).unwrap();
    fs::write(folder.files().key, &other.key_pem).unwrap();
    assert_eq!(folder.refusal().0, "CODA4210");
}

#[test]
fn only_a_nodes_certificate_is_one() {
    let folder = Folder::new();
    folder.replace(&folder.authority.client(&"ci".parse().unwrap(), days(365)).unwrap());
    let (code, text) = folder.refusal();
    assert_eq!(code, "CODA4211");
    assert!(text.contains("it is that of client ci"), "{text}");
    fs::copy(folder.path("ca/ca.pem"), folder.files().cert).unwrap();
    assert_eq!(folder.refusal().0, "CODA4211");
}

#[test]
fn a_certificate_that_clients_would_refuse_is_refused_here() {
    let folder = Folder::new();
    let ca_key = rcgen::KeyPair::from_pem(&fs::read_to_string(folder.path("ca/ca.key")).unwrap()).unwrap();
    let ca_pem = fs::read_to_string(folder.path("ca/ca.pem")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&ca_pem, ca_key).unwrap();
    let uri = format!("coda:node:{}:3", folder.authority.cluster());
    let make = |names: &[&str], usages: &[rcgen::ExtendedKeyUsagePurpose]| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri.as_str().try_into().unwrap()));
        params.extended_key_usages = usages.to_vec();
        fs::write(folder.files().cert, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(folder.files().key, key.serialize_pem()).unwrap();
    };
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    make(&["coda"], &[ServerAuth, ClientAuth]);
    assert!(folder.load_as(3, NOW).is_ok());
    for (names, usages) in
        [(&["other"][..], &[ServerAuth, ClientAuth][..]), (&["coda"], &[ClientAuth]), (&["coda"], &[ServerAuth])]
    {
        make(names, usages);
        assert_eq!(folder.refusal().0, "CODA4211", "{names:?} {usages:?}");
    }
}

#[test]
fn an_authority_signs_for_its_own_cluster_only() {
    let folder = Folder::new();
    // Of the same name: names are for people.
    let other = found("shop");
    folder.replace(&other.node(NodeId(3), &[], days(365)).unwrap());
    assert_eq!(folder.refusal().0, "CODA4213");
    // Of the same cluster, but nobody trusts it yet.
    let successor = folder.authority.successor(days(3_650)).unwrap();
    folder.replace(&successor.node(NodeId(3), &[], days(365)).unwrap());
    assert_eq!(folder.refusal().0, "CODA4214");
}

#[test]
fn two_authorities_are_trusted_while_one_takes_over() {
    let folder = Folder::new();
    let successor = folder.authority.successor(days(3_650)).unwrap();
    successor.save(&folder.path("next"), false).unwrap();
    let [old, new] = ["ca/ca.pem", "next/ca.pem"].map(|name| fs::read_to_string(folder.path(name)).unwrap());
    fs::write(folder.files().ca, format!("{old}{new}")).unwrap();
    assert_eq!(folder.load_as(3, NOW).unwrap().roots.len(), 2);
    let issued = successor.node(NodeId(3), &[], days(365)).unwrap();
    issued.save(&folder.path("node"), "node", true).unwrap();
    assert_eq!(folder.load_as(3, NOW).unwrap().roots.len(), 2, "the bundle stays as it was");
    fs::write(folder.files().ca, new).unwrap();
    assert!(folder.load_as(3, NOW).is_ok());
}

#[test]
fn of_two_authorities_the_one_that_has_ended_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let old = Authority::found(&"shop".parse().unwrap(), days(10)).unwrap();
    let new = old.successor(days(3_650)).unwrap();
    old.save(&dir.path().join("old"), false).unwrap();
    new.save(&dir.path().join("new"), false).unwrap();
    let folder = Folder { dir, authority: new };
    let issued = folder.authority.node(NodeId(3), &[], days(365)).unwrap();
    issued.save(&folder.path("node"), "node", false).unwrap();
    let [old_pem, new_pem] = ["old/ca.pem", "new/ca.pem"].map(|name| fs::read_to_string(folder.path(name)).unwrap());
    fs::write(folder.files().ca, format!("{old_pem}{new_pem}")).unwrap();
    assert_eq!(folder.load_as(3, later(11)).unwrap().roots.len(), 1);
    fs::write(folder.files().ca, old_pem).unwrap();
    assert_eq!(folder.refusal_at(later(11)).0, "CODA4208");
}

#[test]
fn a_bundle_holds_authorities_of_one_cluster() {
    let folder = Folder::new();
    let ours = fs::read_to_string(folder.files().ca).unwrap();
    found("other").save(&folder.path("other"), false).unwrap();
    let theirs = fs::read_to_string(folder.path("other/ca.pem")).unwrap();
    fs::write(folder.files().ca, format!("{ours}{theirs}")).unwrap();
    assert_eq!(folder.refusal().0, "CODA4213");
    fs::copy(folder.files().cert, folder.files().ca).unwrap();
    assert_eq!(folder.refusal().0, "CODA4217");
    fs::write(folder.files().ca, "").unwrap();
    assert_eq!(folder.refusal().0, "CODA4207");
    fs::remove_file(folder.files().ca).unwrap();
    assert_eq!(folder.refusal().0, "CODA4202");
}

#[test]
fn nothing_is_overwritten_unless_one_says_so() {
    let folder = Folder::new();
    let before = fs::read(folder.path("ca/ca.key")).unwrap();
    assert_eq!(found("shop").save(&folder.path("ca"), false).unwrap_err().code(), "CODA4215");
    assert_eq!(fs::read(folder.path("ca/ca.key")).unwrap(), before);
    let issued = folder.authority.node(NodeId(3), &[], days(1)).unwrap();
    assert_eq!(issued.save(&folder.path("node"), "node", false).unwrap_err().code(), "CODA4215");
    fs::remove_file(folder.files().cert).unwrap();
    assert_eq!(issued.save(&folder.path("node"), "node", false).unwrap_err().code(), "CODA4215", "the key is there");
    issued.save(&folder.path("node"), "node", true).unwrap();
    assert!(folder.load_as(3, NOW).is_ok());
}

#[test]
fn a_folder_that_trusts_another_cluster_is_left_alone() {
    let folder = Folder::new();
    let other = found("other").node(NodeId(3), &[], days(1)).unwrap();
    assert_eq!(other.save(&folder.path("node"), "node", true).unwrap_err().code(), "CODA4213");
    let successor = folder.authority.successor(days(9)).unwrap();
    let issued = successor.node(NodeId(3), &[], days(1)).unwrap();
    assert_eq!(issued.save(&folder.path("node"), "node", true).unwrap_err().code(), "CODA4214");
    assert!(folder.load_as(3, NOW).is_ok());
}

#[test]
fn an_authority_is_read_back_and_checked() {
    let folder = Folder::new();
    let load = |now| Authority::load(&folder.path("ca"), now);
    let again = load(NOW).unwrap();
    assert_eq!(again.cluster(), folder.authority.cluster());
    folder.replace(&again.node(NodeId(3), &[], days(365)).unwrap());
    assert!(folder.load_as(3, NOW).is_ok());
    let code = |now| load(now).err().map(|error| error.code());
    assert_eq!(code(later(3_651)), Some("CODA4208"));
    fs::copy(folder.files().key, folder.path("ca/ca.key")).unwrap();
    assert_eq!(code(NOW), Some("CODA4210"));
    fs::copy(folder.files().cert, folder.path("ca/ca.pem")).unwrap();
    assert_eq!(code(NOW), Some("CODA4217"));
    fs::remove_file(folder.path("ca/ca.pem")).unwrap();
    assert_eq!(code(NOW), Some("CODA4202"));
}

#[test]
fn nothing_outlives_its_authority() {
    let authority = Authority::found(&"shop".parse().unwrap(), days(10)).unwrap();
    let issued = authority.node(NodeId(3), &[], days(365)).unwrap();
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    assert_eq!(Certificate::read(&der, "it").unwrap().not_after, later(10));
    for out_of_bounds in [0, 36_501] {
        assert!(Lifetime::days(NOW, out_of_bounds).is_err());
    }
}

#[test]
fn quic_keys_are_made_once_and_are_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quic.key");
    let (first, second) = (QuicKeys::keep(&path).unwrap(), QuicKeys::keep(&path).unwrap());
    assert_eq!((first.reset, first.connection_ids), (second.reset, second.connection_ids));
    assert_eq!(mode(&path), 0o600);
}
