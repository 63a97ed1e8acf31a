//! Who may speak to a node, and what those who may not are told.

use coda_client::{Client, ConnectOptions};
use coda_node_tests::node::TestNode;
use coda_node_tests::raw::{Raw, client_config, endpoint, tls};
use coda_node_tests::soon;
use coda_protocol::request::Request;
use quinn::ConnectionError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_nobody_shares_closes_with_a_sentence_that_names_both_ranges() {
    let mut node = TestNode::start().await;
    for (theirs, named) in [([0, 2, 0, 9], "(2, 9)"), ([0, 0, 0, 0], "(0, 0)"), ([0, 9, 0, 2], "(9, 2)")] {
        let mut raw = node.raw().await;
        // What a hello of the future looks like behind its versions, nobody knows.
        let body = [b"CODA".as_slice(), &theirs, b"\xff\xffthe future"].concat();
        let mut bytes = ((9 + body.len()) as u32).to_be_bytes().to_vec();
        bytes.push(1);
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&body);
        raw.say(&bytes).await;
        let (code, reason) = raw.closed().await;
        assert_eq!(code, 1005);
        assert!(reason.contains(named) && reason.contains("(1, 1)") && reason.contains("upgrade"), "{reason}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_data_is_not_accepted() {
    let mut node = TestNode::start().await;
    // rustls remembers tickets in the configuration: the second connection could resume the first.
    let mut config = tls(&node.ca(), &[b"coda"]);
    config.enable_early_data = true;
    let config = client_config(config);
    let endpoint = endpoint();
    for round in 0..3 {
        let connecting = endpoint.connect_with(config.clone(), node.address, "coda").unwrap();
        match connecting.into_0rtt() {
            Err(connecting) => {
                // Nothing to resume with, or a ticket that allows no early data.
                let connection = soon("a handshake", connecting).await.unwrap();
                connection.close(1_u32.into(), b"");
            }
            Ok(_) => panic!("round {round}: the node's ticket allows early data"),
        }
        let mut raw = Raw::connect_with(endpoint.clone(), config.clone(), node.address).await.greet().await;
        assert!(raw.ask(Request::DescribeNode).await.is_ok());
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_refused_in_the_handshake() {
    let mut node = TestNode::start().await;
    for alpn in [vec![b"h3".as_slice()], vec![b"coda-raft".as_slice()], vec![]] {
        let config = client_config(tls(&node.ca(), &alpn));
        let connecting = endpoint().connect_with(config, node.address, "coda").unwrap();
        let refused = soon("an answer", connecting).await;
        match refused {
            Err(ConnectionError::ConnectionClosed(_) | ConnectionError::TransportError(_)) => {}
            other => panic!("{alpn:?}: {other:?}"),
        }
    }
    assert!(node.client().await.describe_node().await.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_trusts_another_authority_gets_a_coded_error() {
    let mut node = TestNode::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = authority.self_signed(&key).unwrap();
    let options = ConnectOptions::new(&node.address.to_string(), authority.pem()).unwrap();
    let Err(error) = soon("an answer", Client::connect(options)).await else { panic!("trusted") };
    assert_eq!(error.code(), "CODA4008");
    assert!(error.to_string().contains(&node.address.to_string()), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_checks_another_name_is_refused_by_itself() {
    let mut node = TestNode::start().await;
    let config = client_config(tls(&node.ca(), &[b"coda"]));
    let connecting = endpoint().connect_with(config, node.address, "example.org").unwrap();
    assert!(soon("an answer", connecting).await.is_err());
    node.stop().await;
}
