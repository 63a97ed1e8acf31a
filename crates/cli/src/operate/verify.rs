//! `coda-admin cluster verify`: are the copies of each group equal?

use std::time::Duration;

use clap::Args;
use coda_client::Admin;
use coda_protocol::ids::GroupId;

use crate::args::{Global, parse_group};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Screen};
use crate::show;
use crate::show::copies::{Checked, Verdict};

/// Copies that have not applied the same entries are asked again so often: under load they seldom stand still together.
const TRIES_MAX: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

/// Compare the copies of each group
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster verify
  coda-admin cluster verify --group 2
  coda-admin cluster verify -o json | jq '.groups[] | {group, result}'

Each node reads its whole copy, which takes time and disk where there is much; --timeout is for each group. Copies are
compared where they have applied the same entries, so it may be run at any time.

Exit statuses: 0 equal, 12 some differ, 5 some could not be compared.")]
pub struct VerifyArgs {
    /// This group alone
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    group: Option<GroupId>,
}

pub async fn verify(args: &VerifyArgs, global: &Global) -> Ended {
    let check = async |cluster: &Cluster| check_all(args, &cluster.admin()).await;
    let checked = Cluster::during(global, check).await?;
    output::print(&show::copies::list(&checked, &Screen::new(global)))?;
    Ok(exit_of(&checked))
}

async fn check_all(args: &VerifyArgs, admin: &Admin) -> Result<Vec<Checked>, CliError> {
    let groups = match args.group {
        Some(group) => vec![group],
        None => super::report(admin).await?.groups.iter().map(|group| group.group).collect(),
    };
    let mut checked = Vec::with_capacity(groups.len());
    for group in groups {
        checked.push(check(admin, group).await?);
    }
    Ok(checked)
}

async fn check(admin: &Admin, group: GroupId) -> Result<Checked, CliError> {
    let mut tried = 1;
    loop {
        let checked = Checked::new(group, admin.verify(group).await?);
        if !matches!(checked.verdict, Verdict::Unknown(_)) || tried == TRIES_MAX {
            return Ok(checked);
        }
        tried += 1;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// What is certain and bad goes before what is not certain.
fn exit_of(checked: &[Checked]) -> Exit {
    let any = |is: fn(&Verdict) -> bool| checked.iter().any(|one| is(&one.verdict));
    if any(|verdict| *verdict == Verdict::Differ) {
        Exit::Differs
    } else if any(|verdict| matches!(verdict, Verdict::Unknown(_))) {
        Exit::Unavailable
    } else {
        Exit::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_the_worst() {
        let of = |verdicts: &[Verdict]| {
            let checked =
                |verdict: &Verdict| Checked { group: GroupId(1), digests: Vec::new(), verdict: verdict.clone() };
            exit_of(&verdicts.iter().map(checked).collect::<Vec<_>>()).status()
        };
        let unknown = || Verdict::Unknown("busy".into());
        assert_eq!(of(&[Verdict::Equal, Verdict::Equal]), 0);
        assert_eq!(of(&[Verdict::Equal, unknown()]), 5);
        assert_eq!(of(&[unknown(), Verdict::Differ]), 12);
    }
}
