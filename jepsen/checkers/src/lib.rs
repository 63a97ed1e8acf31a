//! What was promised, checked over what was seen. Pure functions from histories to violations, each under the name of the
//! property that it breaks: `docs/invariants.md` is the page of all names.
//!
//! Deliberately absent: I/O, clocks, chance, and anything that knows how a history came about. The simulation and the jepsen
//! suite bring histories of their own. Every checker is exact: it names a violation if, and only if, what was seen cannot
//! have happened under the promise, whatever became of the operations of which nobody knows. The one that may give up says so.
//!
//! Read in this order: [`properties`], [`history`], then any checker.

pub mod history;
pub mod properties;

pub mod attempts;
pub mod fencing;
pub mod order;
pub mod timers;

pub mod ledger;
pub mod memo;
pub mod set;
pub mod work;

pub mod counts;
pub mod lifecycle;
pub mod register;
pub mod wgl;
pub mod zones;

use std::fmt;

use properties::Property;

/// Something that must never be, under the name of the property that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub property: Property,
    pub detail: String,
}

impl Violation {
    pub fn new(property: Property, detail: impl Into<String>) -> Self {
        Self { property, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

/// A moment of the one clock of a history. Only its order means anything, but to [`timers`].
pub type Moment = u64;

/// Of what never came.
pub const NEVER: Moment = Moment::MAX;
