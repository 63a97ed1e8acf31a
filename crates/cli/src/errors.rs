//! How a command ends: the exit status, and for a failure its code, its sentence and the next thing to do.
//!
//! ```text
//! error[CODA2011]: there is no run 0192…: it never started, or its retention time is over
//! help: check the id; `coda workflow start` prints it
//! ```
//! Codes of this crate are `CODA43xx`; all others come from the protocol, the client and the node.

use std::fmt;

use coda_client::ClientError;
use coda_protocol::payload::Failure;
use coda_protocol::reject::Reject;
use owo_colors::{OwoColorize, Stream};

/// The exit status of both programs. Part of their interface: `coda help exit-codes` prints this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failed,
    Usage,
    NotFound,
    Conflict,
    Unavailable,
    /// The cluster serves everything, but something is not as it should be.
    Degraded,
    /// Some work of the cluster is not served.
    NoQuorum,
    /// Copies that should be equal are not.
    Differs,
    Timeout,
    /// Ended at once by the second of this signal.
    Signal(u8),
}

impl Exit {
    pub fn status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Degraded => 10,
            Self::NoQuorum => 11,
            Self::Differs => 12,
            Self::Timeout => 124,
            Self::Signal(number) => 128 + number,
        }
    }
}

/// Why a command failed, as it is printed.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    pub code: &'static str,
    pub message: String,
    /// Printed as it is below the message, e.g. a remote traceback.
    pub detail: Option<String>,
    pub help: Option<String>,
}

impl CliError {
    pub fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { exit, code, message: message.into(), detail: None, help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "CODA4301", message)
            .help("arguments by name are `--input '{\"project_id\": 1}'`, by position `--input '[1]'`")
    }

    pub fn still_running(what: &str, id: &str, waited_ms: u128) -> Self {
        Self::new(Exit::Timeout, "CODA4302", format!("{what} {id} has not ended within {waited_ms} ms; it goes on"))
            .help(format!("`coda {} describe {id}` says what it waits for", noun(what)))
    }

    pub fn work_failed(what: &str, id: &str, failure: &Failure) -> Self {
        let traceback = printable(failure.traceback.trim_end());
        Self {
            detail: (!traceback.is_empty()).then_some(traceback),
            ..Self::new(Exit::Failed, "CODA4303", format!("{what} {id} failed: {}", one_line(failure)))
        }
        .help(format!("`coda {} describe {id}` shows its attempts", noun(what)))
    }

    pub fn no_such_command(command: &str, why: &std::io::Error) -> Self {
        Self::new(Exit::Usage, "CODA4304", format!("`{command}` cannot be started: {why}"))
            .help("is it installed, and is its environment (virtualenv, PATH) active?")
    }

    pub fn restarts_exhausted(index: usize, max: usize, window_s: u64) -> Self {
        let message =
            format!("worker {index} ended more than {max} times within {window_s} s; every worker was stopped");
        Self::new(Exit::Failed, "CODA4305", message)
            .help("its own output above says why it ended; --max-restarts allows more")
    }

    pub fn drain_timed_out(killed: usize, seconds: f64) -> Self {
        let message = format!("{killed} of the workers had not ended {seconds} s after SIGTERM and were killed");
        Self::new(Exit::Failed, "CODA4306", message)
            .help("their tasks will be run again; give them more time with --drain-timeout")
    }

    pub fn local_io(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "CODA4307", message)
    }

    pub fn node_failed(why: &str) -> Self {
        Self::new(Exit::Failed, "CODA4308", format!("the node cannot go on: {why}"))
            .help("nothing that was acknowledged is lost: start it again once the cause is gone")
    }

    pub fn no_such_topic(topic: &str) -> Self {
        Self::new(Exit::Usage, "CODA4309", format!("there is no help on `{topic}`"))
            .help(format!("topics are the commands and {}", crate::topics::names()))
    }

    /// What a command has set going goes on when nobody waits for it any more.
    pub fn not_yet(what: &str, waited_ms: u128) -> Self {
        Self::new(Exit::Timeout, "CODA4320", format!("{what}, not within {waited_ms} ms; it goes on"))
            .help("`coda-admin cluster status` shows how far it is; allow more with --timeout, or leave it out")
    }

    /// Could cost data its safety: only for who says that they mean it.
    pub fn unconfirmed(why: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "CODA4321", why).help("nothing was changed; --yes does it nevertheless")
    }

    pub fn no_peer_address(node: u64) -> Self {
        Self::new(Exit::Conflict, "CODA4322", format!("node {node} has no address for other nodes")).help(
            "set listen.peer in its node.toml, and advertise_peer where others reach it elsewhere; start it again",
        )
    }

    pub fn seeds_are_the_node(node: u64) -> Self {
        Self::new(Exit::Usage, "CODA4323", format!("--seeds leads to node {node} itself, which is to join"))
            .help("name nodes of the cluster with --seeds, and the new one with --address")
    }

    pub fn in_a_cluster(node: u64) -> Self {
        Self::new(Exit::Conflict, "CODA4328", format!("node {node} is in a cluster of its own already"))
            .help("stop it and give it an empty data folder, if nothing in that cluster is needed any more")
    }

    pub fn cannot_move(stuck: usize) -> Self {
        let what = if stuck == 1 { "one group".to_owned() } else { format!("{stuck} groups") };
        Self::new(Exit::Conflict, "CODA4324", format!("{what} cannot be moved for now"))
            .help("what is said above is missing; once it is there, the cluster goes on by itself")
    }

    pub fn exists(path: &std::path::Path) -> Self {
        Self::new(Exit::Conflict, "CODA4325", format!("{} exists and is not overwritten", path.display()))
            .help("use another name, or --force")
    }

    pub fn bad_token_file(path: &str, why: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, "CODA4326", format!("cannot read a token from {path}: {why}"))
            .help("`coda-admin cluster token create` writes one to its standard output")
    }

    pub fn bad_setting_value(key: &str, text: &str) -> Self {
        let text: String = printable(&text.chars().take(64).collect::<String>());
        Self::new(Exit::Usage, "CODA4327", format!("`{text}` is no value for `{key}`: write true, false or a number"))
            .help(format!("`coda-admin config get {key} -o json` says what it may be"))
    }

    pub fn print(&self) {
        eprint!("{self}");
    }
}

/// `exception: message`, as one line.
pub fn one_line(failure: &Failure) -> String {
    let message = failure.message.lines().next().unwrap_or_default();
    printable(&if message.is_empty() { failure.kind.clone() } else { format!("{}: {message}", failure.kind) })
}

/// What others said, in a failure or a certificate, must not be able to command the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn noun(what: &str) -> &str {
    if what == "run" { "workflow" } else { what }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = format!("error[{}]", self.code);
        let error = error.if_supports_color(Stream::Stderr, |text| text.red());
        writeln!(f, "{error}: {}", self.message)?;
        if let Some(detail) = &self.detail {
            writeln!(f, "{detail}")?;
        }
        if let Some(help) = &self.help {
            let word = "help".if_supports_color(Stream::Stderr, |text| text.cyan());
            writeln!(f, "{word}: {help}")?;
        }
        Ok(())
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let plain = Self::new(exit_of(&error), error.code(), error.to_string());
        match help_for(&error) {
            Some(help) => plain.help(help),
            None => plain,
        }
    }
}

impl From<Reject> for CliError {
    fn from(reject: Reject) -> Self {
        ClientError::from(reject).into()
    }
}

fn exit_of(error: &ClientError) -> Exit {
    use ClientError as E;
    match error {
        E::NotConfigured
        | E::BadAddress { .. }
        | E::Unreadable { .. }
        | E::BadClientFile { .. }
        | E::BadCa { .. }
        | E::BadCertificate { .. }
        | E::BadSession { .. }
        | E::BadOptions { .. }
        | E::BadPayload { .. }
        | E::RequestTooLarge { .. } => Exit::Usage,
        E::NoNode { .. } | E::Closed | E::ClosedByNode { .. } | E::Deadline { last: Some(_), .. } => Exit::Unavailable,
        E::Deadline { last: None, .. } => Exit::Timeout,
        E::Untrusted { .. }
        | E::CertificateRequired { .. }
        | E::CertificateRefused { .. }
        | E::UnexpectedReply { .. }
        | E::Socket { .. }
        | E::Protocol(_) => Exit::Failed,
        E::Refused(reject) => exit_of_reject(reject),
    }
}

fn exit_of_reject(reject: &Reject) -> Exit {
    use Reject as R;
    match reject {
        R::NoSuchRun { .. }
        | R::NoSuchTask { .. }
        | R::NoCluster
        | R::NoSuchNode { .. }
        | R::NoSuchGroup { .. }
        | R::NoSuchSetting { .. } => Exit::NotFound,
        R::IdConflict { .. }
        | R::StaleLease
        | R::AlreadyEnded
        | R::NotIdle
        | R::TooManyLeases { .. }
        | R::ResumedBefore
        | R::ClusterExists { .. }
        | R::ClusterFull { .. }
        | R::NodeRemoved { .. }
        | R::WipedDisk { .. }
        | R::OldIncarnation { .. }
        | R::OtherNode { .. }
        | R::WrongNodeState { .. }
        | R::NotDrained { .. }
        | R::NotEmpty { .. }
        | R::LastNode { .. }
        | R::TooOld { .. }
        | R::TokenExpired
        | R::TokenUsed { .. }
        | R::TooManyTokens { .. }
        | R::PlacementChanged { .. } => Exit::Conflict,
        R::BadName { .. }
        | R::BadId { .. }
        | R::PayloadTooLarge { .. }
        | R::FailureTooLarge { .. }
        | R::CacheKeyTooLong { .. }
        | R::BadCacheKey
        | R::BadPolicy
        | R::BadPriority { .. }
        | R::DelayTooLong { .. }
        | R::TooMany { .. }
        | R::WrongStepKind
        | R::WrongGroup { .. }
        | R::BadReplicationFactor { .. }
        | R::BadGroupCount { .. }
        | R::BadNodeId { .. }
        | R::BadAddress { .. }
        | R::BadLabel { .. }
        | R::BadToken
        | R::BadSetting { .. }
        | R::BadPlacement { .. } => Exit::Usage,
    }
}

fn help_for(error: &ClientError) -> Option<&'static str> {
    use ClientError as E;
    match error {
        E::NotConfigured => Some("`coda help connecting` tells all the ways"),
        E::BadAddress { .. } => Some("correct --address or CODA_ADDRESS"),
        E::NoNode { .. } => Some("start one with `coda dev`, or name another with --address"),
        E::Untrusted { .. } => Some("pass that cluster's ca.pem with --ca or CODA_CA"),
        E::CertificateRequired { .. } | E::CertificateRefused { .. } | E::BadCertificate { .. } => {
            Some("`coda-admin cert client` makes one, `coda-admin cert show FILE` explains one")
        }
        E::ClosedByNode { code: 1_006 | 1_007, .. } => {
            Some("a node that is older than this program does not know everything it asks: upgrade it")
        }
        E::Deadline { last: None, .. } => Some("try again, or allow more with --timeout"),
        E::Deadline { last: Some(_), .. } | E::Closed | E::ClosedByNode { .. } => {
            Some("try again: repeating a request with the same --id is safe")
        }
        E::Refused(Reject::NoSuchRun { .. }) => Some("check the id; `coda workflow start` prints it"),
        E::Refused(Reject::NoSuchTask { .. }) => Some("check the id; `coda task submit` prints it"),
        E::Refused(Reject::NoCluster) => {
            Some("or let the node join another's: `coda-admin cluster join --help` tells how")
        }
        E::Refused(Reject::IdConflict { .. }) => Some("leave --id out to get a fresh one"),
        E::Unreadable { .. }
        | E::BadClientFile { .. }
        | E::BadCa { .. }
        | E::BadSession { .. }
        | E::BadOptions { .. }
        | E::BadPayload { .. }
        | E::RequestTooLarge { .. }
        | E::UnexpectedReply { .. }
        | E::Socket { .. }
        | E::Protocol(_)
        | E::Refused(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::reject::Unavailable;

    use super::*;

    fn status(error: ClientError) -> u8 {
        CliError::from(error).exit.status()
    }

    #[test]
    fn each_kind_of_failure_has_its_exit_status() {
        let id = || "0192".to_owned();
        assert_eq!(status(ClientError::NotConfigured), 2);
        assert_eq!(status(Reject::BadPriority { priority: 12 }.into()), 2);
        assert_eq!(status(Reject::NoSuchRun { run: id() }.into()), 3);
        assert_eq!(status(Reject::IdConflict { id: id() }.into()), 4);
        assert_eq!(status(ClientError::NoNode { addresses: "a:1".into(), waited_ms: 1, last: "refused".into() }), 5);
        assert_eq!(status(ClientError::Deadline { ms: 1, last: Some(Unavailable::ShuttingDown) }), 5);
        assert_eq!(status(ClientError::Deadline { ms: 1, last: None }), 124);
        assert_eq!([Exit::Ok.status(), Exit::Signal(2).status(), Exit::Signal(15).status()], [0, 130, 143]);
        assert_eq!([Exit::Degraded, Exit::NoQuorum, Exit::Differs].map(Exit::status), [10, 11, 12]);
        assert_eq!(status(Reject::NoCluster.into()), 3);
    }

    #[test]
    fn an_error_is_a_code_a_sentence_and_the_next_thing_to_do() {
        owo_colors::set_override(false);
        let error = CliError::from(ClientError::from(Reject::NoSuchRun { run: "0192".into() }));
        assert_eq!(
            error.to_string(),
            "error[CODA2011]: there is no run 0192: it never started, or its retention time is over\n\
             help: check the id; `coda workflow start` prints it\n"
        );
    }

    #[test]
    fn a_remote_traceback_stands_between_the_sentence_and_the_help() {
        owo_colors::set_override(false);
        let failure = Failure {
            kind: "builtins.ValueError".into(),
            message: "no such project\nsecond line".into(),
            traceback: "Traceback:\n  boom\n".into(),
            retryable: true,
        };
        assert_eq!(
            CliError::work_failed("run", "0192", &failure).to_string(),
            "error[CODA4303]: run 0192 failed: builtins.ValueError: no such project\nTraceback:\n  boom\n\
             help: `coda workflow describe 0192` shows its attempts\n"
        );
    }
}
