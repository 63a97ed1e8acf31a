//! Who uses the cluster: clients that start runs and tasks and wait for them, and workers that execute. All of it with the
//! Rust SDK, as a user would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use coda_client::{
    BoxError, Client, ClientError, ConnectOptions, RunError, StartOptions, SubmitOptions, Worker, WorkflowContext,
};
use coda_protocol::ids::{LeaseId, Millis, RunId, TaskId};
use coda_protocol::payload::Payload;
use coda_protocol::policy::RetryPolicy;
use coda_protocol::reply::WorkState;
use coda_protocol::request::{CompleteTask, Request};
use futures::future::{join, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::book::{Book, End, Kind, Made, Seen, value};

const QUEUE: &str = "sim";
/// Where child runs are executed whose parents keep their slots while they wait: as many parents as there are slots would
/// wait for children that get none.
const CHILDREN: &str = "sim-children";
const LEDGER: &str = "ledger";
const FAMILY: &str = "family";
const CHILD: &str = "child";
const STEP: &str = "step";
const HOPELESS: &str = "hopeless";
/// A body takes up to so long.
const BODY_MS_MAX: u64 = 30;
/// Children and side steps fail so often at first, of a hundred.
const FLAKY_PERCENT: u64 = 15;
/// A run that only waits for so long gives up its slot.
const PARK_AFTER: Duration = Duration::from_millis(150);
const CONNECT_WITHIN: Duration = Duration::from_secs(600);
/// A client that could not start begins again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What fails once in a while is tried again soon, for as long as it takes.
const SOON: RetryPolicy =
    RetryPolicy { max_retries: 1_000, initial: Millis(20), factor_percent: 200, max: Millis(500), jitter_percent: 50 };

/// How much a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Between two pieces of work of one client, on average.
    pub every: Duration,
    /// Pieces of work of one client that have not ended.
    pub open_max: usize,
    /// Parts of the mix: ledgers, families, tasks, hopeless tasks.
    pub mix: [u32; 4],
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Input {
    number: u64,
    parts: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StepArgs {
    number: u64,
    step: String,
    fails: u32,
}

/// One client: begins work until it is told to stop.
pub struct Starter {
    pub options: ConnectOptions,
    /// Numbers of its work begin here, and are its own.
    pub first: u64,
    pub load: Load,
    pub seed: u64,
    pub book: Book,
    pub stop: Arc<AtomicBool>,
}

impl Starter {
    pub async fn run(self) {
        let mut chance = StdRng::seed_from_u64(self.seed);
        let client = connect(self.options.clone(), &self.book).await;
        let room = Arc::new(Semaphore::new(self.load.open_max));
        let mut number = self.first;
        loop {
            let every = self.load.every.as_millis() as u64;
            sleep(Duration::from_millis(chance.random_range(1..=2 * every))).await;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let Ok(place) = room.clone().try_acquire_owned() else { continue };
            let (book, client) = (self.book.clone(), client.clone());
            let (kind, id) = (self.kind(&mut chance), work_id(&mut chance));
            let reads_again = chance.random_bool(0.5);
            tokio::spawn(async move {
                book.asked(number, id, kind.clone());
                if let Err(error) = one(&client, &book, number, &kind, id, reads_again).await {
                    book.find(format!("trouble_is_not_told: the client of {number} was told {} {error}", error.code()));
                }
                drop(place);
            });
            number += 1;
        }
        // Its connection lives as long as its work.
        std::future::pending::<()>().await;
    }

    fn kind(&self, chance: &mut StdRng) -> Kind {
        let total: u32 = self.load.mix.iter().sum();
        let mut drawn = chance.random_range(0..total.max(1));
        let which = self.load.mix.iter().position(|part| {
            let here = drawn < *part;
            drawn = drawn.saturating_sub(*part);
            here
        });
        let delay_ms = if chance.random_bool(0.3) { chance.random_range(1..2_000) } else { 0 };
        match which.unwrap_or(0) {
            0 => Kind::Ledger { sides: chance.random_range(0..4), delay_ms },
            1 => Kind::Family { children: chance.random_range(1..4) },
            2 => Kind::Task { delay_ms, fails: chance.random_range(0..3) },
            _ => Kind::Hopeless { retries: chance.random_range(0..4) },
        }
    }
}

/// A connection, however long it takes: a client is started again by whoever started it.
pub async fn connect(options: ConnectOptions, book: &Book) -> Client {
    let options = ConnectOptions { connect_timeout: CONNECT_WITHIN, ..options };
    loop {
        match Client::connect(options.clone()).await {
            Ok(client) => return client,
            Err(error) => book.find(format!("trouble_is_not_told: a client cannot connect: {} {error}", error.code())),
        }
        sleep(AGAIN_AFTER).await;
    }
}

fn work_id(chance: &mut StdRng) -> [u8; 16] {
    loop {
        let id = chance.random();
        if RunId(id).check_chosen().is_ok() {
            return id;
        }
    }
}

/// Says that a task has ended which somebody else works on, if anybody does: nobody may believe it.
async fn lie(client: &Client, book: &Book, number: u64, task: TaskId, chance: u64) {
    sleep(Duration::from_millis(chance)).await;
    let outcome = Ok(Payload::json(r#"{"value":0,"by":0}"#));
    let complete = CompleteTask { task, lease: LeaseId(1), outcome };
    if let Ok(reply) = client.link().request(Request::CompleteTask(complete)).await {
        book.find(format!("superseded_changes_nothing: a stale completion of {number} was answered with {reply:?}"));
    }
}

/// Begins a piece of work, waits for its end, and perhaps asks once more.
async fn one(
    client: &Client,
    book: &Book,
    number: u64,
    kind: &Kind,
    id: [u8; 16],
    reads_again: bool,
) -> Result<(), ClientError> {
    match kind {
        Kind::Ledger { sides, delay_ms } => {
            let delay = Duration::from_millis(*delay_ms);
            let options = StartOptions::new(LEDGER).input_json(&Input { number, parts: *sides })?.delay(delay);
            run(client, book, number, options.id(RunId(id)), reads_again).await
        }
        Kind::Family { children } => {
            let options = StartOptions::new(FAMILY).input_json(&Input { number, parts: *children })?;
            run(client, book, number, options.id(RunId(id)), reads_again).await
        }
        Kind::Task { delay_ms, fails } => {
            let args = StepArgs { number, step: "task".into(), fails: *fails };
            let options = SubmitOptions::new(STEP).args_json(&args)?.policy(SOON);
            let options = options.delay(Duration::from_millis(*delay_ms)).id(TaskId(id));
            let made = task(client, book, number, options, reads_again).await?;
            book.ended(number, made.map_or_else(End::Failed, |made| End::Seen(Seen::from([("task".into(), made)]))));
            Ok(())
        }
        Kind::Hopeless { retries } => {
            let args = StepArgs { number, step: HOPELESS.into(), fails: u32::MAX };
            let policy = RetryPolicy { max_retries: *retries, ..SOON };
            let options = SubmitOptions::new(STEP).args_json(&args)?.policy(policy).id(TaskId(id));
            let made = task(client, book, number, options, reads_again).await?;
            book.ended(number, made.map_or_else(End::Failed, |made| End::Seen(Seen::from([(HOPELESS.into(), made)]))));
            Ok(())
        }
    }
}

async fn run(
    client: &Client,
    book: &Book,
    number: u64,
    options: StartOptions,
    reads_again: bool,
) -> Result<(), ClientError> {
    let handle = client.start(options.queue(QUEUE).policy(SOON)).await?;
    book.acknowledged(number, handle.position());
    let known = client.describe_run(handle.id()).await.map(drop);
    if let Err(error) = known {
        book.find(format!("acknowledged_is_kept: {number} was acknowledged, and then {} {error}", error.code()));
    }
    let end = |result| match result {
        Ok(seen) => Ok(End::Seen(seen)),
        Err(RunError::Failed(failure)) => Ok(End::Failed(failure.message)),
        Err(RunError::Client(error)) => Err(error),
    };
    book.ended(number, end(handle.result_json::<Seen>().await)?);
    if reads_again {
        let described = client.describe_run(handle.id()).await?;
        if !matches!(described.state, WorkState::Succeeded | WorkState::Failed) {
            book.find(format!("reads_are_linearizable: {number} has ended, and is described as {:?}", described.state));
        }
        book.ended(number, end(handle.result_json::<Seen>().await)?);
    }
    Ok(())
}

async fn task(
    client: &Client,
    book: &Book,
    number: u64,
    options: SubmitOptions,
    reads_again: bool,
) -> Result<Result<Made, String>, ClientError> {
    let handle = client.submit(options.queue(QUEUE)).await?;
    book.acknowledged(number, handle.position());
    if reads_again {
        let (client, book, id) = (client.clone(), book.clone(), handle.id());
        tokio::spawn(async move { lie(&client, &book, number, id, value(number, "lie") % BODY_MS_MAX).await });
    }
    if let Err(error) = client.describe_task(handle.id()).await {
        book.find(format!("acknowledged_is_kept: {number} was acknowledged, and then {} {error}", error.code()));
    }
    let result = match handle.result_json::<Made>().await {
        Ok(made) => Ok(made),
        Err(RunError::Failed(failure)) => Err(failure.message),
        Err(RunError::Client(error)) => return Err(error),
    };
    if reads_again {
        let described = client.describe_task(handle.id()).await?;
        if !matches!(described.state, WorkState::Succeeded | WorkState::Failed) {
            book.find(format!("reads_are_linearizable: {number} has ended, and is described as {:?}", described.state));
        }
    }
    Ok(result)
}

/// Asks for every result once more, one after the other.
pub async fn read_again(client: &Client, ids: &[(u64, Kind, [u8; 16])], book: &Book) {
    for (number, kind, id) in ids {
        let end = match kind {
            Kind::Ledger { .. } | Kind::Family { .. } => {
                client.run(RunId(*id)).result_json::<Seen>().await.map(End::Seen)
            }
            Kind::Task { .. } | Kind::Hopeless { .. } => {
                let made = client.task(TaskId(*id)).result_json::<Made>().await;
                made.map(|made| End::Seen(Seen::from([("task".into(), made)])))
            }
        };
        match end {
            Ok(end) => book.ended(*number, end),
            Err(RunError::Failed(failure)) => book.ended(*number, End::Failed(failure.message)),
            Err(RunError::Client(error)) => {
                book.find(format!("reads_are_linearizable: {number} cannot be read again: {}", error.code()));
            }
        }
    }
}

/// A worker's process, until it is killed.
pub async fn work(options: ConnectOptions, slots: u32, parks: bool, book: Book) {
    let working = Arc::new(AtomicU32::new(0));
    let (of_steps, of_ledgers, of_families, of_children) = (book.clone(), book.clone(), book.clone(), book.clone());
    let worker = Worker::builder(ConnectOptions { connect_timeout: CONNECT_WITHIN, ..options }).queue(QUEUE);
    let (worker, children) = if parks { (worker, QUEUE) } else { (worker.queue(CHILDREN), CHILDREN) };
    let worker = worker
        .task_slots(slots)
        .run_slots(slots)
        .park_after(parks.then_some(PARK_AFTER))
        .task(STEP, move |args: StepArgs| {
            let working = Working::begin(&working, slots, &of_steps);
            let body = body(of_steps.clone(), args);
            async move {
                let _working = working;
                body.await
            }
        })
        .workflow(LEDGER, move |cx: WorkflowContext, input: Input| ledger(cx, input, of_ledgers.clone()))
        .workflow(FAMILY, move |cx: WorkflowContext, input: Input| family(cx, input, children, of_families.clone()))
        .workflow(CHILD, move |cx: WorkflowContext, args: StepArgs| child(cx, args, of_children.clone()))
        .build();
    let ended = match worker {
        Ok(worker) => worker.run_until(std::future::pending()).await,
        Err(error) => Err(error),
    };
    book.find(format!("trouble_is_not_told: a worker has ended: {ended:?}"));
}

/// One task that a worker executes: never more at once than it has slots.
struct Working(Arc<AtomicU32>);

impl Working {
    fn begin(count: &Arc<AtomicU32>, slots: u32, book: &Book) -> Self {
        let before = count.fetch_add(1, Ordering::Relaxed);
        if before >= slots {
            book.find(format!("slots_are_not_exceeded: a worker with {slots} slots was given {} tasks", before + 1));
        }
        Self(count.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What every step does, wherever it is executed.
async fn body(book: Book, StepArgs { number, step, fails }: StepArgs) -> Result<Made, BoxError> {
    let (by, before) = book.begin(number, &step);
    let value = value(number, &step);
    sleep(Duration::from_millis(value % BODY_MS_MAX)).await;
    if before < fails { Err(BoxError::from("not yet")) } else { Ok(Made { value, by }) }
}

fn flaky(number: u64, step: &str) -> u32 {
    u32::from(value(number, step) % 100 < FLAKY_PERCENT)
}

async fn ledger(cx: WorkflowContext, Input { number, parts }: Input, book: Book) -> Result<Seen, BoxError> {
    let mut seen = Seen::new();
    let mut read = |step: String, made: Made| {
        book.read(number, &step, &made);
        seen.insert(step, made);
    };
    read("first".into(), inline(&cx, number, "first", book.clone()).await?);
    let sides = (0..parts).map(|side| {
        let step = format!("side-{side}");
        let args = StepArgs { number, step: step.clone(), fails: flaky(number, &step) };
        let delay = Duration::from_millis(if side == 3 { value(number, &step) % 700 } else { 0 });
        let spawned = cx.spawn_task::<Made>(STEP, args).key([step.as_str()]).queue(QUEUE).policy(SOON).delay(delay);
        let spawned = spawned.start();
        async move { Ok::<_, BoxError>((step, spawned.await?)) }
    });
    for ended in join_all(sides).await {
        let (step, made) = ended?;
        read(step, made);
    }
    // Two branches want the same, and neither knows of the other.
    let (one, other) = join(inline(&cx, number, "last", book.clone()), inline(&cx, number, "last", book.clone())).await;
    read("last".into(), one?);
    read("last".into(), other?);
    Ok(seen)
}

async fn inline(cx: &WorkflowContext, number: u64, step: &str, book: Book) -> Result<Made, BoxError> {
    let args = StepArgs { number, step: step.to_owned(), fails: 0 };
    Ok(cx.run(step, [step], move || body(book, args)).await?)
}

async fn family(
    cx: WorkflowContext,
    Input { number, parts }: Input,
    queue: &str,
    book: Book,
) -> Result<Seen, BoxError> {
    let children = (0..parts).map(|child| {
        let step = format!("child-{child}");
        let args = StepArgs { number, step: step.clone(), fails: flaky(number, &step) };
        let spawned = cx.spawn_workflow::<Made>(CHILD, args).key([step.as_str()]).queue(queue).policy(SOON).start();
        async move { Ok::<_, BoxError>((step, spawned.await?)) }
    });
    let mut seen = Seen::new();
    for ended in join_all(children).await {
        let (step, made) = ended?;
        book.read(number, &step, &made);
        seen.insert(step, made);
    }
    Ok(seen)
}

async fn child(cx: WorkflowContext, args: StepArgs, book: Book) -> Result<Made, BoxError> {
    let (number, step) = (args.number, args.step.clone());
    let made: Made = cx.spawn_task::<Made>(STEP, args).key(["only"]).queue(QUEUE).policy(SOON).await?;
    book.read(number, &step, &made);
    Ok(made)
}
