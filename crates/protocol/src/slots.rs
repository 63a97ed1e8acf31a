//! Which group each hash slot belongs to, as ranges.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, Slot};
use crate::limits::{GROUPS_MAX, SLOTS};

/// The groups of all slots. Whatever can be decoded covers every slot exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawMap")]
pub struct SlotMap {
    /// In order of their first slot; each ends where the next begins.
    ranges: Vec<SlotRange>,
}

/// Slots of one group, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SlotRange {
    first: Slot,
    group: GroupId,
}

#[derive(Deserialize)]
struct RawMap {
    ranges: Vec<SlotRange>,
}

impl TryFrom<RawMap> for SlotMap {
    type Error = &'static str;

    fn try_from(RawMap { ranges }: RawMap) -> Result<Self, &'static str> {
        if ranges.first().is_none_or(|range| range.first != Slot(0)) {
            return Err("the first slot belongs to no group");
        }
        if ranges.last().is_some_and(|range| range.first.0 >= SLOTS) {
            return Err("a slot that does not exist belongs to a group");
        }
        if !ranges.is_sorted_by(|a, b| a.first < b.first && a.group != b.group) {
            return Err("ranges of slots are out of order, or one is written as two");
        }
        if ranges.iter().any(|range| range.group == GroupId::META || range.group.0 > u32::from(GROUPS_MAX)) {
            return Err("slots belong to something that is no data group");
        }
        Ok(Self { ranges })
    }
}

impl SlotMap {
    /// The slots of a new cluster: in order, and as even as can be.
    ///
    /// # Panics
    /// Without groups, or with more than [`GROUPS_MAX`].
    #[must_use]
    pub fn even(groups: u16) -> Self {
        assert!((1..=GROUPS_MAX).contains(&groups), "{groups} groups");
        let first = |group: u16| (u32::from(group) * u32::from(SLOTS)).div_ceil(u32::from(groups)) as u16;
        let range = |group| SlotRange { first: Slot(first(group)), group: GroupId(u32::from(group) + 1) };
        Self { ranges: (0..groups).map(range).collect() }
    }

    #[must_use]
    pub fn group_of(&self, slot: Slot) -> GroupId {
        let after = self.ranges.partition_point(|range| range.first <= slot);
        self.ranges[after - 1].group
    }

    /// Each range with its first and its last slot.
    pub fn ranges(&self) -> impl Iterator<Item = (Slot, Slot, GroupId)> {
        let ends = self.ranges.iter().skip(1).map(|next| next.first.0).chain([SLOTS]);
        self.ranges.iter().zip(ends).map(|(range, end)| (range.first, Slot(end - 1), range.group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_new_clusters_slots_are_even_and_contiguous() {
        for groups in 1..=GROUPS_MAX {
            let map = SlotMap::even(groups);
            let sizes: Vec<u16> = map.ranges().map(|(first, last, _)| last.0 - first.0 + 1).collect();
            let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(max - min <= 1 && sizes.iter().sum::<u16>() == SLOTS, "{groups} groups: {sizes:?}");
            assert!(map.ranges().map(|(_, _, group)| group.0).eq(1..=u32::from(groups)));
        }
    }

    #[test]
    fn every_slot_is_found_in_its_range() {
        let map = SlotMap::even(3);
        let ranges: Vec<_> = map.ranges().map(|(first, last, group)| (first.0, last.0, group.0)).collect();
        assert_eq!(ranges, [(0, 1_365, 1), (1_366, 2_730, 2), (2_731, 4_095, 3)]);
        for (first, last, group) in map.ranges() {
            assert!((first.0..=last.0).all(|slot| map.group_of(Slot(slot)) == group));
        }
    }

    #[test]
    fn a_map_with_a_hole_or_without_order_cannot_be_decoded() {
        let decode = |ranges: &[(u16, u32)]| {
            let range = |(first, group): &(u16, u32)| SlotRange { first: Slot(*first), group: GroupId(*group) };
            let ranges: Vec<SlotRange> = ranges.iter().map(range).collect();
            codec::decode::<SlotMap>("slots", &codec::encode(&ranges))
        };
        let good = decode(&[(0, 2), (9, 1), (10, 2)]).unwrap();
        assert_eq!((good.group_of(Slot(9)), good.group_of(Slot(4_095))), (GroupId(1), GroupId(2)));
        for bad in
            [&[][..], &[(1, 1)], &[(0, 1), (0, 2)], &[(0, 1), (9, 2), (5, 1)], &[(0, 1), (5, 1)], &[(0, 1), (4_096, 2)]]
        {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        assert!(decode(&[(0, 0)]).is_err(), "the meta group holds no slots");
        assert!(decode(&[(0, 257)]).is_err());
    }
}
