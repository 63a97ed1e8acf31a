//! Certificates are replaced while nodes run: as files, in the steps that an operator takes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coda_broker::clock::{Clock, SystemClock};
use coda_broker::identity::{Authority, IdentityFiles, Lifetime, NodeIdentity};
use coda_protocol::ids::NodeId;
use coda_raft_store::peers::PeerError;
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tokio::task::JoinHandle;

use crate::authority;
use crate::raw::Raw;
use crate::side::{CLUSTER, Side, echoed, hello, quic_keys, unreachable};
use crate::{logs, soon, until};

/// Two authorities of one cluster.
fn authorities() -> (Authority, Authority) {
    let lifetime = Lifetime::days(SystemClock.now(), 30).unwrap();
    let old = Authority::found(&"shop".parse().unwrap(), lifetime).unwrap();
    let new = old.successor(lifetime).unwrap();
    (old, new)
}

/// A certificate by the first of them and trust in all of them, written to files and read from there.
fn signed(node: u64, trusted: &[&Authority]) -> NodeIdentity {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemClock.now());
    let issued = trusted[0].node(NodeId(node), &[], Lifetime::days(now, 7).unwrap()).unwrap();
    issued.save(dir.path(), "node", false).unwrap();
    let file = |name: &str| dir.path().join(name);
    let bundle = trusted.iter().map(|authority| {
        let dir = tempfile::tempdir().unwrap();
        authority.save(dir.path(), false).unwrap();
        fs::read_to_string(dir.path().join("ca.pem")).unwrap()
    });
    fs::write(file("ca.pem"), bundle.collect::<String>()).unwrap();
    let files = IdentityFiles { ca: file("ca.pem"), cert: file("node.pem"), key: file("node.key") };
    NodeIdentity::load(&files, NodeId(node), quic_keys(node), now).unwrap()
}

async fn side(node: u64, trusted: &[&Authority]) -> Side {
    let mut me = hello(node, "");
    me.cluster = trusted[0].cluster();
    Side::with(node, signed(node, trusted), me, "127.0.0.1:0".parse().unwrap()).await.unwrap()
}

fn shown(connection: &Connection) -> Vec<CertificateDer<'static>> {
    *connection.peer_identity().unwrap().downcast().unwrap()
}

/// Replaces the certificates of a node, and waits until new connections see the new ones.
async fn replace(side: &Side, identity: NodeIdentity) {
    let chain = identity.chain.clone();
    side.replace(identity);
    until("the new certificate is in use", || async {
        let raw = Raw::connect(side.address, None, b"coda-peer/1").await.ok()?;
        (shown(&raw.connection) == chain).then_some(())
    })
    .await;
}

/// Calls one after the other, each of which must be answered.
struct Talk {
    talking: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Talk {
    fn of(from: &Arc<Side>, to: &Side) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (from, to, stopped, count) = (from.clone(), to.peer(), stop.clone(), answered.clone());
        let talking = tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                assert_eq!(from.call(&to).await, echoed());
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { talking, stop, answered }
    }

    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        until("they talk", || async { (self.answered.load(Ordering::SeqCst) > before + 1).then_some(()) }).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        soon("the last answer", self.talking).await.expect("every call was answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_takes_over_while_nodes_talk() {
    let (old, new) = authorities();
    let (a, b) = (Arc::new(side(1, &[&old]).await), Arc::new(side(2, &[&old]).await));
    let talks = [Talk::of(&a, &b), Talk::of(&b, &a)];
    // First all trust both.
    replace(&a, signed(1, &[&old, &new])).await;
    replace(&b, signed(2, &[&old, &new])).await;
    // Then all get their new certificates, one after the other, and still meet whoever has not.
    replace(&b, signed(2, &[&new, &old])).await;
    let c = side(3, &[&old, &new]).await;
    assert_eq!((c.call(&a.peer()).await, c.call(&b.peer()).await), (echoed(), echoed()));
    assert_eq!((a.call(&c.peer()).await, b.call(&c.peer()).await), (echoed(), echoed()));
    let late = side(4, &[&old]).await;
    let why = unreachable(late.call(&b.peer()).await);
    assert!(why.contains("CODA4134"), "who has not heard of the new one does not trust it: {why}");
    replace(&late, signed(4, &[&old, &new])).await;
    assert_eq!(late.call(&b.peer()).await, echoed(), "as soon as it has, it does");
    replace(&a, signed(1, &[&new, &old])).await;
    // Last the old one is trusted no more.
    replace(&a, signed(1, &[&new])).await;
    replace(&b, signed(2, &[&new])).await;
    let why = unreachable(side(5, &[&old, &new]).await.call(&b.peer()).await);
    assert!(why.contains("CODA4135"), "{why}");
    let d = side(6, &[&new]).await;
    assert_eq!((d.call(&a.peer()).await, a.call(&d.peer()).await), (echoed(), echoed()));
    for talk in talks {
        talk.goes_on().await;
        talk.end().await;
    }
    let stayed = |side: &Side, node| {
        let known = side.endpoint().peers().into_iter().find(|peer| peer.node == NodeId(node)).unwrap();
        known.dialled.unwrap().is_some() && known.serves.is_some()
    };
    assert!(stayed(&a, 2) && stayed(&b, 1));
    // Once for each connection that was made: those that were up have stayed.
    assert_eq!((a.door.asked(), b.door.asked()), (2 + 3 + 1, 2 + 2 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_were_cut_off_meet_again_with_the_new_certificates_alone() {
    let (old, new) = authorities();
    let (a, b) = (side(1, &[&old]).await, side(2, &[&old]).await);
    assert_eq!((a.call(&b.peer()).await, b.call(&a.peer()).await), (echoed(), echoed()));
    replace(&a, signed(1, &[&new])).await;
    replace(&b, signed(2, &[&new])).await;
    // As after a partition: the connections are gone, the nodes are not.
    let refused = coda_broker::peers::Refused::NotReady { why: "a test" };
    b.door.refuse(Some(refused));
    b.endpoint().readmit();
    let gone = until("they are parted", || async { a.call(&b.peer()).await.err() }).await;
    assert!(matches!(gone, PeerError::Failed(_) | PeerError::Unreachable(_)), "{gone}");
    b.door.refuse(None);
    let met = until("they meet again", || async { a.call(&b.peer()).await.ok() }).await;
    assert_eq!((Ok(met), b.call(&a.peer()).await), (echoed(), echoed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_changes_nothing() {
    const NODE: u64 = 51;
    let authority = authority::Authority::new("one");
    let (a, b) = (Side::new(&authority, NODE).await, Side::new(&authority, 52).await);
    let mut no_roots = authority.issue(CLUSTER, NODE);
    no_roots.roots = authority::store(&[]);
    let mut mixed = authority.issue(CLUSTER, NODE);
    mixed.key = authority.issue(CLUSTER, NODE).key;
    let mut empty = authority.issue(CLUSTER, NODE);
    empty.chain.clear();
    let unusable = [authority.issue(CLUSTER, 52), authority.issue_for_client(CLUSTER), no_roots, mixed, empty];
    for (count, identity) in unusable.into_iter().enumerate() {
        a.replace(identity);
        until("it is refused", || async {
            let lines = logs::matching(&format!("node={NODE} "));
            let refused = lines.iter().filter(|line| line.contains("CODA4148") && line.contains("those in use stay"));
            (refused.count() == count + 1).then_some(())
        })
        .await;
    }
    assert_eq!((a.call(&b.peer()).await, b.call(&a.peer()).await), (echoed(), echoed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_at_either_end_and_replaced_in_time_to_be_heard() {
    let authority = authority::Authority::new("one");
    let a = Side::new(&authority, 1).await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let b = Side::with(2, authority.issue_expired(CLUSTER, 2), hello(2, ""), listen).await.unwrap();
    let why = unreachable(a.call(&b.peer()).await);
    assert!(why.contains("CODA4134") && why.contains("xpired"), "{why}");
    let why = unreachable(b.call(&a.peer()).await);
    assert!(why.contains("CODA4135") && why.contains("xpired"), "{why}");
    replace(&b, authority.issue(CLUSTER, 2)).await;
    assert_eq!(a.call(&b.peer()).await, echoed());
    assert_eq!(b.call(&a.peer()).await, echoed());
}
