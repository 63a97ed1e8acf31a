//! NATS JetStream, by its protocol, which is lines of text.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Doing, NODES, Peer, address, until};

const CLIENT_PORT: u16 = 4_222;
const CLUSTER_PORT: u16 = 6_222;
const STREAM: &str = "control";
const SUBJECT: &str = "control.messages";
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Messages under way at once.
const AT_ONCE: u64 = 16;

#[derive(Default)]
pub struct Nats {
    sent: u64,
}

impl Peer for Nats {
    fn program(&self) -> (&'static str, &'static str) {
        ("nats-server", "nats-server")
    }

    fn arguments(&self, node: u64, data: &Path) -> Vec<String> {
        let routes: Vec<String> = (1..=NODES).map(|node| format!("nats://{}", address(node, CLUSTER_PORT))).collect();
        let host = address(node, CLIENT_PORT);
        let host = host.split(':').next().unwrap_or_default().to_owned();
        let pairs = [
            ("--name", format!("n{node}")),
            ("--addr", host),
            ("--port", CLIENT_PORT.to_string()),
            ("--cluster_name", STREAM.to_owned()),
            ("--cluster", format!("nats://{}", address(node, CLUSTER_PORT))),
            ("--routes", routes.join(",")),
            ("--store_dir", data.join("nats").display().to_string()),
        ];
        let pairs = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        pairs.chain(["--jetstream".to_owned()]).collect()
    }

    fn ready(&mut self) -> Doing<'_, ()> {
        Box::pin(until("there is no stream", || async {
            let mut link = Link::open().await?;
            // There already is one, if messages were sent before: it is asked for as it was.
            let asked = json!({
                "name": STREAM, "subjects": [SUBJECT], "num_replicas": NODES, "storage": "file", "retention": "limits",
            });
            link.api(&format!("STREAM.CREATE.{STREAM}"), &asked).await.map(drop)
        }))
    }

    fn send(&mut self, length: Duration) -> Doing<'_, Vec<u64>> {
        Box::pin(async move {
            let mut link = Link::open().await?;
            let until = Instant::now() + length;
            let mut acknowledged = Vec::new();
            while Instant::now() < until {
                let numbers = self.sent..self.sent + AT_ONCE;
                self.sent += AT_ONCE;
                for number in numbers.clone() {
                    link.publish(SUBJECT, &number.to_string(), number.to_string().as_bytes()).await?;
                }
                for _ in numbers {
                    let (reply, answer) = link.message().await?;
                    ensure!(answer.get("error").is_none(), "a message was refused: {answer}");
                    acknowledged.push(reply.parse()?);
                }
            }
            Ok(acknowledged)
        })
    }

    fn read(&mut self) -> Doing<'_, Vec<u64>> {
        Box::pin(async {
            let mut link = Link::open().await?;
            let info = until_answered(&mut link).await?;
            let (first, last) = (info["state"]["first_seq"].as_u64(), info["state"]["last_seq"].as_u64());
            let mut numbers = BTreeSet::new();
            for sequence in first.unwrap_or(1).max(1)..=last.unwrap_or_default() {
                let asked = json!({ "seq": sequence });
                let Ok(got) = link.api(&format!("STREAM.MSG.GET.{STREAM}"), &asked).await else { continue };
                numbers.extend(got["message"]["data"].as_str().and_then(number));
            }
            Ok(numbers.into_iter().collect())
        })
    }
}

async fn until_answered(link: &mut Link) -> anyhow::Result<Value> {
    link.api(&format!("STREAM.INFO.{STREAM}"), &json!({})).await
}

/// A number that was sent as text, in base 64.
fn number(data: &str) -> Option<u64> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sixes: Option<Vec<u32>> = data
        .bytes()
        .take_while(|letter| *letter != b'=')
        .map(|letter| DIGITS.iter().position(|digit| *digit == letter).map(|digit| digit as u32))
        .collect();
    let mut text = String::new();
    for four in sixes?.chunks(4) {
        let bits = four.iter().enumerate().fold(0, |bits, (at, six)| bits | six << (18 - 6 * at));
        text.extend(bits.to_be_bytes()[1..].iter().take(four.len() - 1).map(|byte| char::from(*byte)));
    }
    text.parse().ok()
}

/// A connection to any node.
struct Link {
    stream: BufReader<TcpStream>,
}

impl Link {
    async fn open() -> anyhow::Result<Self> {
        for node in 1..=NODES {
            let connected = timeout(ANSWERS_WITHIN, TcpStream::connect(address(node, CLIENT_PORT))).await;
            if let Ok(Ok(stream)) = connected {
                let mut link = Self { stream: BufReader::new(stream) };
                link.say("CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB answers.> 1\r\n").await?;
                return Ok(link);
            }
        }
        bail!("no node is there")
    }

    async fn api(&mut self, what: &str, asked: &Value) -> anyhow::Result<Value> {
        self.publish(&format!("$JS.API.{what}"), "api", asked.to_string().as_bytes()).await?;
        let (_, answer) = self.message().await?;
        ensure!(answer.get("error").is_none(), "{what}: {answer}");
        Ok(answer)
    }

    async fn publish(&mut self, subject: &str, answer: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.say(&format!("PUB {subject} answers.{answer} {}\r\n", bytes.len())).await?;
        self.stream.write_all(bytes).await?;
        self.say("\r\n").await
    }

    async fn say(&mut self, words: &str) -> anyhow::Result<()> {
        Ok(self.stream.write_all(words.as_bytes()).await?)
    }

    /// The next answer: to what, and what.
    async fn message(&mut self) -> anyhow::Result<(String, Value)> {
        timeout(ANSWERS_WITHIN, self.next()).await.context("no answer")?
    }

    async fn next(&mut self) -> anyhow::Result<(String, Value)> {
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "the connection is closed");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["PING"] => self.say("PONG\r\n").await?,
                // With or without whom to answer.
                ["MSG", subject, _, .., length] => {
                    let mut bytes = vec![0; length.parse::<usize>()? + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    let answer = serde_json::from_slice(&bytes[..bytes.len() - 2])?;
                    return Ok((subject.trim_start_matches("answers.").to_owned(), answer));
                }
                ["HMSG", ..] => bail!("nobody is there to answer"),
                ["-ERR", ..] => bail!("{}", line.trim()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_read_from_base_64() {
        assert_eq!(
            [number("MA=="), number("MTA="), number("MTIz"), number("MTIzNDU2Nzg5MA==")],
            [0, 10, 123, 1_234_567_890].map(Some)
        );
        assert_eq!([number(""), number("!!!!"), number("YWJj")], [None; 3]);
    }
}
