//! A client in a node's own namespace: while the node is cut off, it reaches that node and nobody else.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::thread;

use anyhow::{Context, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Runs something in a namespace. Sockets that it opens are there, since a thread of its own opens them.
pub fn in_namespace<T, F, Fut>(namespace: &str, work: F) -> anyhow::Result<oneshot::Receiver<anyhow::Result<T>>>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let path = format!("/run/netns/{namespace}");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let (tell, told) = oneshot::channel();
    thread::Builder::new().name("witness".into()).spawn(move || {
        let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        let runtime = entered.map_err(|error| anyhow!("cannot enter {path}: {error}"));
        let runtime = runtime.and_then(|()| Ok(Builder::new_current_thread().enable_all().build()?));
        let _ = tell.send(runtime.and_then(|runtime| runtime.block_on(work())));
    })?;
    Ok(told)
}
