//! A ledger: transfers between accounts, each of which is booked once, whole, however often its steps are executed. What goes
//! out of one account comes into another, so the total never changes.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::Violation;
use crate::properties::LEDGER_ADDS_UP;

/// One side of a transfer, as its recorded result says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Booking {
    pub account: u64,
    pub amount: i64,
}

/// A transfer that has ended well, and the bookings that its end reports.
#[derive(Clone, Debug)]
pub struct Transfer<K> {
    pub key: K,
    pub from: u64,
    pub to: u64,
    pub amount: i64,
    pub booked: Vec<Booking>,
}

/// Checks each transfer and all of them together. The balances that come out of it.
#[must_use]
pub fn check<K: Ord + Debug>(transfers: &[Transfer<K>]) -> (BTreeMap<u64, i64>, Vec<Violation>) {
    let mut broken = Vec::new();
    let mut balances: BTreeMap<u64, i64> = BTreeMap::new();
    let mut known: BTreeMap<&K, &Transfer<K>> = BTreeMap::new();
    for transfer in transfers {
        let Transfer { from, to, amount, .. } = *transfer;
        if known.insert(&transfer.key, transfer).is_some() {
            broken.push(Violation::new(LEDGER_ADDS_UP, format!("{:?} has ended twice", transfer.key)));
            continue;
        }
        let mut booked = transfer.booked.clone();
        let mut wanted = vec![Booking { account: from, amount: -amount }, Booking { account: to, amount }];
        booked.sort_unstable();
        wanted.sort_unstable();
        if booked != wanted {
            broken.push(Violation::new(LEDGER_ADDS_UP, format!("{transfer:?} is not booked as it was asked for")));
        }
        booked.iter().for_each(|one| *balances.entry(one.account).or_default() += one.amount);
    }
    let total: i64 = balances.values().sum();
    if total != 0 && broken.is_empty() {
        broken.push(Violation::new(LEDGER_ADDS_UP, format!("the balances add up to {total}: {balances:?}")));
    }
    (balances, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(key: u32, booked: &[(u64, i64)]) -> Transfer<u32> {
        let booked = booked.iter().map(|&(account, amount)| Booking { account, amount }).collect();
        Transfer { key, from: 1, to: 2, amount: 30, booked }
    }

    #[test]
    fn what_goes_out_comes_in_once() {
        let (balances, broken) = check(&[transfer(1, &[(1, -30), (2, 30)]), transfer(2, &[(2, 30), (1, -30)])]);
        assert_eq!((broken, balances), (Vec::new(), BTreeMap::from([(1, -60), (2, 60)])));
        for wrong in [&[(1, -30)][..], &[(1, -30), (2, 30), (2, 30)], &[(1, -30), (3, 30)], &[(1, -30), (2, 31)], &[]] {
            assert_eq!(check(&[transfer(1, wrong)]).1.len(), 1, "{wrong:?}");
        }
        let twice = [transfer(1, &[(1, -30), (2, 30)]), transfer(1, &[(1, -30), (2, 30)])];
        assert_eq!(check(&twice).1.len(), 1);
    }
}
