//! Between the courier and the leases: what requests mean, what news do, who is told.

use std::collections::BTreeSet;
use std::time::Instant;

use coda_protocol::cluster::ClusterMap;
use coda_protocol::ids::{GroupId, NodeId, Position, Work};
use coda_protocol::payload::check_outcome;
use coda_protocol::push::Push;
use coda_protocol::reply::Reply;
use coda_protocol::request::{Release, Request};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::WorkerEvent;
use crate::courier::{Courier, Handler, News, Packed};
use crate::error::ClientError;
use crate::events::EventsIn;
use crate::leases::{Intent, Leases, Verdict};
use crate::link::Answered;

/// What the request does to the leases. Outcomes over the bounds are refused here, while the lease can still be ended
/// in another way.
pub(super) fn intent(request: &Request) -> Result<Intent, ClientError> {
    Ok(match request {
        Request::Spawn(spawn) => Intent::Spawn {
            hold: (Work::Run(spawn.run), spawn.lease),
            keys: spawn.steps.iter().map(|step| step.key.clone()).collect(),
        },
        Request::RecordStep(step) => {
            step.result.check()?;
            Intent::Record { hold: (Work::Run(step.run), step.lease) }
        }
        Request::CompleteTask(done) => {
            check_outcome(&done.outcome)?;
            Intent::End { hold: (Work::Task(done.task), done.lease) }
        }
        Request::CompleteRun(done) => {
            check_outcome(&done.outcome)?;
            Intent::End { hold: (Work::Run(done.run), done.lease) }
        }
        Request::Release(release) => Intent::End { hold: (release.work, release.lease) },
        Request::ParkRun(park) => Intent::Park { hold: (Work::Run(park.run), park.lease) },
        _ => Intent::Ask,
    })
}

pub(crate) struct Ticket {
    pub intent: Intent,
    pub to: To,
}

pub(crate) enum To {
    Token(u64),
    Once(oneshot::Sender<Answered>),
    Nobody,
}

impl Ticket {
    pub(crate) fn quiet(intent: Intent) -> Self {
        Self { intent, to: To::Nobody }
    }
}

pub(crate) struct WorkerHandler {
    pub leases: Mutex<Leases<Packed<Ticket>>>,
    pub events: EventsIn<WorkerEvent>,
}

impl WorkerHandler {
    /// Sends an admitted request, keeps it back, or answers it here.
    pub(crate) fn dispatch(&self, courier: &Courier<Self>, packed: Packed<Ticket>) {
        let mut leases = self.leases.lock();
        match leases.begin(&packed.ticket.intent) {
            Verdict::Send => {
                let freed = match &packed.ticket.intent {
                    Intent::End { hold } => leases.owes_others(*hold, Instant::now()),
                    _ => false,
                };
                drop(leases);
                courier.submit(packed);
                if freed {
                    courier.wake();
                }
            }
            Verdict::Defer => {
                if let Intent::End { hold } | Intent::Park { hold } = packed.ticket.intent {
                    leases.defer(hold, packed);
                }
            }
            Verdict::Superseded => {
                drop(leases);
                courier.drop_admitted(&packed);
                let result = Ok((Reply::Done, Position::NOWHERE));
                let mut batch = Vec::new();
                answer(packed.ticket.to, result, &mut batch);
                self.events.push_all(&mut batch);
            }
        }
    }
}

impl Handler for WorkerHandler {
    type Ticket = Ticket;

    fn greeting(&self, node: NodeId) -> Vec<(Request, Ticket)> {
        let requests = self.leases.lock().greeting(node).into_iter();
        requests.map(|request| (request, Ticket::quiet(Intent::Ask))).collect()
    }

    fn resume(&self, group: GroupId, map: Option<&ClusterMap>) -> Option<(Request, Ticket)> {
        let (resume, holds) = self.leases.lock().resume(group, map);
        Some((Request::Resume(resume), Ticket::quiet(Intent::Resume { holds })))
    }

    fn leading(&self, nodes: &BTreeSet<NodeId>) -> Vec<(NodeId, Request, Ticket)> {
        let anew = self.leases.lock().leading(nodes).into_iter();
        anew.map(|(node, request)| (node, request, Ticket::quiet(Intent::Ask))).collect()
    }

    fn credits(&self, node: NodeId, out: &mut Vec<u8>) {
        self.leases.lock().credits(node, Instant::now(), out);
    }

    fn reclaim(&self) -> Vec<(NodeId, Request, Ticket)> {
        let withdrawals = self.leases.lock().reclaim(Instant::now()).into_iter();
        withdrawals.map(|(node, withdraw, intent)| (node, Request::Withdraw(withdraw), Ticket::quiet(intent))).collect()
    }

    fn handle(&self, courier: &Courier<Self>, news: &mut Vec<News<Ticket>>) {
        let (mut batch, mut back, mut released) = (Vec::with_capacity(news.len()), Vec::new(), Vec::new());
        let (mut over, mut wished) = (false, false);
        let mut leases = self.leases.lock();
        for news in news.drain(..) {
            match news {
                News::Push(node, push) => {
                    wished |= matches!(push, Push::Wants(_));
                    leases.on_push(node, push, &mut batch, &mut back);
                }
                News::Answered { ticket, mut result, .. } => {
                    wished |= matches!(ticket.intent, Intent::Withdraw { .. });
                    released.extend(leases.finish(&ticket.intent, &mut result, &mut batch));
                    answer(ticket.to, result, &mut batch);
                }
                News::Connected { first, welcome } => batch.push(WorkerEvent::Connected { first, welcome }),
                News::Disconnected { node, left } => {
                    leases.on_disconnected(node);
                    if left == 0 {
                        batch.push(WorkerEvent::Disconnected);
                    }
                }
                News::Failed(error) => {
                    // Its own end is what the worker has asked for.
                    if error != ClientError::Closed {
                        error!(code = error.code(), %error, "worker cannot go on");
                    }
                    batch.push(WorkerEvent::Failed(error));
                    over = true;
                }
            }
        }
        // Under the lock, so that a drain finds every lease either not delivered or in the queue.
        self.events.push_all(&mut batch);
        let owes_credit = leases.owes_credit();
        drop(leases);
        for (work, lease) in back {
            courier.submit_internal(Request::Release(Release { work, lease }), Ticket::quiet(Intent::Ask));
        }
        released.into_iter().for_each(|packed| self.dispatch(courier, packed));
        if over {
            self.events.close();
            return;
        }
        if wished {
            courier.reclaim();
        }
        if owes_credit {
            courier.wake();
        }
    }

    async fn room(&self) {
        self.events.room().await;
    }

    fn is_abandoned(ticket: &Ticket) -> bool {
        match &ticket.to {
            To::Once(waiter) => waiter.is_closed(),
            To::Token(_) => false,
            To::Nobody => true,
        }
    }
}

fn answer(to: To, result: Answered, batch: &mut Vec<WorkerEvent>) {
    match to {
        To::Once(waiter) => drop(waiter.send(result)),
        To::Token(token) => batch.push(WorkerEvent::Answered { token, result }),
        To::Nobody => {
            if let Err(error) = result
                && error != ClientError::Closed
                && !error.is_superseded()
            {
                warn!(code = error.code(), %error, "refused");
            }
        }
    }
}
