//! `coda-admin cluster`: how a cluster begins, and how it is.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use coda_protocol::limits::{GROUPS_MAX, REPLICATION_FACTORS};
use coda_protocol::operate::{ClusterReport, Health};
use serde_json::json;

use super::{join, token, verify};
use crate::args::{Format, Global};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Fields, Screen};
use crate::show;

/// How many copies a cluster keeps unless somebody says otherwise: it survives the loss of one node.
pub const REPLICATION_FACTOR_DEFAULT: u8 = 3;
/// Seconds between two looks.
const WATCH_S_DEFAULT: &str = "2";
const WATCH_S_MAX: u64 = 3_600;
const CLEAR_SCREEN: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    Init(InitArgs),
    /// Make, see and revoke what lets new nodes in
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::TokenCommand),
    Join(join::JoinArgs),
    Status(StatusArgs),
    /// Say in one line, and by the exit status, how the cluster is
    #[command(after_help = "\
Examples:
  coda-admin cluster health
  coda-admin cluster health --timeout 3s || page-somebody
  coda-admin cluster health -o json | jq -r '.reasons[]'

Exit statuses:
    0  healthy
   10  degraded: everything is served, but something is not as it should be
   11  no quorum: some work is not served
    3  the node that answers is in no cluster
    5  nobody answers (124: nobody did in time)")]
    Health,
    Verify(verify::VerifyArgs),
}

/// Begin a cluster, with one node as its first
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster init --address node-1:4747
  coda-admin cluster init --address node-1:4747 --replication-factor 5 --groups 10

Run it once, for one node; all others join. A group is a part of all work that is led by one node at a time: as many as
there will be nodes let each of them lead. They cannot be changed later.")]
pub struct InitArgs {
    /// How many nodes keep a copy of everything: 1, 3 or 5. With 3, one node may be lost; with 5, two
    #[arg(long, value_name = "COPIES", default_value_t = REPLICATION_FACTOR_DEFAULT, value_parser = parse_copies)]
    replication_factor: u8,
    /// Into how many groups work is divided [default: as many as copies]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(GROUPS_MAX)))]
    groups: Option<u16>,
}

/// Show how the cluster is: its nodes, its groups, and what is to be moved
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster status
  coda-admin cluster status --watch
  coda-admin cluster status --watch 10
  coda-admin cluster status -o json | jq '.nodes[] | {node, state}'

LAG is how many entries each follower is behind its leader. A group is SETTLED when its copies are where they should be.")]
pub struct StatusArgs {
    /// Look again every so many seconds, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = WATCH_S_DEFAULT,
        value_parser = clap::value_parser!(u64).range(1..=WATCH_S_MAX)
    )]
    watch: Option<u64>,
}

/// Reads a replication factor.
pub fn parse_copies(text: &str) -> Result<u8, String> {
    let copies = text.parse().ok().filter(|copies| REPLICATION_FACTORS.contains(copies));
    copies.ok_or_else(|| "write 1, 3 or 5: an even number survives no more failures".to_owned())
}

pub async fn cluster(command: ClusterCommand, global: &Global) -> Ended {
    match command {
        ClusterCommand::Init(args) => init(&args, global).await,
        ClusterCommand::Token(command) => token::token(command, global).await,
        ClusterCommand::Join(args) => join::command(&args, global).await,
        ClusterCommand::Status(StatusArgs { watch: None }) => {
            output::print(&show::cluster::status(&*fetch(global).await?, &Screen::new(global)))?;
            Ok(Exit::Ok)
        }
        ClusterCommand::Status(StatusArgs { watch: Some(seconds) }) => {
            watch(Duration::from_secs(seconds), global).await
        }
        ClusterCommand::Health => {
            let report = fetch(global).await?;
            output::print(&show::cluster::health(&report, &Screen::new(global)))?;
            Ok(exit_of(&report.health()))
        }
        ClusterCommand::Verify(args) => verify::verify(&args, global).await,
    }
}

async fn fetch(global: &Global) -> Result<Box<ClusterReport>, CliError> {
    Cluster::during(global, async |cluster| super::report(&cluster.admin()).await).await
}

pub fn exit_of(health: &Health) -> Exit {
    match health {
        Health::Healthy => Exit::Ok,
        Health::Degraded(_) => Exit::Degraded,
        Health::NoQuorum(_) => Exit::NoQuorum,
    }
}

/// Until the user ends it. A cluster that does not answer is what somebody may be waiting to see the end of.
async fn watch(every: Duration, global: &Global) -> Ended {
    let cluster = Cluster::connect(global).await?;
    let admin = cluster.admin_for_watching();
    let is_screen = std::io::stdout().is_terminal() && global.output == Format::Table;
    loop {
        match super::report(&admin).await {
            Ok(report) => {
                let text = show::cluster::status(&report, &Screen::new(global));
                let (before, after) = if is_screen { (CLEAR_SCREEN, "") } else { ("", "\n") };
                output::print(&format!("{before}{text}{after}"))?;
            }
            Err(error) if matches!(error.exit, Exit::Timeout | Exit::Unavailable) => error.print(),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(every).await;
    }
}

async fn init(args: &InitArgs, global: &Global) -> Ended {
    let copies = args.replication_factor;
    let groups = args.groups.unwrap_or(u16::from(copies));
    let begin = async |cluster: &Cluster| {
        let admin = cluster.admin();
        admin.init(copies, groups).await?;
        // It has begun, whether or not it can tell already what it is.
        Ok(admin.report().await.ok())
    };
    let report = Cluster::during(global, begin).await?;
    let id = report.as_ref().and_then(|report| report.cluster.as_ref()).map(|cluster| cluster.cluster.to_string());
    let node = report.as_ref().map(|report| report.node.0);
    match global.output {
        Format::Json => output::print(&output::document(&json!({
            "cluster": id,
            "node": node,
            "replication_factor": copies,
            "groups": groups,
        })))?,
        Format::Table => {
            let fields = Fields::new(&Screen::new(global))
                .with("CLUSTER", id.unwrap_or_else(|| "-".to_owned()))
                .with("COPIES", copies)
                .with("GROUPS", groups);
            output::print(&fields.render())?;
            output::tip(&next_steps(copies, global.address.as_deref().unwrap_or("THIS_NODE:4747")));
        }
    }
    Ok(Exit::Ok)
}

fn next_steps(copies: u8, address: &str) -> String {
    if copies == 1 {
        return "\nThe cluster has begun. It keeps one copy of everything: what is lost with a disk is lost."
            .to_owned();
    }
    format!(
        "
The cluster has begun, on this node alone: until {copies} nodes are there, it keeps fewer copies. For each other node:
  coda-admin cluster token create > token           lets one node in
  coda serve --config node.toml                     on the new node's machine
  coda-admin cluster join --address NEW_NODE:4747 --seeds {address} --token-file token
What that does:
  coda-admin cluster status --watch"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::{Cli, Command};

    fn parsed(words: &[&str]) -> Result<ClusterCommand, clap::Error> {
        let cli = Cli::try_parse_from(["coda-admin", "cluster"].iter().chain(words))?;
        let Command::Cluster(command) = cli.command else { panic!("not a command of clusters") };
        Ok(command)
    }

    #[test]
    fn a_cluster_is_divided_into_as_many_groups_as_it_keeps_copies() {
        let Ok(ClusterCommand::Init(InitArgs { replication_factor: 3, groups: None })) = parsed(&["init"]) else {
            panic!()
        };
        let five = parsed(&["init", "--replication-factor", "5", "--groups", "256"]);
        assert!(matches!(five, Ok(ClusterCommand::Init(InitArgs { replication_factor: 5, groups: Some(256) }))));
        for wrong in
            [["--replication-factor", "2"], ["--replication-factor", "x"], ["--groups", "0"], ["--groups", "257"]]
        {
            assert!(parsed(&[&["init"], &wrong[..]].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn how_often_to_look_may_be_left_out() {
        let watch = |words: &[&str]| match parsed(words) {
            Ok(ClusterCommand::Status(args)) => Ok(args.watch),
            Ok(_) => panic!("not a status"),
            Err(error) => Err(error.kind()),
        };
        assert_eq!(watch(&["status"]), Ok(None));
        assert_eq!(watch(&["status", "--watch"]), Ok(Some(2)));
        assert_eq!(watch(&["status", "--watch", "10"]), Ok(Some(10)));
        assert_eq!(watch(&["status", "--watch", "--timeout", "3s"]), Ok(Some(2)));
        assert!(watch(&["status", "--watch", "0"]).is_err());
    }

    #[test]
    fn the_exit_status_says_how_the_cluster_is() {
        let why = || vec!["node 3 is draining".into()];
        let all = [Health::Healthy, Health::Degraded(why()), Health::NoQuorum(why())];
        assert_eq!(all.map(|health| exit_of(&health).status()), [0, 10, 11]);
    }
}
