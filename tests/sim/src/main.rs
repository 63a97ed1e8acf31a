//! `coda-sim`: runs seeds.

use std::time::{Duration, Instant};

use coda_client::{BoxError, Client, Worker, WorkflowContext};
use coda_sim::cluster::{Cluster, form};
use coda_sim::trace::Trace;
use coda_sim::world::World;
use coda_sim::log;

fn main() {
    let seed: u64 = std::env::args().nth(1).map_or(1, |seed| seed.parse().expect("a number"));
    if let Ok(level) = std::env::var("LOG") {
        log::print(level.parse().expect("a level"));
    }
    log::collect_panics(true);
    let real = Instant::now();
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let trace = Trace::new(true);
    let mut world = World::new(seed, trace.clone());
    let mut cluster = Cluster::new(&mut world, 3, dir.path());
    let operator = world.add("operator", 1);
    let first = cluster.options(&world, operator, &[1]);
    let others = vec![cluster.options(&world, operator, &[2]), cluster.options(&world, operator, &[3])];
    let formed = world.wait(operator, Duration::from_secs(60), form(first, others, 3, 2));
    trace.event(world.now(), format!("formed: {formed:?}"));
    let host = world.add("worker", 1);
    let worker = Worker::builder(cluster.options(&world, host, &[1, 2, 3]))
        .task("double", |n: u64| async move { Ok::<_, BoxError>(2 * n) })
        .workflow("double", |cx: WorkflowContext, n: u64| async move {
            Ok::<_, BoxError>(cx.spawn_task::<u64>("double", n).await?)
        })
        .build()
        .expect("a worker");
    world.host(host).spawn(worker.run_until(std::future::pending()));
    let host = world.add("client", 1);
    let options = cluster.options(&world, host, &[2]);
    let done = world.wait(host, Duration::from_secs(60), async move {
        let client = Client::connect(options).await?;
        let mut sum = 0;
        for n in 0..10 {
            let run = client.start_json("double", &n).await?;
            sum += run.result_json::<u64>().await.expect("a result");
        }
        Ok::<_, coda_client::ClientError>(sum)
    });
    trace.event(world.now(), format!("done: {done:?}, {:?}", world.net.counts()));
    println!("hash {:016x} events {} virtual {:?}", trace.hash(), trace.events(), world.now());
    for node in 1..=3 { cluster.crash(&mut world, node); }
    drop(world);
    let _ = real;
    std::process::exit(0);
}
