//! etcd, by its own command line client.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::{Doing, NODES, Peer, address, until};

const CLIENT_PORT: u16 = 2_379;
const PEER_PORT: u16 = 2_380;
/// Writers at once: each write is a program of its own.
const WRITERS: u64 = 8;
const PREFIX: &str = "message-";

pub struct Etcd;

impl Peer for Etcd {
    fn program(&self) -> (&'static str, &'static str) {
        ("etcd", "etcd-server")
    }

    fn arguments(&self, node: u64, data: &Path) -> Vec<String> {
        let url = |node: u64, port: u16| format!("http://{}", address(node, port));
        let all: Vec<String> = (1..=NODES).map(|node| format!("n{node}={}", url(node, PEER_PORT))).collect();
        let (client, peer) = (url(node, CLIENT_PORT), url(node, PEER_PORT));
        let pairs = [
            ("--name", format!("n{node}")),
            ("--data-dir", data.join("etcd").display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", all.join(",")),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    fn ready(&mut self) -> Doing<'_, ()> {
        Box::pin(until("etcd takes no write", || async { ask(&["put", "ready", "yes"]).await.map(drop) }))
    }

    fn send(&mut self, length: Duration) -> Doing<'_, Vec<u64>> {
        Box::pin(async move {
            let until = Instant::now() + length;
            let mut writers = JoinSet::new();
            for writer in 0..WRITERS {
                writers.spawn(async move {
                    let mut acknowledged = Vec::new();
                    let mut number = writer;
                    while Instant::now() < until {
                        if ask(&["put", &format!("{PREFIX}{number}"), "x"]).await.is_ok() {
                            acknowledged.push(number);
                        }
                        number += WRITERS;
                    }
                    acknowledged
                });
            }
            Ok(writers.join_all().await.concat())
        })
    }

    fn read(&mut self) -> Doing<'_, Vec<u64>> {
        Box::pin(async {
            let said = ask(&["get", PREFIX, "--prefix", "--keys-only"]).await?;
            let numbers: BTreeSet<u64> =
                said.lines().filter_map(|line| line.strip_prefix(PREFIX)?.parse().ok()).collect();
            Ok(numbers.into_iter().collect())
        })
    }
}

async fn ask(command: &[&str]) -> anyhow::Result<String> {
    let all: Vec<String> = (1..=NODES).map(|node| address(node, CLIENT_PORT)).collect();
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &all.join(",")]).args(command).kill_on_drop(true);
    let done = etcdctl.output().await?;
    ensure!(done.status.success(), "etcdctl: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
