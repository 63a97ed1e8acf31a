//! What a run says. Only one of these is green.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::findings::{Found, Sort};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Enough happened, and every promise was kept.
    Valid,
    /// The machine lacks what every nemesis of the run needs.
    Skipped,
    /// A checker came to no end.
    Unknown,
    /// Too little happened: a fault did not bite, or too few operations succeeded.
    InvalidCoverage,
    /// The suite itself could not go on.
    HarnessFailure,
    /// A promise was broken.
    Invalid,
}

impl Verdict {
    pub fn of(found: &BTreeMap<Sort, Found>) -> Self {
        match found.keys().next() {
            None => Self::Valid,
            Some(Sort::Violation) => Self::Invalid,
            Some(Sort::Coverage) => Self::InvalidCoverage,
            Some(Sort::Doubt) => Self::Unknown,
        }
    }

    pub fn exit(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::HarnessFailure => 2,
            Self::InvalidCoverage => 3,
            Self::Unknown => 4,
            // As test programs say it.
            Self::Skipped => 77,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
            Self::InvalidCoverage => "invalid-coverage",
            Self::HarnessFailure => "harness-failure",
            Self::Invalid => "invalid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_that_was_found_decides() {
        let of = |sorts: &[Sort]| Verdict::of(&sorts.iter().map(|sort| (*sort, Found::default())).collect());
        assert_eq!(of(&[]), Verdict::Valid);
        assert_eq!(of(&[Sort::Doubt]), Verdict::Unknown);
        assert_eq!(of(&[Sort::Doubt, Sort::Coverage]), Verdict::InvalidCoverage);
        assert_eq!(of(&[Sort::Doubt, Sort::Coverage, Sort::Violation]), Verdict::Invalid);
    }
}
