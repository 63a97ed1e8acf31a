//! Certificates: whose they are, until when, and whether their key is there.

use std::path::PathBuf;

use coda_broker::identity::{Certificate, date, warn_from};
use coda_protocol::ids::Timestamp;
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::args::Format;
use crate::errors::printable;
use crate::output::{Fields, Screen, bad, document, good, span, warned};

/// A certificate of a file.
pub struct Shown {
    pub certificate: Certificate,
    pub key: Key,
}

pub enum Key {
    Matches(PathBuf),
    Differs(PathBuf),
    NotThere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    NotYet,
    Valid,
    EndsSoon,
    Ended,
}

impl Shown {
    pub fn state(&self, now: Timestamp) -> State {
        let Certificate { not_before, not_after, .. } = self.certificate;
        match now {
            _ if now > not_after => State::Ended,
            _ if now < not_before => State::NotYet,
            _ if now >= warn_from(not_before, not_after) => State::EndsSoon,
            _ => State::Valid,
        }
    }
}

pub fn list(shown: &[Shown], screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&json!({
            "certificates": shown.iter().map(|each| json_of(each, screen.now)).collect::<Vec<_>>(),
        })),
        Format::Table => shown.iter().map(|each| table(each, screen)).collect::<Vec<_>>().join("\n"),
    }
}

fn table(shown: &Shown, screen: &Screen) -> String {
    let certificate = &shown.certificate;
    let none = || "-".to_owned();
    let left = certificate.not_after.0.saturating_sub(screen.now.0);
    Fields::new(screen)
        .with("SUBJECT", printable(&certificate.subject))
        .with("IDENTITY", certificate.holder.as_ref().map_or_else(none, ToString::to_string))
        .with("CLUSTER", certificate.holder.as_ref().map_or_else(none, |holder| holder.cluster().to_string()))
        .with("HOSTS", if certificate.hosts.is_empty() { none() } else { printable(&certificate.hosts.join(", ")) })
        .with("VALID FROM", date(certificate.not_before))
        .with("EXPIRES", date(certificate.not_after))
        .with(
            "STATE",
            match shown.state(screen.now) {
                State::NotYet => bad("not valid yet"),
                State::Valid => good(format!("valid, {} left", span(left))),
                State::EndsSoon => warned(format!("expires soon, {} left", span(left))),
                State::Ended => bad("expired"),
            },
        )
        .with(
            "KEY",
            match &shown.key {
                Key::Matches(path) => good(format!("{} matches", path.display())),
                Key::Differs(path) => bad(format!("{} does not match", path.display())),
                Key::NotThere => Cell::new("not there"),
            },
        )
        .render()
}

fn json_of(shown: &Shown, now: Timestamp) -> Value {
    let certificate = &shown.certificate;
    let (key, key_path) = match &shown.key {
        Key::Matches(path) => ("matches", Some(path)),
        Key::Differs(path) => ("differs", Some(path)),
        Key::NotThere => ("not_there", None),
    };
    json!({
        "subject": certificate.subject,
        "identity": certificate.holder.as_ref().map(ToString::to_string),
        "cluster": certificate.holder.as_ref().map(|holder| holder.cluster().to_string()),
        "uri": certificate.holder.as_ref().map(coda_broker::identity::Holder::uri),
        "hosts": certificate.hosts,
        "not_before_ms": certificate.not_before.0,
        "not_after_ms": certificate.not_after.0,
        "state": match shown.state(now) {
            State::NotYet => "not_yet_valid",
            State::Valid => "valid",
            State::EndsSoon => "expires_soon",
            State::Ended => "expired",
        },
        "key": key,
        "key_path": key_path.map(|path| path.display().to_string()),
    })
}
