//! The names of what is promised. One name each, the same on the page `docs/invariants.md`, in the simulation and in the
//! jepsen suite; invariants of the engine's state have theirs in `coda-engine`.

use std::fmt;

/// The name of a property of histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Property(&'static str);

impl Property {
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! properties {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: Property = Property($name);)*
        /// All of them.
        pub const ALL: &[Property] = &[$($constant),*];
    };
}

properties! {
    /// What was acknowledged is found by everybody who looks later.
    ACKNOWLEDGED_IS_KEPT = "acknowledged_is_kept";
    /// Whatever was accepted comes to one end, in time, once nothing goes wrong any more.
    ACCEPTED_WORK_ENDS = "accepted_work_ends";
    /// Nothing is executed, recorded or read that nobody asked for, or that was refused.
    NOTHING_IS_INVENTED = "nothing_is_invented";
    /// All who ever read the end of one piece of work read the same.
    ONE_END_PER_WORK = "one_end_per_work";
    /// No two readers see different results of one key of a run.
    ONE_VALUE_PER_KEY = "one_value_per_key";
    /// Once somebody has read a key's result nobody finds it missing.
    RESULTS_ARE_KEPT = "results_are_kept";
    /// No execution begins under a key whose result was read before.
    KNOWN_RESULTS_ARE_NOT_MADE_AGAIN = "known_results_are_not_made_again";
    /// What goes out of one account comes into another, once.
    LEDGER_ADDS_UP = "ledger_adds_up";

    /// No fencing token is given twice.
    FENCING_TOKENS_ARE_UNIQUE = "fencing_tokens_are_unique";
    /// A later attempt has a larger token.
    FENCING_TOKENS_RISE = "fencing_tokens_rise";
    /// Who holds a lease that another has superseded changes nothing.
    SUPERSEDED_CHANGES_NOTHING = "superseded_changes_nothing";
    /// A sink that takes only tokens as large as any before lets everything pass of the attempt whose end counts.
    FENCED_SINK_AGREES = "fenced_sink_agrees";
    /// Attempts of one piece of work count up.
    ATTEMPTS_RISE = "attempts_rise";
    /// Nothing is tried more often, nor given up sooner, than its policy says.
    RETRIES_FOLLOW_POLICY = "retries_follow_policy";

    /// No worker holds more leases than it has offered slots for, or executes more at once than it has slots.
    SLOTS_ARE_NOT_EXCEEDED = "slots_are_not_exceeded";

    /// Of ready work in a lane the one of higher priority is leased first, and of one priority the one accepted first.
    ORDER_IN_A_LANE = "order_in_a_lane";
    /// Nothing runs before its time.
    TIMERS_NEVER_EARLY = "timers_never_early";

    /// Positions of one group follow real time.
    POSITIONS_FOLLOW_REAL_TIME = "positions_follow_real_time";
    /// A read sees every write acknowledged before it began, and nothing from after its end.
    READS_ARE_LINEARIZABLE = "reads_are_linearizable";
    /// A list counts what was accepted up to its position, all of it and nothing else.
    LISTS_ARE_LINEARIZABLE = "lists_are_linearizable";

    /// No client is told an error by a cluster that is only troubled.
    TROUBLE_IS_NOT_TOLD = "trouble_is_not_told";
    /// A group has at most one leader in a term.
    ONE_LEADER_IN_A_TERM = "one_leader_in_a_term";
    /// What was committed is never anything else, and no node goes back behind it.
    NOTHING_COMMITTED_IS_UNDONE = "nothing_committed_is_undone";
    /// Copies of a group are equal at equal indexes.
    COPIES_ARE_EQUAL = "copies_are_equal";
    /// A group's state is what the rules make of all its log.
    STATE_FOLLOWS_FROM_THE_LOG = "state_follows_from_the_log";
    /// A node without a quorum acknowledges and answers nothing.
    NO_QUORUM_NO_ANSWER = "no_quorum_no_answer";
    /// When a fault is over, writes are back and the cluster is well by itself, in time.
    WELL_AGAIN_IN_TIME = "well_again_in_time";
    /// No node ends by itself, panics or logs an error.
    NODES_STAY_UP = "nodes_stay_up";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_snake_case() {
        let names: BTreeSet<_> = ALL.iter().map(|property| property.name()).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')), "{names:?}");
    }
}
