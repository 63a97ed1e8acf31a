//! One run of the suite, from an empty folder to a summary.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::GroupId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::args::{RunArgs, WorkloadName};
use crate::checks;
use crate::cluster::Cluster;
use crate::findings::Findings;
use crate::history::History;
use crate::moment::Moment;
use crate::nemeses;
use crate::operator::{Operator, PATIENCE};
use crate::probers::{Probers, Probes};
use crate::report::Summary;
use crate::workloads::ledger::Load;

/// Everything that was started has an answer by then.
const QUIET_PATIENCE: Duration = Duration::from_secs(90);

/// What a nemesis has to do with.
pub struct Stage {
    pub args: RunArgs,
    pub cluster: Cluster,
    pub operator: Operator,
    pub findings: Findings,
    pub chance: StdRng,
    history: History,
    load: Load,
    probers: Option<Probers>,
    faults: Vec<Fault>,
    measured: Vec<(String, Value)>,
    last_node: u64,
}

/// Something that was done to the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    pub nemesis: String,
    pub node: u64,
    /// Groups that it led.
    pub led: Vec<u32>,
    pub more: String,
    pub began: Moment,
    /// When the cluster was well again.
    pub over: Option<Moment>,
}

/// A fault that is not over.
#[must_use = "a fault is over when the cluster is well again"]
pub struct Begun(usize);

impl Stage {
    /// A nemesis is about to do something to a node.
    pub fn begin(&mut self, nemesis: &str, node: u64, led: &[GroupId], more: String) -> Begun {
        let led = led.iter().map(|group| group.0).collect();
        let fault = Fault { nemesis: nemesis.into(), node, led, more, began: Moment::now(), over: None };
        info!(nemesis, node, led = ?fault.led, more = fault.more, "fault");
        self.history.note("fault", &json!(fault));
        self.faults.push(fault);
        Begun(self.faults.len() - 1)
    }

    /// Waits until the cluster is well, which it has to be by itself.
    pub async fn settle(&mut self, fault: Begun) -> anyhow::Result<()> {
        if let Err(error) = self.operator.healthy(PATIENCE).await {
            self.findings.violation(format!("the cluster does not get well: {error:#}"));
        }
        for node in self.cluster.fallen() {
            self.findings.violation(format!("node {node} has ended by itself"));
            self.cluster.start(node).await?;
        }
        let fault = &mut self.faults[fault.0];
        fault.over = Some(Moment::now());
        self.history.note("well", &json!(fault));
        Ok(())
    }

    /// Something that the summary shows.
    pub fn measured(&mut self, what: &str, value: Value) {
        self.history.note(what, &value);
        self.measured.push((what.to_owned(), value));
    }

    /// The id of a node that there never was.
    pub fn next_node(&mut self) -> u64 {
        self.last_node += 1;
        self.last_node
    }

    pub fn runs(&self) -> usize {
        self.load.count()
    }

    pub fn probes(&self) -> Probes {
        self.probers.as_ref().expect("they probe until all is quiet").probes.clone()
    }
}

/// Runs the suite. What is violated is in the summary; an error is what the suite itself could not do.
pub async fn run(args: &RunArgs) -> anyhow::Result<Summary> {
    let seed = args.seed.unwrap_or_else(|| rand::rng().random());
    let args = RunArgs { seed: Some(seed), ..args.clone() };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    ensure!(fs::read_dir(&args.out)?.next().is_none(), "{} is not empty", args.out.display());
    info!(seed, out = %args.out.display(), "begins");
    let history = History::create(&args.out.join("history.jsonl"))?;
    history.note("begin", &json!({ "args": args, "version": env!("CARGO_PKG_VERSION") }));
    let summary = play(args.clone(), &history, seed).await;
    history.flush()?;
    let summary = summary?;
    fs::write(args.out.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
    fs::write(args.out.join("summary.txt"), format!("{summary}\n"))?;
    Ok(summary)
}

async fn play(args: RunArgs, history: &History, seed: u64) -> anyhow::Result<Summary> {
    let mut chance = StdRng::seed_from_u64(seed);
    let findings = Findings::new(history.clone());
    let began = Moment::now();
    // Each part draws from chance of its own: what one draws does not change what another does.
    let mut fork = || StdRng::seed_from_u64(chance.random());
    let mut cluster = Cluster::empty(&args, fork())?;
    let (of_faults, mut of_load, mut of_probers) = (fork(), fork(), fork());
    let operator = form(&args, &mut cluster).await?;
    info!(nodes = args.nodes, groups = args.groups, "a cluster");

    let load = match args.workload {
        WorkloadName::Ledger => Load::start(&args, &cluster, history, &findings, &mut of_load).await?,
    };
    let options = cluster.options(&cluster.running())?;
    let probers = Probers::start(&options, args.groups, history, &findings, &mut of_probers).await?;
    let mut stage = Stage {
        last_node: args.nodes,
        args,
        cluster,
        operator,
        findings,
        chance: of_faults,
        history: history.clone(),
        load,
        probers: Some(probers),
        faults: Vec::new(),
        measured: Vec::new(),
    };
    let calm = Moment::now();
    sleep(Duration::from_secs(stage.args.calm)).await;
    let calm = (calm, Moment::now());
    for nemesis in stage.args.nemesis.clone() {
        nemeses::unleash(nemesis, &mut stage).await?;
    }
    settle_down(stage, began, calm).await
}

/// A cluster of so many nodes, from 1, with everything in its place.
async fn form(args: &RunArgs, cluster: &mut Cluster) -> anyhow::Result<Operator> {
    cluster.add(1).await?;
    let operator = Operator::connect(cluster.options(&[1])?).await?;
    operator.init(args.replication_factor, args.groups).await?;
    for node in 2..=args.nodes {
        cluster.add(node).await?;
        operator.join(cluster.options(&[node])?).await?;
        operator.until_state(node, NodeState::Active).await?;
    }
    operator.close().await;
    // Its addresses are all of them: the first node may be gone one day.
    let operator = Operator::connect(cluster.options(&cluster.running())?).await?;
    operator.healthy(PATIENCE).await.context("the new cluster does not get well")?;
    Ok(operator)
}

/// Nothing goes wrong any more: everything has to come to an end, and everybody to agree on it.
async fn settle_down(mut stage: Stage, began: Moment, calm: (Moment, Moment)) -> anyhow::Result<Summary> {
    info!("quiet");
    let probes = stage.probes();
    stage.load.quiet(QUIET_PATIENCE).await?;
    if let Some(probers) = stage.probers.take() {
        probers.stop().await;
    }
    let at_rest = stage.operator.healthy(PATIENCE).await;
    let spread = match &at_rest {
        Ok(report) => checks::leader_spread(report, &stage.findings),
        Err(error) => {
            stage.findings.violation(format!("the cluster does not get well at the end: {error:#}"));
            Default::default()
        }
    };
    let options = stage.cluster.options(&stage.cluster.running())?;
    let read_again = stage.load.read_again(options).await?;
    let load = stage.load.finish().await?;
    let digests = checks::equal_copies(&stage.operator, stage.args.groups, &stage.findings).await?;
    let report = stage.operator.report().await?;
    stage.operator.close().await;
    let unclean = stage.cluster.stop_all().await;
    unclean.into_iter().for_each(|what| stage.findings.violation(what));
    checks::logs(&stage.cluster, &stage.findings);
    let nodes = checks::node_figures(&stage.cluster, &report);
    if stage.findings.all().count > 0 {
        warn!("promises were broken");
    }
    let summary = Summary::new(crate::report::Parts {
        args: stage.args,
        took: Moment::now().since(began),
        calm,
        faults: stage.faults,
        measured: stage.measured,
        load,
        probes,
        read_again,
        spread,
        digests,
        nodes,
        found: stage.findings.all(),
    });
    stage.history.note("end", &json!(summary));
    Ok(summary)
}
