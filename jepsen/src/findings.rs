//! What was found. Found anywhere, kept in one place, and written down at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use coda_checkers::Violation;
use coda_checkers::properties::Property;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use tracing::error;

use crate::history::History;

/// More are counted, and only in the history.
const KEPT_MAX: usize = 200;

/// Cheap to clone.
#[derive(Clone)]
pub struct Findings {
    history: History,
    found: Arc<Mutex<BTreeMap<Sort, Found>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// A promise was broken.
    Violation,
    /// Too little happened: a fault did not bite, or hardly an operation succeeded.
    Coverage,
    /// A checker could not say.
    Doubt,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    pub count: u64,
    /// Names of promises that were broken.
    pub properties: BTreeSet<&'static str>,
    pub first: Vec<String>,
}

impl Findings {
    pub fn new(history: History) -> Self {
        Self { history, found: Arc::default() }
    }

    /// A promise was broken, by the name that it has in `docs/invariants.md`.
    pub fn violation(&self, property: Property, detail: impl Display) {
        self.broken(&Violation::new(property, detail.to_string()));
    }

    /// A checker says that a promise was broken.
    pub fn broken(&self, violation: &Violation) {
        self.note(Sort::Violation, Some(violation.property), violation.to_string());
    }

    /// The run says less than it should.
    pub fn uncovered(&self, what: impl Into<String>) {
        self.note(Sort::Coverage, None, what.into());
    }

    /// A checker came to no end.
    pub fn doubt(&self, what: impl Into<String>) {
        self.note(Sort::Doubt, None, what.into());
    }

    pub fn all(&self) -> BTreeMap<Sort, Found> {
        self.found.lock().clone()
    }

    fn note(&self, sort: Sort, property: Option<Property>, what: String) {
        error!(?sort, %what, "found");
        self.history.note("found", &json!({ "sort": sort, "found": what }));
        let mut found = self.found.lock();
        let found = found.entry(sort).or_default();
        found.count += 1;
        found.properties.extend(property.map(Property::name));
        if found.first.len() < KEPT_MAX {
            found.first.push(what);
        }
    }
}
