//! Questions about all groups: any node answers them, by asking each group's leader.

use coda_protocol::ids::{Name, Position, check_name};
use coda_protocol::reject::{Refusal, Unavailable};
use coda_protocol::reply::{LaneList, QueueCursor, QueuePage, QueuePlace};
use futures::future::join_all;

use super::ask::{Ask, Said};
use crate::host::Host;

/// A page of the queues of all groups, one group after the other.
pub async fn queues(host: &Host, from: Option<QueueCursor>) -> Result<(Position, QueuePage), Refusal> {
    let groups = host.groups()?;
    let (first, place) = from.map_or((groups[0], None), |cursor| (cursor.group, Some(cursor.place)));
    let Some(i) = groups.iter().position(|group| *group == first) else {
        return Ok((Position::NOWHERE, QueuePage { queues: Vec::new(), next: None }));
    };
    let asked = host.asking.leader(host, Ask::Queues { group: first, from: place }).await?;
    let Said::Queues(position, mut page) = asked else { return Err(Unavailable::ConnectionLost.into()) };
    if page.next.is_none() {
        page.next = groups.get(i + 1).map(|next| QueueCursor { group: *next, place: QueuePlace::First });
    }
    Ok((position, page))
}

/// What all groups say about a queue, added up.
pub async fn lanes(host: &Host, queue: &Name) -> Result<(Position, LaneList), Refusal> {
    check_name(queue)?;
    let ask = |group| host.asking.leader(host, Ask::Lanes { group, queue: queue.clone() });
    let mut all: Option<(Position, LaneList)> = None;
    for said in join_all(host.groups()?.into_iter().map(ask)).await {
        let Said::Lanes(position, lanes) = said? else { return Err(Unavailable::ConnectionLost.into()) };
        match &mut all {
            Some((_, sum)) => sum.add(lanes),
            None => all = Some((position, lanes)),
        }
    }
    Ok(all.expect("a cluster has groups"))
}
