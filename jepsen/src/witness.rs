//! A client in a node's own namespace: while the node is cut off, it reaches that node and nobody else.

use std::future::Future;

use anyhow::Context;
use coda_checkers::properties as p;
use coda_client::{Client, ClientError, ConnectOptions, SubmitOptions};
use coda_protocol::ids::{GroupId, SessionId, TaskId};
use coda_protocol::request::Request;
use futures::future::join_all;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::findings::Findings;
use crate::network::{in_namespace, namespace};

/// A queue that nobody serves.
const QUEUE: &str = "cut";

/// Runs something in a node's namespace. Sockets that it opens are there, since a thread of its own opens them.
pub fn beside<T, F, Fut>(node: u64, work: F) -> anyhow::Result<oneshot::Receiver<anyhow::Result<T>>>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let (tell, told) = oneshot::channel();
    in_namespace(&namespace(node), move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let _ = tell.send(runtime.block_on(work()));
        Ok(())
    })?;
    Ok(told)
}

/// Reaches the node that is cut off, and nobody else.
pub struct Witness {
    pub options: ConnectOptions,
    pub findings: Findings,
    /// What it asks the node to write.
    pub minority: Vec<(GroupId, TaskId)>,
    pub ready: oneshot::Sender<()>,
    /// What the others have acknowledged, and until when to ask.
    pub told: oneshot::Receiver<(Vec<(GroupId, TaskId)>, Instant)>,
}

impl Witness {
    /// How many questions were not answered, as it must be.
    pub async fn watch(self) -> anyhow::Result<usize> {
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
                    findings.violation(p::NO_QUORUM_NO_ANSWER, why);
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
                    findings.violation(p::NO_QUORUM_NO_ANSWER, why);
                    0
                }
            }
        });
        let (writes, reads) = tokio::join!(join_all(writes), join_all(reads));
        client.close().await;
        Ok(writes.into_iter().chain(reads).sum())
    }
}
