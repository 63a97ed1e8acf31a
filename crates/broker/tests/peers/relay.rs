//! Cables between nodes, which can be cut: neither side is told. Each node is dialled through its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Nodes that nobody hears, by the address of their socket.
#[derive(Clone, Default)]
pub struct Cut(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Cut {
    pub fn off(&self, node: SocketAddr) {
        self.0.lock().unwrap().insert(node);
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().clear();
    }

    fn parts(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let cut = self.0.lock().unwrap();
        cut.contains(&one) || cut.contains(&other)
    }
}

pub struct Relay {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn to(node: SocketAddr, cut: Cut) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // One socket per node that dials, or the answers could not be told apart.
            let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut answers = JoinSet::new();
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let Ok((length, from)) = front.recv_from(&mut datagram).await else { continue };
                let back = match backs.get(&from) {
                    Some(back) => back.clone(),
                    None => {
                        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                        back.connect(node).await.unwrap();
                        backs.insert(from, back.clone());
                        answers.spawn(answer(front.clone(), back.clone(), from, node, cut.clone()));
                        back
                    }
                };
                if !cut.parts(from, node) {
                    drop(back.send(&datagram[..length]).await);
                }
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn answer(front: Arc<UdpSocket>, back: Arc<UdpSocket>, to: SocketAddr, node: SocketAddr, cut: Cut) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error means that nobody listens there for the moment.
        let Ok(length) = back.recv(&mut datagram).await else {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        };
        if !cut.parts(to, node) {
            drop(front.send_to(&datagram[..length], to).await);
        }
    }
}
