//! One session's connection to the cluster, for programs that ask: requests in, answers out, reconnects unseen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coda_protocol::cluster::ClusterMap;
use coda_protocol::frame::Welcome;
use coda_protocol::ids::{GroupId, NodeId, Position};
use coda_protocol::push::Push;
use coda_protocol::reply::{Answer, Reply};
use coda_protocol::request::Request;
use tokio::sync::oneshot;

use crate::courier::{Courier, Handler, News, Packed};
use crate::error::ClientError;
use crate::events::{Events, EventsIn, events};
use crate::options::ConnectOptions;

/// What became of a request: the reply and where it stands in the log, or why there will be none.
pub type Answered = Result<(Reply, Position), ClientError>;

/// What a link tells, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The answer to [`Link::post`].
    Answered {
        token: u64,
        result: Answered,
    },
    Push(Push),
    /// Connected, for the first time or again. Unanswered requests were sent again by the link itself.
    Connected {
        first: bool,
        welcome: Welcome,
    },
    Disconnected,
    /// The link will not connect again. Every unanswered request has failed with the same error. The last event.
    Failed(ClientError),
}

/// A request that waits for room; give it to [`Link::post_parcel`].
pub struct Parcel(Packed<Ticket>);

/// One session's connection to the cluster. Cheap to clone; closes with its last clone.
///
/// It reconnects for ever and sends every unanswered request again with the same id. Answers that only mean "not now"
/// are retried inside. Requests wait for room while too many are unanswered; none is dropped.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner(Arc<Courier<LinkHandler>>);

impl Drop for Inner {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl Link {
    /// Connects, and waits for the first connection up to the options' `connect_timeout`.
    ///
    /// Receive the events or drop them; a receiver that is kept and not read stops the link when it is full.
    ///
    /// # Errors
    /// What makes connecting impossible, and [`ClientError::NoNode`] after the timeout.
    pub async fn open(options: ConnectOptions) -> Result<(Self, Events<Event>), ClientError> {
        Self::open_greeting(options, Vec::new).await
    }

    /// As [`Link::open`], with the requests that go first on every connection. Their answers are not shown.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub async fn open_greeting(
        options: ConnectOptions,
        greeting: impl Fn() -> Vec<Request> + Send + Sync + 'static,
    ) -> Result<(Self, Events<Event>), ClientError> {
        let (addresses, timeout) = (options.addresses.join(","), options.connect_timeout);
        let (events_in, events) = events();
        let handler = LinkHandler { greeting: Box::new(greeting), events: events_in };
        let link = Self(Arc::new(Inner(Courier::start(options, handler)?)));
        link.courier().ready(&addresses, timeout).await?;
        Ok((link, events))
    }

    /// Asks and waits for the answer, through any number of reconnects. A dropped future does not take the request back.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the rules refuse; otherwise what ended the link.
    pub async fn request(&self, request: Request) -> Answered {
        let (ticket, answer) = oneshot::channel();
        let packed = self.courier().pack(request, Ticket::Once(ticket))?;
        self.courier().admit(&packed).await?;
        self.courier().submit(packed);
        answer.await.unwrap_or(Err(ClientError::Closed))
    }

    /// As [`Link::request`] with a deadline. The request may still take effect after it.
    ///
    /// # Errors
    /// As [`Link::request`], and [`ClientError::Deadline`] with the last refusal.
    pub async fn request_within(&self, request: Request, limit: Duration) -> Answered {
        let (ticket, answer) = oneshot::channel();
        self.within(request, Ticket::Once(ticket), answer, limit).await
    }

    /// As [`Link::request_within`], with the whole answer: a refusal by the rules has its position in the log too. What can
    /// be tried again was tried again.
    ///
    /// # Errors
    /// [`ClientError::Deadline`]: the request may have taken effect, and still may. Otherwise what ended the link.
    pub async fn ask_within(&self, request: Request, limit: Duration) -> Result<Answer, ClientError> {
        let (ticket, answer) = oneshot::channel();
        self.within(request, Ticket::Whole(ticket), answer, limit).await
    }

    /// Asks; the answer arrives as [`Event::Answered`] with this token. Waits only for room.
    ///
    /// # Errors
    /// The request could not be taken; no event will follow.
    pub async fn post(&self, token: u64, request: Request) -> Result<(), ClientError> {
        self.post_parcel(Parcel(self.courier().pack(request, Ticket::Token(token))?)).await
    }

    /// As [`Link::post`], never waiting: with no room at this moment the parcel comes back, for [`Link::post_parcel`].
    ///
    /// # Errors
    /// As [`Link::post`].
    pub fn try_post(&self, token: u64, request: Request) -> Result<Option<Parcel>, ClientError> {
        let packed = self.courier().pack(request, Ticket::Token(token))?;
        if !self.courier().try_admit(&packed)? {
            return Ok(Some(Parcel(packed)));
        }
        self.courier().submit(packed);
        Ok(None)
    }

    /// Waits for room and sends.
    ///
    /// # Errors
    /// As [`Link::post`].
    pub async fn post_parcel(&self, parcel: Parcel) -> Result<(), ClientError> {
        self.courier().admit(&parcel.0).await?;
        self.courier().submit(parcel.0);
        Ok(())
    }

    /// Ends the session with a goodbye. Unanswered requests fail with [`ClientError::Closed`].
    pub async fn close(&self) {
        self.courier().begin_close();
        self.courier().closed().await;
    }

    async fn within<T>(
        &self,
        request: Request,
        ticket: Ticket,
        answer: oneshot::Receiver<Result<T, ClientError>>,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let packed = self.courier().pack(request, ticket)?;
        let id = packed.id;
        let asked = async {
            self.courier().admit(&packed).await?;
            self.courier().submit(packed);
            answer.await.unwrap_or(Err(ClientError::Closed))
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(self.courier().deadline(id, limit)))
    }

    fn courier(&self) -> &Courier<LinkHandler> {
        &self.0.0
    }
}

enum Ticket {
    Token(u64),
    Once(oneshot::Sender<Answered>),
    Whole(oneshot::Sender<Result<Answer, ClientError>>),
    Greeting,
}

fn whole(result: Answered, position: Position) -> Result<Answer, ClientError> {
    match result {
        Ok((reply, position)) => Ok(Answer { position, result: Ok(reply) }),
        Err(ClientError::Refused(reject)) => Ok(Answer { position, result: Err(reject.into()) }),
        Err(error) => Err(error),
    }
}

struct LinkHandler {
    greeting: Box<dyn Fn() -> Vec<Request> + Send + Sync>,
    events: EventsIn<Event>,
}

impl Handler for LinkHandler {
    type Ticket = Ticket;

    fn greeting(&self, _: NodeId) -> Vec<(Request, Ticket)> {
        (self.greeting)().into_iter().map(|request| (request, Ticket::Greeting)).collect()
    }

    fn resume(&self, _: GroupId, _: Option<&ClusterMap>) -> Option<(Request, Ticket)> {
        None
    }

    fn leading(&self, _: &BTreeSet<NodeId>) -> Vec<(NodeId, Request, Ticket)> {
        Vec::new()
    }

    fn credits(&self, _: NodeId, _: &mut Vec<u8>) {}

    fn reclaim(&self) -> Vec<(NodeId, Request, Ticket)> {
        Vec::new()
    }

    fn handle(&self, _courier: &Courier<Self>, news: &mut Vec<News<Ticket>>) {
        let mut batch = Vec::with_capacity(news.len());
        let mut over = false;
        for news in news.drain(..) {
            match news {
                News::Answered { ticket: Ticket::Once(waiter), result, .. } => drop(waiter.send(result)),
                News::Answered { ticket: Ticket::Whole(waiter), result, position } => {
                    drop(waiter.send(whole(result, position)));
                }
                News::Answered { ticket: Ticket::Token(token), result, .. } => {
                    batch.push(Event::Answered { token, result });
                }
                News::Answered { ticket: Ticket::Greeting, result, .. } => {
                    if let Err(error) = result {
                        tracing::warn!(code = error.code(), %error, "greeting refused");
                    }
                }
                News::Connected { first, welcome } => batch.push(Event::Connected { first, welcome }),
                News::Push(_, push) => batch.push(Event::Push(push)),
                News::Disconnected { left: 0, .. } => batch.push(Event::Disconnected),
                News::Disconnected { .. } => {}
                News::Failed(error) => {
                    batch.push(Event::Failed(error));
                    over = true;
                }
            }
        }
        self.events.push_all(&mut batch);
        if over {
            self.events.close();
        }
    }

    async fn room(&self) {
        self.events.room().await;
    }

    fn is_abandoned(ticket: &Ticket) -> bool {
        match ticket {
            Ticket::Once(waiter) => waiter.is_closed(),
            Ticket::Whole(waiter) => waiter.is_closed(),
            Ticket::Token(_) | Ticket::Greeting => false,
        }
    }
}
