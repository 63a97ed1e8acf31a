//! The world by itself: time, chance and machines, as programs see them that know of no simulation.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coda_sim::shims::EPOCH_S;
use coda_sim::trace::Trace;
use coda_sim::world::{HostId, World};

/// Of virtual time.
const LONG: Duration = Duration::from_secs(600);

fn world(seed: u64) -> (World, HostId) {
    let mut world = World::new(seed, Trace::new(false));
    let host = world.add("host", 1);
    (world, host)
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

#[test]
fn ten_minutes_pass_at_once_on_every_clock() {
    let (mut world, host) = world(1);
    let slept = world.wait(host, 2 * LONG, async {
        let (began, day) = (Instant::now(), wall_clock());
        tokio::time::sleep(LONG).await;
        (began.elapsed(), wall_clock() - day, day)
    });
    let (monotonic, wall, day) = slept.expect("it ends");
    assert_eq!((monotonic, wall), (LONG, LONG));
    assert_eq!(day.as_secs(), EPOCH_S);
}

#[test]
fn chance_follows_from_the_seed_and_the_host() {
    let draw = |seed| {
        std::thread::spawn(move || {
            // Older than the simulation, and forgotten.
            fastrand::u64(..);
            let (mut world, one) = world(seed);
            let other = world.add("host", 2);
            [one, other].map(|host| {
                let drawn = world.wait(host, LONG, async {
                    let mut bytes = [0; 16];
                    ring_fill(&mut bytes);
                    let set: HashSet<u64> = (0..50).collect();
                    (bytes, [rand::random(), fastrand::u64(..)], set.into_iter().collect::<Vec<_>>())
                });
                drawn.expect("it ends")
            })
        })
        .join()
        .expect("no panic")
    };
    let (one, again, another) = (draw(1), draw(1), draw(2));
    assert_eq!(one, again);
    assert!(one[0].0 != one[1].0 && one[0].0 != another[0].0 && one[0].2 != another[0].2);
    assert!(one[0].1 != one[1].1 && one[0].1.iter().zip(&another[0].1).all(|(one, another)| one != another));
}

/// What every crate's randomness begins with, asked of the system.
fn ring_fill(bytes: &mut [u8]) {
    rand::rand_core::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, bytes).expect("bytes");
}

#[test]
fn a_paused_machine_gets_no_turn_and_then_everything_is_due_at_once() {
    let (mut world, host) = world(1);
    let ticks = Arc::new(AtomicU64::new(0));
    let counted = ticks.clone();
    world.host(host).spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    world.sleep(Duration::from_millis(105));
    assert_eq!(ticks.load(Ordering::Relaxed), 10);
    world.host(host).pause();
    world.sleep(LONG);
    assert_eq!(ticks.load(Ordering::Relaxed), 10);
    world.host(host).resume();
    let now = world.wait(host, LONG, async { Instant::now() }).expect("it runs");
    world.kill(host);
    let other = world.add("host", 2);
    let elsewhere = world.wait(other, LONG, async { Instant::now() }).expect("it runs");
    assert!(elsewhere - now < Duration::from_millis(10), "clocks agree again");
    let before = ticks.load(Ordering::Relaxed);
    world.sleep(LONG / 10);
    assert_eq!(ticks.load(Ordering::Relaxed), before, "what is killed does nothing more");
}

#[test]
fn clocks_can_go_wrong() {
    let (mut world, host) = world(1);
    world.host(host).set_drift(100);
    world.host(host).jump(-5_000);
    let before = world.now();
    let (monotonic, wall) = world
        .wait(host, 2 * LONG, async {
            let (began, day) = (Instant::now(), wall_clock());
            tokio::time::sleep(Duration::from_secs(11)).await;
            assert!(day.as_secs() < EPOCH_S);
            (began.elapsed(), wall_clock() - day)
        })
        .expect("it ends");
    assert_eq!(monotonic, wall);
    let truly = world.now() - before;
    assert!(truly > Duration::from_millis(9_900) && truly < Duration::from_millis(10_100), "{truly:?}");
}
