//! Who is who: the certificates of a cluster, how they are made, read, checked and replaced.
//!
//! Every cluster has an authority of its own, and trusts no other. What a certificate is for stands in one URI among
//! its alternative names:
//!
//! | URI | Whose |
//! |---|---|
//! | `coda:cluster:<uuid>` | the authority; this is where the cluster gets its id |
//! | `coda:node:<uuid>:<id>` | a node's, as server and as peer |
//! | `coda:client:<uuid>:<name>` | a client's or worker's |
//!
//! [`Authority`] makes them, [`PeerIdentity`] reads them, [`NodeIdentity`] is a checked set of a node, and
//! [`CurrentIdentity`] is the one in use, which changes when its files do.
//!
//! Deliberately absent: revocation lists, since certificates are short-lived and an authority can be replaced while
//! nodes run; and anything that is signed by more than one step, since one authority signs for one cluster.

mod certificate;
mod error;
mod names;

mod authority;
mod files;
mod own;

mod checked;
mod reload;
mod verify;

#[cfg(test)]
mod checked_tests;

pub use authority::{Authority, Issued, Lifetime};
pub use certificate::{Certificate, Holder, PeerIdentity, date};
pub use checked::{IdentityFiles, NodeIdentity, QuicKeys};
pub use error::IdentityError;
pub use files::{keys_match, read_certificates, read_key};
pub use names::{ClientName, ClusterName, Host};
pub use reload::{CurrentIdentity, warn_from};

pub(crate) use files::provider;
pub(crate) use own::load_or_make;
pub(crate) use reload::{Reloader, Source};
pub(crate) use verify::clients_of;

/// The name that clients verify, whatever address they dialled.
pub const SERVER_NAME: &str = "coda";
