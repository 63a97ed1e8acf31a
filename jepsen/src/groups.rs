//! Ids that live in a group of one's choice.

use coda_protocol::ids::{GroupId, Slotted, TaskId};
use coda_protocol::slots::SlotMap;
use rand::Rng;
use rand::rngs::StdRng;

/// An id of work, drawn from the seed.
pub fn task_id(chance: &mut StdRng) -> TaskId {
    loop {
        let id = TaskId(chance.random());
        if id.check_chosen().is_ok() {
            return id;
        }
    }
}

/// An id whose slot belongs to the group.
pub fn task_id_in(group: GroupId, slots: &SlotMap, chance: &mut StdRng) -> TaskId {
    loop {
        let id = task_id(chance);
        if slots.group_of(id.slot()) == group {
            return id;
        }
    }
}

/// All data groups of a cluster.
pub fn data_groups(groups: u16) -> impl Iterator<Item = GroupId> {
    (1..=u32::from(groups)).map(GroupId)
}
