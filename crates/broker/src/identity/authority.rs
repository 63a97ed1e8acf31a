//! A cluster's authority: made once, and then asked for the certificates of nodes and clients.

use std::path::Path;

use coda_protocol::ids::{ClusterId, NodeId, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::SERVER_NAME;
use super::certificate::{Certificate, Holder, PeerIdentity};
use super::error::IdentityError;
use super::files::{self, PUBLIC, SECRET};
use super::names::{ClientName, ClusterName, Host};

pub(super) const CA_CERT: &str = "ca.pem";
pub(super) const CA_KEY: &str = "ca.key";

/// A node's certificate names no more hosts.
const HOSTS_MAX: usize = 64;
/// Certificates begin a little before they are made: clocks of machines differ.
const BACKDATE: Duration = Duration::HOUR;
/// Further ahead dates have no form.
const DAYS_MAX: u32 = 36_500;

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Lifetime {
    /// # Errors
    /// `CODA4216` for less than a day or more than a century.
    pub fn days(now: Timestamp, days: u32) -> Result<Self, IdentityError> {
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(IdentityError::BadInput { why: format!("a certificate is valid for 1 to {DAYS_MAX} days") });
        }
        let now = moment(now);
        Ok(Self { from: now - BACKDATE, to: now + Duration::days(days.into()) })
    }

    /// For a machine of one's own.
    pub(super) fn unlimited() -> Self {
        Self { from: rcgen::date_time_ymd(1975, 1, 1), to: rcgen::date_time_ymd(4096, 1, 1) }
    }

    /// Nobody trusts a certificate longer than its authority.
    fn within(self, authority: OffsetDateTime) -> Self {
        Self { to: self.to.min(authority), ..self }
    }
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp((at.0 / 1_000).cast_signed()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Who signs for a cluster.
pub struct Authority {
    name: ClusterName,
    cluster: ClusterId,
    pem: String,
    expires: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, not written yet.
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
    ca_pem: String,
}

impl Authority {
    /// Makes the first authority of a new cluster.
    ///
    /// # Errors
    /// When the machine cannot make keys.
    pub fn found(name: &ClusterName, lifetime: Lifetime) -> Result<Self, IdentityError> {
        Self::make(name.clone(), ClusterId::random(), lifetime)
    }

    /// Makes another authority of the same cluster, to take over from this one.
    ///
    /// # Errors
    /// As [`Authority::found`].
    pub fn successor(&self, lifetime: Lifetime) -> Result<Self, IdentityError> {
        Self::make(self.name.clone(), self.cluster, lifetime)
    }

    fn make(name: ClusterName, cluster: ClusterId, lifetime: Lifetime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names.push(uri(&Holder::Authority(cluster))?);
        (params.not_before, params.not_after) = (lifetime.from, lifetime.to);
        let pem = params.self_signed(&key)?.pem();
        let expires = Timestamp(u64::try_from(lifetime.to.unix_timestamp()).unwrap_or(0) * 1_000);
        Ok(Self { name, cluster, pem, expires, issuer: Issuer::new(params, key) })
    }

    /// Reads the authority in `dir`, with its key.
    ///
    /// # Errors
    /// When there is none, it has expired, or the key is another one's.
    pub fn load(dir: &Path, now: Timestamp) -> Result<Self, IdentityError> {
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        let chain = files::read_certificates(&cert_path)?;
        let (cluster, read) = authority_of(&chain[0], &cert_path)?;
        read.check_time(&cert_path.display().to_string(), now)?;
        let key = files::read_key(&key_path)?;
        // Of a bundle, as there is while an authority takes over, the first is the one that signs.
        if !files::keys_match(&chain[..1], &key, &key_path)? {
            return Err(IdentityError::KeyMismatch { certificate: cert_path, key: key_path });
        }
        let issuer = Issuer::from_ca_cert_der(&chain[0], KeyPair::try_from(&key)?)?;
        let pem = String::from_utf8_lossy(&files::read(&cert_path)?).into_owned();
        Ok(Self { name: read.subject.parse()?, cluster, pem, expires: read.not_after, issuer })
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Until when it can sign.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Writes certificate and key into `dir`; the key is its owner's alone.
    ///
    /// # Errors
    /// `CODA4215` when one of them exists, unless told to overwrite.
    pub fn save(&self, dir: &Path, overwrite: bool) -> Result<(), IdentityError> {
        let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
        files::make_folder(dir)?;
        refuse_to_overwrite([&cert, &key], overwrite)?;
        // The key first: a certificate without its key looks complete.
        files::write(&key, self.issuer.key().serialize_pem().as_bytes(), SECRET)?;
        files::write(&cert, self.pem.as_bytes(), PUBLIC)
    }

    /// Signs for a node, as server and as peer.
    ///
    /// # Errors
    /// When there are too many hosts.
    pub fn node(&self, node: NodeId, hosts: &[Host], lifetime: Lifetime) -> Result<Issued, IdentityError> {
        if hosts.len() > HOSTS_MAX {
            return Err(IdentityError::BadInput { why: format!("a certificate names at most {HOSTS_MAX} hosts") });
        }
        let holder = Holder::Peer(PeerIdentity::Node { cluster: self.cluster, node });
        let mut names = vec![SanType::DnsName(SERVER_NAME.try_into()?), uri(&holder)?];
        for host in hosts {
            let name = match host {
                Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
                Host::Address(address) => SanType::IpAddress(*address),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(format!("coda node {}", node.0), names, usages, lifetime)
    }

    /// Signs for a client or worker.
    ///
    /// # Errors
    /// When the machine cannot make keys.
    pub fn client(&self, name: &ClientName, lifetime: Lifetime) -> Result<Issued, IdentityError> {
        let holder = Holder::Peer(PeerIdentity::Client { cluster: self.cluster, name: name.clone() });
        self.issue(name.to_string(), vec![uri(&holder)?], vec![ExtendedKeyUsagePurpose::ClientAuth], lifetime)
    }

    fn issue(
        &self,
        subject: String,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        lifetime: Lifetime,
    ) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate()?;
        let lifetime = lifetime.within(moment(self.expires));
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.subject_alt_names = names;
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (lifetime.from, lifetime.to);
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { cert_pem, key_pem: key.serialize_pem(), ca_pem: self.pem.clone() })
    }
}

impl Issued {
    /// Writes `NAME.pem`, `NAME.key` and the authority's `ca.pem` into `dir`: all that its holder needs.
    ///
    /// # Errors
    /// `CODA4215` when certificate or key exist, unless told to overwrite; `CODA4213` when `dir` trusts another
    /// cluster, whatever one was told.
    pub fn save(&self, dir: &Path, name: &str, overwrite: bool) -> Result<(), IdentityError> {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        files::make_folder(dir)?;
        refuse_to_overwrite([&cert, &key], overwrite)?;
        self.save_authority(&dir.join(CA_CERT))?;
        files::write(&key, self.key_pem.as_bytes(), SECRET)?;
        files::write(&cert, self.cert_pem.as_bytes(), PUBLIC)
    }

    /// A bundle that is there already stays: who is trusted during a change of authorities is for people to decide.
    fn save_authority(&self, path: &Path) -> Result<(), IdentityError> {
        if !path.exists() {
            return files::write(path, self.ca_pem.as_bytes(), PUBLIC);
        }
        let ours = pem_certificate(&self.ca_pem)?;
        let (expected, _) = authority_of(&ours, Path::new(CA_CERT))?;
        let there = files::read_certificates(path)?;
        for each in &there {
            let (found, _) = authority_of(each, path)?;
            if found != expected {
                return Err(IdentityError::OtherCluster { what: path.display().to_string(), found, expected });
            }
        }
        if there.contains(&ours) {
            return Ok(());
        }
        Err(IdentityError::OtherAuthority { what: "the new certificate".into(), ca: path.into() })
    }
}

/// Reads a certificate that has to be an authority's.
///
/// # Errors
/// `CODA4217` when it is not.
pub(super) fn authority_of(
    certificate: &CertificateDer<'_>,
    path: &Path,
) -> Result<(ClusterId, Certificate), IdentityError> {
    let what = path.display().to_string();
    let read = Certificate::read(certificate, &what)?;
    let no = |why: &str| IdentityError::NotAuthority { what: what.clone(), why: why.into() };
    match read.holder {
        Some(Holder::Authority(cluster)) if read.is_authority => Ok((cluster, read)),
        Some(Holder::Authority(_)) => Err(no("it may not sign others")),
        Some(Holder::Peer(ref peer)) => Err(no(&format!("it is that of {peer}"))),
        None => Err(no("it names no `coda:cluster:…`")),
    }
}

fn pem_certificate(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| IdentityError::Malformed { what: "the authority".into(), why: error.to_string() })
}

fn uri(holder: &Holder) -> Result<SanType, IdentityError> {
    Ok(SanType::URI(Ia5String::try_from(holder.uri())?))
}

fn refuse_to_overwrite<const N: usize>(paths: [&Path; N], overwrite: bool) -> Result<(), IdentityError> {
    match paths.into_iter().find(|path| !overwrite && path.exists()) {
        Some(path) => Err(IdentityError::Exists { path: path.into() }),
        None => Ok(()),
    }
}
