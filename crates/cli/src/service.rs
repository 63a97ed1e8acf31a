//! A node from its start to its end, as one process: what `coda dev` and `coda serve` have in common.

use std::future::Future;
use std::time::Duration;

use crate::entry::Ended;
use crate::errors::{CliError, Exit};
use crate::node::{Node, NodeConfig};
use crate::signals::{Reloads, Signals};

/// A start that takes longer says what it does.
const STARTING_QUIETLY: Duration = Duration::from_secs(3);

/// What a service tells about itself, as it happens.
pub enum Stage<'a> {
    /// It takes a while.
    Starting,
    Ready(&'a Node),
    Stopping,
    Stopped,
}

/// Runs a command that is a node. The runtime is dropped without waiting: a second signal means at once.
pub fn run(service: impl Future<Output = Ended>) -> Ended {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::local_io(format!("cannot start a runtime: {error}")))?;
    let ended = runtime.block_on(service);
    // After a second signal the shutdown may still be under way, and nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Starts a node, keeps it until a signal, and stops it. A second signal ends it at once.
pub async fn keep(
    config: NodeConfig,
    mut signals: Signals,
    mut reloads: Reloads,
    mut tell: impl FnMut(Stage<'_>) -> Result<(), CliError>,
) -> Ended {
    let starting = async {
        tokio::time::sleep(STARTING_QUIETLY).await;
        tell(Stage::Starting)?;
        std::future::pending::<Ended>().await
    };
    let node = tokio::select! {
        node = Node::start(config) => node?,
        exit = signals.next() => return Ok(exit),
        ended = starting => return ended,
    };
    tell(Stage::Ready(&node))?;
    let failure = loop {
        tokio::select! {
            why = node.failed() => break Some(why),
            _ = signals.next() => break None,
            () = reloads.next() => node.identity().reload(),
        }
    };
    if failure.is_none() {
        tell(Stage::Stopping)?;
    }
    // A task of its own: closing the store may block, and a second signal must be heard meanwhile.
    let shutdown = tokio::spawn(node.shutdown());
    tokio::select! {
        _ = shutdown => {}
        exit = signals.next() => return Ok(exit),
    }
    match failure {
        Some(why) => Err(CliError::node_failed(&why)),
        None => {
            tell(Stage::Stopped)?;
            Ok(Exit::Ok)
        }
    }
}
