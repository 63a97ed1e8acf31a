//! What was violated. Found anywhere, kept in one place, and written down at once.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use tracing::error;

use crate::history::History;

/// More are counted, and only in the history.
const KEPT_MAX: usize = 200;

/// Cheap to clone.
#[derive(Clone)]
pub struct Findings {
    history: History,
    found: Arc<Mutex<Found>>,
}

#[derive(Clone, Debug, Default)]
pub struct Found {
    pub count: u64,
    pub first: Vec<String>,
}

impl Findings {
    pub fn new(history: History) -> Self {
        Self { history, found: Arc::default() }
    }

    /// A promise was broken.
    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        error!(%what, "violation");
        self.history.note("violation", &json!({ "what": what }));
        let mut found = self.found.lock();
        found.count += 1;
        if found.first.len() < KEPT_MAX {
            found.first.push(what);
        }
    }

    pub fn all(&self) -> Found {
        self.found.lock().clone()
    }
}
