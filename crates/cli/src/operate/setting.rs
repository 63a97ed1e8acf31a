//! `coda-admin config get|set|unset|diff`: settings of the cluster, the same for all its nodes.

use clap::Args;
use coda_client::Admin;
use coda_protocol::cluster::{SettingDescription, SettingValue};
use coda_protocol::operate::ClusterReport;
use coda_protocol::reject::Reject;

use super::cluster::REPLICATION_FACTOR_DEFAULT;
use crate::args::{Format, Global};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::output::{self, Screen};
use crate::show;

/// Not one of the settings inside the cluster, but set like them.
const REPLICATION_FACTOR: &str = "replication_factor";

/// Show what the cluster is set to
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin config get rebalance.auto
  coda-admin config get --all

One value is printed alone, for scripts. These are settings of the cluster, the same for all its nodes; what a single node
is told stands in its node.toml: `coda-admin config check`.")]
pub struct GetArgs {
    // `key` is the id of an option that all commands have.
    /// Which setting
    #[arg(id = "setting", value_name = "KEY", required_unless_present = "all")]
    key: Option<String>,
    /// All of them, with their defaults and what they may be
    #[arg(long, conflicts_with = "setting")]
    all: bool,
}

/// Change a setting of the cluster
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin config set rebalance.auto false
  coda-admin config set replication_factor 5
  coda-admin config set replication_factor 1 --yes

It holds on all nodes at once, and stays through restarts. replication_factor is how many nodes keep a copy of everything;
copies are made or taken away afterwards, `coda-admin cluster status` shows how far that is.")]
pub struct SetArgs {
    /// Which setting; `coda-admin config get --all` lists them
    #[arg(id = "setting", value_name = "KEY")]
    key: String,
    /// Its new value
    value: String,
    /// Though fewer copies will be kept
    #[arg(long)]
    yes: bool,
}

/// Let the default of a setting hold again
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin config unset rebalance.auto")]
pub struct UnsetArgs {
    /// Which setting
    #[arg(id = "setting", value_name = "KEY")]
    key: String,
    /// Though fewer copies will be kept
    #[arg(long)]
    yes: bool,
}

pub async fn get(args: &GetArgs, global: &Global) -> Ended {
    let settings = fetch(global).await?;
    let screen = Screen::new(global);
    let text = match &args.key {
        Some(key) => show::setting::one(find(&settings, key)?, &screen),
        None => show::setting::all(&settings, &screen),
    };
    output::print(&text)?;
    Ok(Exit::Ok)
}

pub async fn diff(global: &Global) -> Ended {
    let changed: Vec<_> = fetch(global).await?.into_iter().filter(SettingDescription::is_changed).collect();
    if changed.is_empty() {
        output::tip("every setting has its default");
    }
    output::print(&show::setting::all(&changed, &Screen::new(global)))?;
    Ok(Exit::Ok)
}

pub async fn set(args: &SetArgs, global: &Global) -> Ended {
    let bad = || CliError::bad_setting_value(&args.key, &args.value);
    let value = SettingValue::parse(&args.value).ok_or_else(bad)?;
    change(&args.key, Some(value), args.yes, global).await
}

pub async fn unset(args: &UnsetArgs, global: &Global) -> Ended {
    change(&args.key, None, args.yes, global).await
}

async fn change(key: &str, value: Option<SettingValue>, yes: bool, global: &Global) -> Ended {
    let change = async |cluster: &Cluster| {
        let admin = cluster.admin();
        if key == REPLICATION_FACTOR {
            set_copies(&admin, value, yes).await?;
        } else {
            admin.set_setting(key, value).await?;
        }
        all(&admin).await
    };
    let settings = Cluster::during(global, change).await?;
    let setting = find(&settings, key)?;
    match global.output {
        Format::Json => output::print(&show::setting::one(setting, &Screen::new(global)))?,
        Format::Table => output::tip(&format!("{key} is {}", setting.value)),
    }
    Ok(Exit::Ok)
}

async fn set_copies(admin: &Admin, value: Option<SettingValue>, yes: bool) -> Result<(), CliError> {
    let wanted = copies(value)?;
    if !yes {
        check_copies(&*super::report(admin).await?, wanted)?;
    }
    Ok(admin.set_replication_factor(wanted).await?)
}

fn copies(value: Option<SettingValue>) -> Result<u8, Reject> {
    match value {
        None => Ok(REPLICATION_FACTOR_DEFAULT),
        Some(SettingValue::Number(copies)) => {
            u8::try_from(copies).map_err(|_| Reject::BadReplicationFactor { replication_factor: u8::MAX })
        }
        Some(SettingValue::Switch(_)) => {
            Err(Reject::BadSetting { key: REPLICATION_FACTOR.into(), allowed: "1, 3 or 5".into() })
        }
    }
}

/// Fewer copies survive less.
fn check_copies(report: &ClusterReport, wanted: u8) -> Result<(), CliError> {
    let now = report.cluster.as_ref().map_or(0, |cluster| cluster.replication_factor);
    if wanted >= now {
        return Ok(());
    }
    let survives = |copies: u8| match copies.saturating_sub(1) / 2 {
        0 => "no node".to_owned(),
        1 => "one node".to_owned(),
        count => format!("{count} nodes"),
    };
    let (then, before) = (survives(wanted), survives(now));
    Err(CliError::unconfirmed(format!(
        "keeping {wanted} instead of {now} copies deletes the others: {then} may be lost then, {before} now"
    )))
}

async fn fetch(global: &Global) -> Result<Vec<SettingDescription>, CliError> {
    Cluster::during(global, async |cluster| all(&cluster.admin()).await).await
}

/// The settings inside the cluster, and the one that is told to it in another way, by key.
pub async fn all(admin: &Admin) -> Result<Vec<SettingDescription>, CliError> {
    let report = super::report(admin).await?;
    let mut settings = admin.settings().await?;
    settings.extend(described_copies(&report));
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(settings)
}

fn described_copies(report: &ClusterReport) -> Option<SettingDescription> {
    Some(SettingDescription {
        key: REPLICATION_FACTOR.into(),
        value: SettingValue::Number(report.cluster.as_ref()?.replication_factor.into()),
        default: SettingValue::Number(REPLICATION_FACTOR_DEFAULT.into()),
        allowed: "1, 3 or 5".into(),
        about: "how many nodes keep a copy of everything, where there are as many".into(),
    })
}

fn find<'a>(settings: &'a [SettingDescription], key: &str) -> Result<&'a SettingDescription, Reject> {
    settings.iter().find(|setting| setting.key == key).ok_or_else(|| Reject::NoSuchSetting {
        key: key.chars().take(64).collect(),
        known: settings.iter().map(|setting| setting.key.as_str()).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::canned;

    #[test]
    fn fewer_copies_are_kept_only_if_somebody_says_so() {
        let report = canned::healthy();
        assert!(check_copies(&report, 3).is_ok() && check_copies(&report, 5).is_ok());
        let error = check_copies(&report, 1).unwrap_err();
        assert_eq!((error.code, error.exit.status()), ("CODA4321", 2));
        assert_eq!(
            error.message,
            "keeping 1 instead of 3 copies deletes the others: no node may be lost then, one node now"
        );
    }

    #[test]
    fn the_number_of_copies_is_a_setting_like_others() {
        assert_eq!(copies(Some(SettingValue::Number(5))), Ok(5));
        assert_eq!(copies(None), Ok(3));
        assert_eq!(copies(Some(SettingValue::Number(256))).unwrap_err().code(), "CODA2033");
        assert_eq!(copies(Some(SettingValue::Switch(true))).unwrap_err().code(), "CODA2051");
        let described = described_copies(&canned::healthy()).unwrap();
        assert!(!described.is_changed());
        assert_eq!(find(&[described], "replicas").unwrap_err().code(), "CODA2050");
    }
}
