//! What must be true at every moment, of every copy on every node: the engine's invariants, one leader in a term, and that
//! nothing which was committed is ever anything else.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use coda_engine::apply::apply;
use coda_engine::invariants;
use coda_engine::kv::MemKv;
use coda_protocol::ids::GroupId;
use coda_raft_store::group::Group;
use coda_raft_store::sim::{SimApplied, digest};

use crate::cluster::Cluster;
use crate::trace::Trace;
use crate::world::World;

/// Between two looks at all copies.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was seen so far.
#[derive(Default)]
pub struct Watch {
    /// Who led in which term.
    leaders: BTreeMap<(GroupId, u64), u8>,
    /// The state of a group after so many entries, and on which node that was seen first.
    digests: BTreeMap<(GroupId, u64), (u64, u8)>,
    /// What each node's copy had applied when it was last looked at, and its term.
    seen: BTreeMap<(u8, GroupId), Seen>,
    /// Each entry that anybody has applied, and who did first.
    entries: BTreeMap<(GroupId, u64), (SimApplied, u8)>,
    pub looks: u64,
    pub states: u64,
    /// States that were compared with what the rules make of the log.
    pub replays: u64,
    pub terms: u64,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    applied: u64,
    term: u64,
}

impl Watch {
    /// Looks at all copies; what is wrong with them.
    pub fn look(&mut self, world: &mut World, cluster: &Cluster) -> Vec<String> {
        let mut problems = Vec::new();
        let trace = world.trace.clone();
        for node in 1..=cluster.count() {
            for entry in cluster.applied(node) {
                trace.state(node, entry.group.0, entry.index, entry.hash);
                problems.extend(self.applied(node, entry));
            }
        }
        for node in 1..=cluster.count() {
            let copies = cluster.copies(node);
            // A node that was emptied begins again where it has nothing.
            self.seen.retain(|(seen, group), _| *seen != node || copies.iter().any(|copy| copy.id() == *group));
            let host = world.host(cluster.host(node));
            if host.is_paused() {
                continue;
            }
            host.within(|| copies.iter().for_each(|copy| self.look_at(node, copy, &trace, &mut problems)));
        }
        self.looks += 1;
        problems
    }

    /// A node may have lost what was not on its disk: what it has applied may be less than before, and its term. What it has
    /// then is compared with the whole log.
    pub fn look_anew(&mut self, node: u8) {
        self.seen.retain(|(seen, _), _| *seen != node);
    }

    /// What was applied anywhere at an index is the same everywhere, for ever.
    fn applied(&mut self, node: u8, entry: SimApplied) -> Option<String> {
        let SimApplied { group, term, index, hash, .. } = entry;
        let (first, by) = self.entries.entry((group, index)).or_insert((entry, node));
        ((first.term, first.hash) != (term, hash)).then(|| {
            format!(
                "nothing_committed_is_undone: entry {index} of group {group} is of term {term} on node {node}, and was of \
                 term {} on node {by}, or says something else",
                first.term
            )
        })
    }

    /// The digest of what the rules make of a group's log up to this entry; unknown if not all of it was seen.
    fn replayed(&self, group: GroupId, to: u64) -> Option<u64> {
        let mut kv = MemKv::default();
        for index in 0..=to {
            let (applied, _) = self.entries.get(&(group, index))?;
            if let Some(entry) = applied.entry() {
                apply(&mut kv, group, index, entry);
            }
        }
        Some(digest(&kv, group))
    }

    fn look_at(&mut self, node: u8, copy: &Group, trace: &Trace, problems: &mut Vec<String>) {
        let group = copy.id();
        let status = copy.status();
        let leadership = copy.leadership().borrow().clone();
        if leadership.is_me {
            let first = *self.leaders.entry((group, leadership.term)).or_insert_with(|| {
                self.terms += 1;
                node
            });
            if first != node {
                let term = leadership.term;
                problems
                    .push(format!("one_leader_in_a_term: nodes {first} and {node} lead group {group} in term {term}"));
            }
        }
        let known = self.seen.get(&(node, group)).copied();
        let before = known.unwrap_or_default();
        let applied = copy.read(|_, applied| applied);
        if status.term < before.term {
            problems.push(format!(
                "nothing_committed_is_undone: node {node}, group {group}: term {} after {}",
                status.term, before.term
            ));
        }
        if applied < before.applied {
            problems.push(format!(
                "nothing_committed_is_undone: node {node}, group {group}: applied {applied} after {}",
                before.applied
            ));
        }
        self.seen.insert((node, group), Seen { applied, term: status.term });
        if applied == before.applied {
            return;
        }
        let (_, digest) = copy.digest();
        self.states += 1;
        trace.state(node, group.0, applied, digest);
        if known.is_none()
            && let Some(replayed) = self.replayed(group, applied)
        {
            self.replays += 1;
            if replayed != digest {
                problems.push(format!(
                    "state_follows_from_the_log: group {group} after {applied} is {digest:x} on node {node}, and the log \
                     leads to {replayed:x}"
                ));
            }
        }
        match self.digests.entry((group, applied)) {
            // Byte by byte what was checked before, on another node.
            Entry::Occupied(first) if first.get().0 == digest => return,
            Entry::Occupied(first) => {
                let (first, by) = first.get();
                problems.push(format!(
                    "copies_are_equal: group {group} after {applied} is {digest:x} on node {node}, {first:x} on {by}"
                ));
            }
            Entry::Vacant(first) => {
                first.insert((digest, node));
            }
        }
        let violations = copy.read(|kv, applied| invariants::check_at(kv, group, applied));
        problems.extend(violations.into_iter().map(|violation| format!("{violation} (node {node}, group {group})")));
    }
}

/// Whether all copies of each group are at the same entry, and equal.
pub fn copies_are_equal(world: &mut World, cluster: &Cluster) -> Result<(), String> {
    let mut first: BTreeMap<GroupId, (u8, (u64, u64))> = BTreeMap::new();
    for node in 1..=cluster.count() {
        let copies = cluster.copies(node);
        let host = world.host(cluster.host(node));
        for (group, digest) in host.within(|| copies.iter().map(|copy| (copy.id(), copy.digest())).collect::<Vec<_>>())
        {
            let (by, known) = *first.entry(group).or_insert((node, digest));
            if known != digest {
                return Err(format!("group {group} is {digest:x?} on node {node} and {known:x?} on node {by}"));
            }
        }
    }
    Ok(())
}
