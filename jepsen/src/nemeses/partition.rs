//! The node that leads most is cut off from the others: both ways, one way, and from clients too.
//!
//! Meanwhile a client that reaches nobody but that node must get no acknowledgement from it, and no answer that leaves out
//! what the others have acknowledged since.

use std::time::Duration;

use anyhow::Context;
use coda_client::{Client, ClientError, ConnectOptions, SubmitOptions};
use coda_protocol::ids::{GroupId, SessionId, TaskId};
use coda_protocol::request::Request;
use coda_protocol::slots::SlotMap;
use futures::future::join_all;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::info;

use crate::findings::Findings;
use crate::groups::{data_groups, task_id_in};
use crate::network::Host;
use crate::operator::leads_most;
use crate::stage::Stage;
use crate::witness::in_namespace;

const CUT_MS: std::ops::Range<u64> = 3_000..10_000;
/// What was on its way when the cut was made may still be answered.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// The others elect a leader and answer well within it.
const OTHERS_ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The witness is done so long before the cut is healed.
const DONE_BEFORE: Duration = Duration::from_millis(500);
const WITNESS_PATIENCE: Duration = Duration::from_secs(30);
/// A queue that nobody serves.
const QUEUE: &str = "cut";

/// Who cannot reach whom.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Nodes only: clients reach both sides.
    Peers,
    /// The node is alone in the world.
    Everyone,
    /// It hears the others, and they do not hear it.
    Mute,
    /// They hear it, and it does not hear them.
    Deaf,
}

const SHAPES: [Shape; 4] = [Shape::Peers, Shape::Everyone, Shape::Mute, Shape::Deaf];

pub async fn round(stage: &mut Stage) -> anyhow::Result<()> {
    let (node, led) = leads_most(&stage.operator.report().await?)?;
    let shape = *SHAPES.choose(&mut stage.chance).context("there are shapes")?;
    let length = Duration::from_millis(stage.chance.random_range(CUT_MS));
    let slots = SlotMap::even(stage.args.groups);
    let groups: Vec<GroupId> = data_groups(stage.args.groups).collect();
    let mut draw = || -> Vec<(GroupId, TaskId)> {
        groups.iter().map(|group| (*group, task_id_in(*group, &slots, &mut stage.chance))).collect()
    };
    let (minority, majority) = (draw(), draw());

    let options = stage.cluster.options(&[node])?;
    let others: Vec<u64> = stage.cluster.running().into_iter().filter(|other| *other != node).collect();
    let outside = Client::connect(stage.cluster.options(&others)?).await?;
    let (ready, is_ready) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let witness = Witness { options, findings: stage.findings.clone(), minority, ready, told };
    let namespace = stage.cluster.network()?.namespace(node);
    let witnessed = in_namespace(&namespace, move || witness.watch())?;
    timeout(WITNESS_PATIENCE, is_ready).await.context("the witness does not connect")??;

    let fault = stage.begin("partition", node, &led, format!("{shape:?} for {} ms", length.as_millis()));
    cut(stage, shape, node, &others)?;
    let healed = Instant::now() + length;
    sleep(ON_ITS_WAY).await;
    // What the others acknowledge now, the one that is cut off must not deny.
    let acknowledged = join_all(majority.iter().map(|(group, task)| {
        let submitted = outside.submit(SubmitOptions::new("cut").id(*task).queue(QUEUE));
        async move { (*group, *task, timeout(OTHERS_ANSWER_WITHIN, submitted).await) }
    }));
    let mut known = Vec::new();
    for (group, task, answer) in acknowledged.await {
        match answer {
            Ok(Ok(_)) => known.push((group, task)),
            Ok(Err(error)) => stage.findings.violation(format!("group {group}: the majority's client was told {error}")),
            Err(_) => stage.findings.violation(format!(
                "group {group}: the majority has acknowledged nothing within {OTHERS_ANSWER_WITHIN:?} while node {node} is \
                 cut off ({shape:?})"
            )),
        }
    }
    outside.close().await;
    // Late elections, on a slow machine, leave nothing to see.
    let until = healed.max(Instant::now() + 2 * DONE_BEFORE);
    let _ = tell.send((known, until - DONE_BEFORE));
    sleep_until(until).await;
    stage.cluster.network()?.heal()?;
    let seen = timeout(WITNESS_PATIENCE, witnessed).await.context("the witness does not come back")???;
    info!(node, ?shape, ?seen, "healed");
    stage.measured("witness", json!({ "node": node, "shape": format!("{shape:?}"), "unanswered": seen }));
    stage.settle(fault).await
}

/// Whichever way is cut, no answer of the others comes back to the node: a question needs both.
fn cut(stage: &mut Stage, shape: Shape, node: u64, others: &[u64]) -> anyhow::Result<()> {
    let network = stage.cluster.network()?;
    let (me, mut others): (Host, Vec<Host>) =
        (Host::Node(node), others.iter().map(|other| Host::Node(*other)).collect());
    if matches!(shape, Shape::Everyone) {
        others.push(Host::Outside);
    }
    for other in others {
        if !matches!(shape, Shape::Deaf) {
            network.lose(me, other)?;
        }
        if !matches!(shape, Shape::Mute) {
            network.lose(other, me)?;
        }
    }
    Ok(())
}

/// Reaches the node that is cut off, and nobody else.
struct Witness {
    options: ConnectOptions,
    findings: Findings,
    /// What it asks the node to write.
    minority: Vec<(GroupId, TaskId)>,
    ready: oneshot::Sender<()>,
    /// What the others have acknowledged, and until when to ask.
    told: oneshot::Receiver<(Vec<(GroupId, TaskId)>, Instant)>,
}

impl Witness {
    /// How many questions were not answered, as it must be.
    async fn watch(self) -> anyhow::Result<usize> {
        let options = ConnectOptions { session: SessionId::random(), ..self.options };
        let client = Client::connect(options).await?;
        client.describe_node().await?;
        let _ = self.ready.send(());
        let (acknowledged, until) = self.told.await.context("nothing was cut")?;
        let patience = until.saturating_duration_since(Instant::now());
        let (cut_off, findings) = (&client, &self.findings);
        let writes = self.minority.iter().map(|(group, task)| async move {
            let submit = SubmitOptions::new("cut").id(*task).queue(QUEUE);
            match timeout(patience, cut_off.submit(submit)).await {
                Err(_) => 1,
                Ok(answer) => {
                    let why = format!("group {group}: a node that is cut off has answered a write: {:?}", answer.err());
                    findings.violation(why);
                    0
                }
            }
        });
        let reads = acknowledged.iter().map(|(group, task)| async move {
            let asked = cut_off.link().request_within(Request::DescribeTask(*task), patience).await;
            match asked {
                Err(ClientError::Deadline { .. }) => 1,
                answer => {
                    let why = format!(
                        "group {group}: a node that is cut off has answered a question about what the others acknowledged: \
                         {answer:?}"
                    );
                    findings.violation(why);
                    0
                }
            }
        });
        let (writes, reads) = tokio::join!(join_all(writes), join_all(reads));
        client.close().await;
        Ok(writes.into_iter().chain(reads).sum())
    }
}
