//! A cable between a client and the node, which can be cut: neither side is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const DATAGRAM_BYTES_MAX: usize = 64 << 10;

pub struct Relay {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Relay {
    pub async fn to(node: SocketAddr) -> Self {
        let bind = || UdpSocket::bind("127.0.0.1:0");
        let (front, back) = (Arc::new(bind().await.expect("a socket")), Arc::new(bind().await.expect("a socket")));
        back.connect(node).await.expect("an address");
        let cut = Arc::new(AtomicBool::new(false));
        let client = Arc::new(Mutex::new(None));
        let address = front.local_addr().expect("bound");
        let there = {
            let (front, back, cut, client) = (front.clone(), back.clone(), cut.clone(), client.clone());
            async move {
                let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
                while let Ok((length, from)) = front.recv_from(&mut datagram).await {
                    *client.lock() = Some(from);
                    if !cut.load(Ordering::SeqCst) {
                        drop(back.send(&datagram[..length]).await);
                    }
                }
            }
        };
        let and_back = {
            let cut = cut.clone();
            async move {
                let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
                while let Ok(length) = back.recv(&mut datagram).await {
                    let to: Option<SocketAddr> = *client.lock();
                    if let Some(to) = to.filter(|_| !cut.load(Ordering::SeqCst)) {
                        drop(front.send_to(&datagram[..length], to).await);
                    }
                }
            }
        };
        Self { address, cut, tasks: [tokio::spawn(there), tokio::spawn(and_back)] }
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
