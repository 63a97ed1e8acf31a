//! `coda-admin rebalance`: spread replicas and leaders evenly.

use clap::Args;
use coda_protocol::rebalance::Plan;

use super::waiting::{STUCK_LOOKS, Waiting};
use crate::args::{Format, Global};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Screen};
use crate::show;

/// Spread replicas and leaders evenly, as few moved as possible
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin rebalance --dry-run         what would be done, and what cannot be
  coda-admin rebalance --watch           do it, and show how far it is
  coda-admin rebalance --dry-run -o json | jq '.steps[].text'

Where the setting rebalance.auto is on, which is the default, the cluster does this by itself when nodes come, drain or
go. It may be interrupted at any time: each step leaves every group as safe as it was, and what is left is planned anew.")]
pub struct RebalanceArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until it is done, without limit unless --timeout is given
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
}

pub async fn rebalance(args: &RebalanceArgs, global: &Global) -> Ended {
    Cluster::during(global, async |cluster| ask(args, cluster, global).await).await
}

async fn ask(args: &RebalanceArgs, cluster: &Cluster, global: &Global) -> Ended {
    let admin = cluster.admin();
    let plan = if args.dry_run { admin.plan().await? } else { admin.rebalance().await? };
    // Of a program that waits for the end, the one document is what is left then.
    let waits = args.watch && !plan.steps.is_empty();
    if !waits || global.output == Format::Table {
        output::print(&show::plan::plan(&plan, &Screen::new(global)))?;
    }
    if waits {
        output::tip("Ctrl-C ends the waiting; the cluster goes on");
        let waiting = Waiting::bar(global.timeout);
        let admin = cluster.admin_for_watching();
        let mut progress = Progress::default();
        let look = |waiting: &Waiting, plan: Plan| progress.look(waiting, plan);
        let left = waiting.until("some steps are left", async || admin.plan().await, look).await?;
        if global.output == Format::Json {
            output::print(&show::plan::plan(&left, &Screen::new(global)))?;
        }
        if !left.stuck.is_empty() {
            return Err(stuck(&left));
        }
        output::tip("everything is where it should be");
    }
    Ok(Exit::Ok)
}

fn stuck(plan: &Plan) -> CliError {
    let what: Vec<String> = plan.stuck.iter().map(ToString::to_string).collect();
    CliError { detail: Some(what.join("\n")), ..CliError::cannot_move(plan.stuck.len()) }
}

/// How far a plan is.
#[derive(Default)]
struct Progress {
    /// How often in a row there was nothing left to do but what cannot be done.
    stuck: u32,
}

impl Progress {
    /// What is left when no step is: nothing, or what stays stuck.
    fn look(&mut self, waiting: &Waiting, plan: Plan) -> Result<Option<Plan>, CliError> {
        waiting.left(plan.steps.len() as u64);
        if let Some(next) = plan.steps.first() {
            self.stuck = 0;
            waiting.say(next.to_string());
            return Ok(None);
        }
        let Some(first) = plan.stuck.first() else { return Ok(Some(plan)) };
        self.stuck += 1;
        waiting.say(first.to_string());
        Ok((self.stuck >= STUCK_LOOKS).then_some(plan))
    }
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::{GroupId, NodeId};
    use coda_protocol::rebalance::{Step, Stuck, StuckReason};

    use super::*;

    #[test]
    fn it_is_done_when_no_step_is_left_and_a_leader_may_be_missed_for_a_while() {
        let waiting = Waiting::bar(None);
        let (group, node) = (GroupId(1), NodeId(4));
        let step = || Plan { steps: vec![Step::AddLearner { group, node }], stuck: Vec::new() };
        let leaderless = || Plan { steps: Vec::new(), stuck: vec![Stuck { group, reason: StuckReason::Leaderless }] };
        let mut progress = Progress::default();
        assert_eq!(progress.look(&waiting, step()).unwrap(), None);
        for _ in 1..STUCK_LOOKS {
            assert_eq!(progress.look(&waiting, leaderless()).unwrap(), None);
        }
        assert_eq!(progress.look(&waiting, step()).unwrap(), None);
        assert_eq!(progress.look(&waiting, Plan::default()).unwrap(), Some(Plan::default()));
        for _ in 1..STUCK_LOOKS {
            assert_eq!(progress.look(&waiting, leaderless()).unwrap(), None);
        }
        assert_eq!(progress.look(&waiting, leaderless()).unwrap(), Some(leaderless()));
        assert_eq!(stuck(&leaderless()).detail.as_deref(), Some("group 1 has no leader for the moment"));
    }
}
