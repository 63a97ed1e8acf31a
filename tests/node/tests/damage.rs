//! A node of a cluster whose disk has lost or changed something while it did not run: it does not come back with that, and
//! the others have everything.

use std::fs;
use std::path::Path;

use coda_broker::node::StartError;
use coda_client::{BoxError, SubmitOptions};
use coda_node_tests::cluster::TestCluster;
use coda_node_tests::work::run;
use coda_node_tests::{logs, soon, until};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The newest file with this beginning.
fn newest(db: &Path, start: &str) -> std::path::PathBuf {
    let paths = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let named = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(start));
    named.max().expect("there is one")
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 4;
    fs::write(file, bytes).unwrap();
}

/// Does it to RocksDB's folder of node 3, which is stopped; what its start says.
async fn start_with(cluster: &mut TestCluster, damage: impl FnOnce(&Path)) -> StartError {
    let db = cluster.data_dir(3).join("db/db");
    let kept = db.with_extension("kept");
    fs::rename(&db, &kept).unwrap();
    copy(&kept, &db);
    damage(&db);
    let error = cluster.try_go(3).await.expect_err("it starts");
    fs::remove_dir_all(&db).unwrap();
    fs::rename(&kept, &db).unwrap();
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_node_stays_away_and_a_majority_has_everything() {
    let mut cluster = TestCluster::start(3, 3, 1).await;
    let worker = run(cluster.worker().task("echo", |n: u64| async move { Ok::<_, BoxError>(n) }));
    let client = cluster.client().await;
    let (mut tasks, mut later) = (Vec::new(), Vec::new());
    for n in 0..40_u64 {
        tasks.push((n, client.submit_json("echo", &n).await.unwrap()));
    }
    for (n, task) in &tasks {
        assert_eq!(soon("a result", task.result_json::<u64>()).await.unwrap(), *n);
    }
    cluster.stop(3).await;
    let yesterday = tempfile::tempdir().unwrap();
    copy(&cluster.data_dir(3).join("db"), yesterday.path());
    for _ in 0..2 {
        cluster.go(3).await;
        cluster.calm().await;
        // What node 3 confirms now, its storage of yesterday knows nothing of.
        later.push(client.submit(SubmitOptions::new("nobody does this")).await.unwrap());
        cluster.equal(1).await;
        cluster.stop(3).await;
    }

    // RocksDB's folder alone is put back, or damaged: the node itself notices.
    let put_back = |db: &Path| {
        fs::remove_dir_all(db).unwrap();
        copy(&yesterday.path().join("db"), db);
    };
    let error = start_with(&mut cluster, put_back).await;
    assert_eq!(error.code(), "CODA4340", "{error}");
    assert!(error.to_string().contains("coda-admin node replace"), "{error}");
    let error = start_with(&mut cluster, |db| fs::remove_file(db.join("CURRENT")).unwrap()).await;
    assert_eq!(error.code(), "CODA4340", "{error}");
    let error = start_with(&mut cluster, |db| fs::remove_dir_all(db).unwrap()).await;
    assert_eq!(error.code(), "CODA4340", "{error}");
    let error = start_with(&mut cluster, |db| flip(&newest(db, "MANIFEST"), 20)).await;
    assert_eq!(error.code(), "CODA4103", "{error}");
    // All that it keeps is put back: it cannot know, and the others do.
    let folder = cluster.data_dir(3).join("db");
    let kept = folder.with_extension("kept");
    fs::rename(&folder, &kept).unwrap();
    copy(yesterday.path(), &folder);
    cluster.go(3).await;
    until("it is refused", || async { (!logs::matching("CODA1116").is_empty()).then_some(()) }).await;
    cluster.stop(3).await;
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&kept, &folder).unwrap();

    // Two of three are a majority, and have all of it.
    for task in &later {
        assert!(client.describe_task(task.id()).await.is_ok());
    }
    for (n, task) in &tasks {
        assert_eq!(soon("a result", task.result_json::<u64>()).await.unwrap(), *n);
    }
    let n = 77_u64;
    let task = client.submit_json("echo", &n).await.unwrap();
    assert_eq!(soon("a result", task.result_json::<u64>()).await.unwrap(), n);
    // With the disk that it had, it is welcome again.
    cluster.go(3).await;
    cluster.calm().await;
    cluster.equal(1).await;
    client.close().await;
    worker.stop().await;
    cluster.stop_all().await;
}
