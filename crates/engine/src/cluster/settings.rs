//! Settings of the cluster: the same for all its nodes, changed while they run.
//!
//! A default is a rule like any other: what the log means depends on it. Changing one here takes a new version of commands.

use coda_protocol::cluster::{SettingDescription, SettingValue};
use coda_protocol::ids::{GroupId, Name};
use coda_protocol::limits::{JOIN_TOKEN_TTL_MS_DEFAULT, JOIN_TOKEN_TTL_MS_MAX, JOIN_TOKEN_TTL_MS_MIN};
use coda_protocol::reject::Reject;
use smol_str::{SmolStr, format_smolstr};

use crate::kv::Read;
use crate::tables::SETTING;

/// On or off.
pub struct Switch {
    key: &'static str,
    about: &'static str,
    default: bool,
}

/// A number within bounds. Its unit is the last word of its key.
pub struct Number {
    key: &'static str,
    about: &'static str,
    default: u64,
    min: u64,
    max: u64,
}

/// How long a join token may be used that is made without a time of its own.
pub const JOIN_TOKEN_TTL: Number = Number {
    key: "join_token.ttl_ms",
    about: "how long a join token may be used",
    default: JOIN_TOKEN_TTL_MS_DEFAULT,
    min: JOIN_TOKEN_TTL_MS_MIN,
    max: JOIN_TOKEN_TTL_MS_MAX,
};

/// Whether replicas and leaders are spread again without being asked, when nodes come or go.
pub const REBALANCE_AUTO: Switch = Switch {
    key: "rebalance.auto",
    about: "spread replicas and leaders again when nodes come, drain or go",
    default: true,
};

/// Whether commands of a new version are used as soon as every node understands them. Off, an upgrade can be taken back.
pub const UPGRADE_AUTO: Switch = Switch {
    key: "upgrade.auto",
    about: "use what a new version brings once all nodes have it; after that none can go back to the old one",
    default: true,
};

#[derive(Clone, Copy)]
enum Setting {
    Switch(&'static Switch),
    Number(&'static Number),
}

/// All settings, by key.
const SETTINGS: [Setting; 3] =
    [Setting::Number(&JOIN_TOKEN_TTL), Setting::Switch(&REBALANCE_AUTO), Setting::Switch(&UPGRADE_AUTO)];

impl Switch {
    /// Its value, set or default.
    #[must_use]
    pub fn get(&self, kv: &(impl Read + ?Sized)) -> bool {
        match value(kv, self.key) {
            Some(SettingValue::Switch(value)) => value,
            Some(SettingValue::Number(_)) | None => self.default,
        }
    }
}

impl Number {
    /// Its value, set or default.
    #[must_use]
    pub fn get(&self, kv: &(impl Read + ?Sized)) -> u64 {
        match value(kv, self.key) {
            Some(SettingValue::Number(value)) => value,
            Some(SettingValue::Switch(_)) | None => self.default,
        }
    }

    /// Whether it could be set to this.
    ///
    /// # Errors
    /// [`Reject::BadSetting`].
    pub fn check(&'static self, value: u64) -> Result<(), Reject> {
        Setting::Number(self).check(SettingValue::Number(value))
    }
}

fn value(kv: &(impl Read + ?Sized), key: &'static str) -> Option<SettingValue> {
    SETTING.get(kv, GroupId::META, &Name::new_static(key))
}

impl Setting {
    fn key(self) -> &'static str {
        match self {
            Self::Switch(switch) => switch.key,
            Self::Number(number) => number.key,
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Switch(switch) => switch.about,
            Self::Number(number) => number.about,
        }
    }

    fn default(self) -> SettingValue {
        match self {
            Self::Switch(switch) => SettingValue::Switch(switch.default),
            Self::Number(number) => SettingValue::Number(number.default),
        }
    }

    fn allowed(self) -> SmolStr {
        match self {
            Self::Switch(_) => SmolStr::new_static("true or false"),
            Self::Number(number) => format_smolstr!("a number from {} to {}", number.min, number.max),
        }
    }

    fn check(self, value: SettingValue) -> Result<(), Reject> {
        match (self, value) {
            (Self::Switch(_), SettingValue::Switch(_)) => Ok(()),
            (Self::Number(number), SettingValue::Number(value)) if (number.min..=number.max).contains(&value) => Ok(()),
            (Self::Switch(_) | Self::Number(_), SettingValue::Switch(_) | SettingValue::Number(_)) => {
                Err(Reject::BadSetting { key: self.key().into(), allowed: self.allowed() })
            }
        }
    }

    fn describe(self, kv: &dyn Read) -> SettingDescription {
        SettingDescription {
            key: self.key().into(),
            value: value(kv, self.key()).unwrap_or(self.default()),
            default: self.default(),
            allowed: self.allowed(),
            about: self.about().into(),
        }
    }
}

fn find(key: &str) -> Result<Setting, Reject> {
    SETTINGS.into_iter().find(|setting| setting.key() == key).ok_or_else(|| Reject::NoSuchSetting {
        key: key.chars().take(64).collect(),
        known: SETTINGS.map(Setting::key).join(", "),
    })
}

/// Whether there is such a setting, and it may have this value.
///
/// # Errors
/// [`Reject::NoSuchSetting`] or [`Reject::BadSetting`].
pub fn check(key: &str, value: Option<SettingValue>) -> Result<(), Reject> {
    let setting = find(key)?;
    value.map_or(Ok(()), |value| setting.check(value))
}

/// All settings, by key.
#[must_use]
pub fn all(kv: &dyn Read) -> Vec<SettingDescription> {
    SETTINGS.iter().map(|setting| setting.describe(kv)).collect()
}

/// One setting.
///
/// # Errors
/// [`Reject::NoSuchSetting`].
pub fn one(kv: &dyn Read, key: &str) -> Result<SettingDescription, Reject> {
    find(key).map(|setting| setting.describe(kv))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_in_order_and_their_defaults_are_possible() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.key() < b.key()));
        for setting in SETTINGS {
            assert_eq!(check(setting.key(), Some(setting.default())), Ok(()));
            assert_eq!(check(setting.key(), None), Ok(()));
        }
    }

    #[test]
    fn what_is_refused_says_what_is_possible() {
        let refused = check("rebalance", None).unwrap_err().to_string();
        assert!(SETTINGS.iter().all(|setting| refused.contains(setting.key())), "{refused}");
        let refused = check("rebalance.auto", Some(SettingValue::Number(1))).unwrap_err().to_string();
        assert!(refused.contains("true or false"), "{refused}");
        let refused = JOIN_TOKEN_TTL.check(JOIN_TOKEN_TTL_MS_MAX + 1).unwrap_err().to_string();
        assert!(refused.contains("from 60000 to 604800000"), "{refused}");
    }
}
