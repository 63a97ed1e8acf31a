//! The switch that all hosts hang on: one thread that carries frames from tap to tap, and does to them what is asked.
//!
//! Frames of a link may be cut off, lost, sent twice, changed, held back, or overtaken. Chance comes from a seed. What
//! was done is counted, link by link: a fault that counts nothing did not happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tracing::warn;
use tun_rs::SyncDevice;

use super::Host;

/// New hosts are noticed within it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Frames taken from one host before the next has its turn.
const TAKEN_AT_ONCE: usize = 64;
const FRAME_BYTES_MAX: usize = 65_536;
/// Frames held back; one more is lost, as in any queue of a network.
const HELD_MAX: usize = 50_000;
/// Ethernet, IPv4 without options, UDP: what follows is the datagram's content.
const PAYLOAD_AT: usize = 14 + 20 + 8;
const UDP_CHECKSUM_AT: usize = 14 + 20 + 6;
/// How far a frame that is overtaken falls behind.
const OVERTAKEN_MS: std::ops::Range<u64> = 2..30;

/// What is done to frames of one link, one way. Parts are of 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rule {
    pub cut: bool,
    pub loss: f64,
    pub duplicates: f64,
    pub corrupts: f64,
    pub reorders: f64,
    pub delay_ms: f64,
    /// More or less than the delay.
    pub jitter_ms: f64,
}

/// What was done to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub carried: u64,
    pub cut: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    pub reordered: u64,
    pub delayed: u64,
}

type Link = (Host, Host);

pub struct Hub {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    ports: Mutex<Vec<(Host, Arc<SyncDevice>)>>,
    rules: Mutex<BTreeMap<Link, Rule>>,
    counts: Mutex<BTreeMap<Link, Count>>,
}

impl Hub {
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let shared = Arc::<Shared>::default();
        let carrier = Carrier {
            shared: shared.clone(),
            ports: Vec::new(),
            held: BinaryHeap::new(),
            number: 0,
            chance: StdRng::seed_from_u64(seed),
        };
        let thread = thread::Builder::new().name("hub".into()).spawn(move || carrier.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub fn plug(&self, host: Host, tap: SyncDevice) -> anyhow::Result<()> {
        tap.set_nonblocking(true).context("a tap cannot be made nonblocking")?;
        self.shared.ports.lock().push((host, Arc::new(tap)));
        Ok(())
    }

    /// From now on. A rule that does nothing is none.
    pub fn set(&self, from: Host, to: Host, rule: Rule) {
        let mut rules = self.shared.rules.lock();
        if rule == Rule::default() {
            rules.remove(&(from, to));
        } else {
            rules.insert((from, to), rule);
        }
    }

    pub fn rule(&self, from: Host, to: Host) -> Rule {
        self.shared.rules.lock().get(&(from, to)).copied().unwrap_or_default()
    }

    /// What was done so far, on all links together.
    pub fn count(&self) -> Count {
        self.shared.counts.lock().values().fold(Count::default(), |all, one| all + *one)
    }

    pub fn count_of(&self, from: Host, to: Host) -> Count {
        self.shared.counts.lock().get(&(from, to)).copied().unwrap_or_default()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(thread::JoinHandle::join) {
            warn!(?panic, "the hub has panicked");
        }
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            carried: self.carried + other.carried,
            cut: self.cut + other.cut,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            corrupted: self.corrupted + other.corrupted,
            reordered: self.reordered + other.reordered,
            delayed: self.delayed + other.delayed,
        }
    }
}

/// A frame on its way.
struct Held {
    due: Instant,
    number: u64,
    to: Arc<SyncDevice>,
    frame: Vec<u8>,
}

struct Carrier {
    shared: Arc<Shared>,
    ports: Vec<(Host, Arc<SyncDevice>)>,
    held: BinaryHeap<Reverse<Held>>,
    number: u64,
    chance: StdRng,
}

impl Carrier {
    fn run(mut self) {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.ports.clone_from(&self.shared.ports.lock());
            self.deliver_due();
            for port in self.ready() {
                for _ in 0..TAKEN_AT_ONCE {
                    match self.ports[port].1.recv(&mut buffer) {
                        Ok(length) => self.take(port, &buffer[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        // A host that is being taken away.
                        Err(_) => break,
                    }
                }
            }
        }
    }

    /// The ports with frames, as soon as there are some or one that was held is due.
    fn ready(&self) -> Vec<usize> {
        let due = self.held.peek().map(|Reverse(held)| held.due.saturating_duration_since(Instant::now()));
        let wait = due.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut polled: Vec<PollFd<'_>> =
            self.ports.iter().map(|(_, tap)| PollFd::new(tap.as_ref(), PollFlags::IN)).collect();
        if polled.is_empty() {
            thread::park_timeout(LOOK_AGAIN);
        } else if let Err(error) = poll(&mut polled, Some(&wait)) {
            warn!(%error, "the hub cannot wait");
        }
        let is_ready = |one: &PollFd<'_>| one.revents().contains(PollFlags::IN);
        polled.iter().enumerate().filter(|(_, one)| is_ready(one)).map(|(port, _)| port).collect()
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
            let Some(Reverse(held)) = self.held.pop() else { return };
            send(&held.to, &held.frame);
        }
    }

    fn take(&mut self, from: usize, frame: &[u8]) {
        let Some(address) = frame.first_chunk::<6>() else { return };
        let is_for_all = address[0] & 1 == 1;
        let others = (0..self.ports.len()).filter(|port| *port != from);
        let to: Vec<usize> = others.filter(|port| is_for_all || self.ports[*port].0.hardware() == *address).collect();
        for to in to {
            self.carry(from, to, frame);
        }
    }

    fn carry(&mut self, from: usize, to: usize, frame: &[u8]) {
        let link = (self.ports[from].0, self.ports[to].0);
        let rule = self.shared.rules.lock().get(&link).copied();
        let (done, copies) = match rule {
            None => (Count { carried: 1, ..Count::default() }, vec![(Duration::ZERO, None)]),
            Some(rule) => treat(&rule, frame, &mut self.chance),
        };
        {
            let mut counts = self.shared.counts.lock();
            let count = counts.entry(link).or_default();
            *count = *count + done;
        }
        let tap = self.ports[to].1.clone();
        for (delay, changed) in copies {
            if delay.is_zero() {
                send(&tap, changed.as_deref().unwrap_or(frame));
            } else if self.held.len() < HELD_MAX {
                self.number += 1;
                let frame = changed.unwrap_or_else(|| frame.to_vec());
                let due = Instant::now() + delay;
                self.held.push(Reverse(Held { due, number: self.number, to: tap.clone(), frame }));
            }
        }
    }
}

type Copies = Vec<(Duration, Option<Vec<u8>>)>;

/// What a rule makes of a frame: copies of it, each with its delay, changed or not. Only what cuts a link touches other
/// frames than IPv4: hosts have to find each other.
fn treat(rule: &Rule, frame: &[u8], chance: &mut StdRng) -> (Count, Copies) {
    let mut done = Count::default();
    if rule.cut {
        done.cut = 1;
        return (done, Vec::new());
    }
    if !is_ipv4(frame) {
        done.carried = 1;
        return (done, vec![(Duration::ZERO, None)]);
    }
    if chance.random_bool(rule.loss) {
        done.lost = 1;
        return (done, Vec::new());
    }
    let twice = chance.random_bool(rule.duplicates);
    done.duplicated = u64::from(twice);
    let mut copies = Vec::new();
    for _ in 0..=u64::from(twice) {
        done.carried += 1;
        let mut delay_ms = rule.delay_ms + rule.jitter_ms * chance.random_range(-1.0..=1.0);
        if chance.random_bool(rule.reorders) {
            done.reordered += 1;
            delay_ms += chance.random_range(OVERTAKEN_MS) as f64;
        }
        let changed = (chance.random_bool(rule.corrupts)).then(|| corrupt(frame, chance)).flatten();
        done.corrupted += u64::from(changed.is_some());
        done.delayed += u64::from(delay_ms > 0.0);
        copies.push((Duration::from_secs_f64(delay_ms.max(0.0) / 1e3), changed));
    }
    (done, copies)
}

fn is_ipv4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
}

/// One bit of a datagram's content, and no checksum, or the kernel would notice before the application does.
fn corrupt(frame: &[u8], chance: &mut StdRng) -> Option<Vec<u8>> {
    const UDP: u8 = 17;
    const NO_OPTIONS: u8 = 0x45;
    if frame.len() <= PAYLOAD_AT || frame[14] != NO_OPTIONS || frame[14 + 9] != UDP {
        return None;
    }
    let mut changed = frame.to_vec();
    let at = chance.random_range(PAYLOAD_AT..frame.len());
    changed[at] ^= 1 << chance.random_range(0..8);
    changed[UDP_CHECKSUM_AT..UDP_CHECKSUM_AT + 2].fill(0);
    Some(changed)
}

/// A host that takes no more loses it, as it would on a real wire.
fn send(to: &SyncDevice, frame: &[u8]) {
    drop(to.send(frame));
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 datagram of so many bytes of content.
    fn datagram(content: usize) -> Vec<u8> {
        let mut frame = vec![0; PAYLOAD_AT + content];
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[23] = 17;
        frame[UDP_CHECKSUM_AT] = 0xab;
        frame
    }

    fn many(rule: Rule, frame: &[u8]) -> (Count, usize) {
        let mut chance = StdRng::seed_from_u64(7);
        let treated = (0..10_000).map(|_| treat(&rule, frame, &mut chance));
        treated.fold((Count::default(), 0), |(all, copies), (one, more)| (all + one, copies + more.len()))
    }

    #[test]
    fn about_so_many_frames_are_treated_as_the_rule_says() {
        let rule = Rule { loss: 0.1, duplicates: 0.2, corrupts: 0.05, reorders: 0.3, ..Rule::default() };
        let (count, copies) = many(rule, &datagram(100));
        assert!((900..1_100).contains(&count.lost), "{count:?}");
        assert!((1_650..1_950).contains(&count.duplicated), "{count:?}");
        assert!((440..640).contains(&count.corrupted), "{count:?}");
        assert!((3_000..3_500).contains(&count.reordered), "{count:?}");
        assert_eq!((count.carried, copies as u64), (10_000 - count.lost + count.duplicated, count.carried));
    }

    #[test]
    fn a_cut_link_carries_nothing_and_an_odd_frame_is_only_cut() {
        assert_eq!(
            many(Rule { cut: true, ..Rule::default() }, &datagram(1)),
            (Count { cut: 10_000, ..Count::default() }, 0)
        );
        let rule = Rule { loss: 1.0, corrupts: 1.0, ..Rule::default() };
        assert_eq!(many(rule, &[0xff; 42]).0, Count { carried: 10_000, ..Count::default() });
    }

    #[test]
    fn one_bit_of_the_content_is_changed_and_the_checksum_is_off() {
        let frame = datagram(64);
        let changed = corrupt(&frame, &mut StdRng::seed_from_u64(1)).unwrap();
        let bits: u32 = (PAYLOAD_AT..frame.len()).map(|at| (frame[at] ^ changed[at]).count_ones()).sum();
        assert_eq!((bits, &changed[UDP_CHECKSUM_AT..UDP_CHECKSUM_AT + 2]), (1, &[0, 0][..]));
        assert_eq!(corrupt(&datagram(0), &mut StdRng::seed_from_u64(1)), None);
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let rule = Rule { loss: 0.5, jitter_ms: 5.0, delay_ms: 5.0, ..Rule::default() };
        let run = || {
            let mut chance = StdRng::seed_from_u64(3);
            (0..100).map(|_| treat(&rule, &datagram(9), &mut chance).1).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }
}
