//! What a run says. Only one of these is green.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use coda_checkers::properties::{
    ACCEPTED_WORK_ENDS, KNOWN_RESULTS_ARE_NOT_MADE_AGAIN, NODES_STAY_UP, Property, TROUBLE_IS_NOT_TOLD,
    WELL_AGAIN_IN_TIME,
};
use serde::{Deserialize, Serialize};

use crate::findings::{Found, Sort};

/// Promises with bounds on time, or judged by times that bodies and readers wrote down.
const TIMELY: [Property; 5] =
    [ACCEPTED_WORK_ENDS, KNOWN_RESULTS_ARE_NOT_MADE_AGAIN, NODES_STAY_UP, TROUBLE_IS_NOT_TOLD, WELL_AGAIN_IN_TIME];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The suite itself was stopped for a while: it says nothing, and is to be run again.
    Spoiled,
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
    /// What was found decides. If the suite itself stood still, only what does not depend on time.
    pub fn of(found: &BTreeMap<Sort, Found>, stood_still: bool) -> Self {
        let is_timeless = |property: &&str| !TIMELY.iter().any(|timely| timely.name() == *property);
        if stood_still && !found.values().flat_map(|found| &found.properties).any(is_timeless) {
            return Self::Spoiled;
        }
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
            Self::Spoiled => 75,
            // As test programs say it.
            Self::Skipped => 77,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spoiled => "spoiled",
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
        let of = |sorts: &[Sort]| Verdict::of(&sorts.iter().map(|sort| (*sort, Found::default())).collect(), false);
        assert_eq!(of(&[]), Verdict::Valid);
        assert_eq!(of(&[Sort::Doubt]), Verdict::Unknown);
        assert_eq!(of(&[Sort::Doubt, Sort::Coverage]), Verdict::InvalidCoverage);
        assert_eq!(of(&[Sort::Doubt, Sort::Coverage, Sort::Violation]), Verdict::Invalid);
    }

    #[test]
    fn a_suite_that_stood_still_says_nothing_of_time() {
        let of = |property: Property| {
            let found = Found { properties: [property.name()].into(), ..Found::default() };
            Verdict::of(&[(Sort::Violation, found)].into(), true)
        };
        assert_eq!(Verdict::of(&BTreeMap::new(), true), Verdict::Spoiled);
        assert_eq!(of(WELL_AGAIN_IN_TIME), Verdict::Spoiled);
        assert_eq!(of(coda_checkers::properties::ACKNOWLEDGED_IS_KEPT), Verdict::Invalid);
    }
}
