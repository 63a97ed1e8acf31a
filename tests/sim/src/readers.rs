//! Who asks for what others were told: reads are linearizable, whoever answers them, and whoever else leads by then.

use std::time::Duration;

use coda_client::{Client, ConnectOptions};
use coda_protocol::ids::{GroupId, RunId, TaskId};
use coda_protocol::reply::{Reply, WorkState};
use coda_protocol::request::Request;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::book::{Book, Kind};
use crate::workload::connect;

/// Between two reads of a reader.
const READ_EVERY_MS_MIN: u64 = 20;
const READ_EVERY_MS_MAX: u64 = 300;
/// How far back it looks.
const READ_BACK: usize = 4;

/// Asks as everybody does: goes to the leader with the latest term that it hears of.
pub async fn read(options: ConnectOptions, seed: u64, book: Book) {
    let client = connect(options, &book).await;
    ask(client, None, seed, book).await;
}

/// Reaches one node alone, and asks it in each group: for as long as that node takes itself for the leader, it has to be.
pub async fn read_of_one(options: ConnectOptions, groups: u32, seed: u64, book: Book) {
    let client = connect(options, &book).await;
    let group = |group| ask(client.clone(), Some(GroupId(group)), seed ^ u64::from(group), book.clone());
    join_all((1..=groups).map(group)).await;
}

/// Asks for what has been acknowledged and what has ended, whoever it was told; in all groups, or in one.
async fn ask(client: Client, group: Option<GroupId>, seed: u64, book: Book) {
    let mut chance = StdRng::seed_from_u64(seed);
    loop {
        sleep(Duration::from_millis(chance.random_range(READ_EVERY_MS_MIN..READ_EVERY_MS_MAX))).await;
        let Some((number, work)) = book.latest_acknowledged(group, chance.random_range(0..READ_BACK)) else { continue };
        let told = work.position.and_then(|position| book.last_told(GroupId(position.group)));
        let request = match &work.kind {
            Kind::Ledger { .. } | Kind::Family { .. } => Request::DescribeRun(RunId(work.id)),
            Kind::Task { .. } | Kind::Hopeless { .. } => Request::DescribeTask(TaskId(work.id)),
        };
        let (reply, position) = match client.link().request(request).await {
            Ok(answered) => answered,
            Err(error) => {
                let code = error.code();
                book.find(format!("reads_are_linearizable: {number} was acknowledged, and then {code} {error}"));
                continue;
            }
        };
        let state = match reply {
            Reply::Run(run) => run.state,
            Reply::Task(task) => task.state,
            other => {
                book.find(format!("reads_are_linearizable: {number} is described by {other:?}"));
                continue;
            }
        };
        if work.ended.is_some() && !matches!(state, WorkState::Succeeded | WorkState::Failed) {
            book.find(format!("reads_are_linearizable: {number} has ended, and is described as {state:?}"));
        }
        if let Some(told) = told.filter(|told| position.index < told.index) {
            book.find(format!("positions_follow_real_time: {number} is read at {position:?}, after {told:?} was told"));
        }
        book.told(position);
    }
}
