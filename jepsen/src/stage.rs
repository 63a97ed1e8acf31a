//! One run of the suite, from an empty folder to a summary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use coda_checkers::properties as p;
use coda_protocol::cluster::NodeState;
use coda_protocol::ids::GroupId;
use coda_protocol::operate::GroupReport;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::args::RunArgs;
use crate::checks::{self, Excuse};
use crate::cluster::Cluster;
use crate::findings::{Findings, Sort};
use crate::history::History;
use crate::machine::{Machine, STANDS_STILL_FROM, waited_for_cpu};
use crate::moment::{Moment, ms};
use crate::nemeses::{self, Bite, Plan};
use crate::operations::Operations;
use crate::operator::{Operator, PATIENCE, leads};
use crate::probers::{Probers, Probes};
use crate::python::PythonWorker;
use crate::report::Summary;
use crate::verdict::Verdict;
use crate::workloads::{self, Setting, Workload};

/// Everything that was started has an answer by then.
const QUIET_PATIENCE: Duration = Duration::from_secs(90);
/// Every group can be written to so soon after a fault has ended.
pub const WRITES_BACK_WITHIN: Duration = Duration::from_millis(2_500);
/// Fewer acknowledged operations per second, while things go wrong, say nothing about the promises.
const OPERATIONS_PER_SECOND_MIN: f64 = 5.0;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a nemesis has to do with.
pub struct Stage {
    pub args: RunArgs,
    pub cluster: Cluster,
    pub operator: Operator,
    pub findings: Findings,
    pub operations: Operations,
    pub chance: StdRng,
    history: History,
    loads: Vec<(&'static str, Box<dyn Workload>)>,
    probers: Option<Probers>,
    /// What each node led when all was last well.
    leads: BTreeMap<u64, Vec<GroupId>>,
    /// Where the copies of each group were then.
    voters: BTreeMap<u32, Vec<u64>>,
    /// Whom something is being done to.
    struck: BTreeSet<u64>,
    is_single: bool,
    faults: Vec<Fault>,
    skipped: Vec<(String, String)>,
    excuses: Vec<Excuse>,
    measured: Vec<(String, Value)>,
    last_node: u64,
    machine: Machine,
    python: Option<PythonWorker>,
}

/// Something that was done to the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    pub nemesis: String,
    pub nodes: Vec<u64>,
    /// Groups that they led.
    pub led: Vec<u32>,
    pub more: String,
    pub began: Moment,
    /// When it was taken back.
    pub healed: Option<Moment>,
    /// What shows that it did something.
    pub bite: Option<String>,
    /// From then until every group had acknowledged a write.
    pub writes_back_ms: Option<f64>,
    /// So much of that time somebody waited for a processor, if the kernel counts it.
    pub cpu_waited_ms: Option<f64>,
    /// When the cluster was well again.
    pub over: Option<Moment>,
}

/// A fault that is not over.
#[must_use = "a fault is over when the cluster is well again"]
pub struct Begun {
    fault: usize,
    /// What the kernel had counted when it was taken back.
    cpu_waited: Option<Duration>,
    excuses: Vec<Excuse>,
}

impl Stage {
    /// Who leads what, while all is well, and from now on nobody is struck.
    pub async fn look_around(&mut self) -> anyhow::Result<()> {
        let report = self.operator.report().await?;
        self.leads = leads(&report);
        let voters = |group: &GroupReport| (group.group.0, group.voters.iter().map(|node| node.0).collect());
        self.voters = report.groups.iter().map(voters).collect();
        self.struck.clear();
        self.is_single = true;
        Ok(())
    }

    /// A node that leads something, whatever else is done to it.
    pub fn some_leader(&mut self) -> Option<(u64, Vec<GroupId>)> {
        let all = self.cluster.running();
        self.leader_of(&all)
    }

    /// Of the nodes that nothing is done to yet one that leads something, to do something to; none if a minority is struck.
    pub fn leader(&mut self) -> Option<(u64, Vec<GroupId>)> {
        let free = self.free();
        let (node, led) = self.leader_of(&free)?;
        self.struck.insert(node);
        Some((node, led))
    }

    /// Whoever leads more, is drawn more often. Nobody leads nothing for long: then it is any node.
    fn leader_of(&mut self, nodes: &[u64]) -> Option<(u64, Vec<GroupId>)> {
        let leads: Vec<u64> = nodes.iter().flat_map(|node| vec![*node; self.led_by(&[*node]).len()]).collect();
        let of = if leads.is_empty() { nodes } else { &leads };
        let node = *of.choose(&mut self.chance)?;
        Some((node, self.led_by(&[node])))
    }

    /// The same with any of them.
    pub fn some_node(&mut self) -> Option<(u64, Vec<GroupId>)> {
        let node = *self.free().choose(&mut self.chance)?;
        self.struck.insert(node);
        Some((node, self.led_by(&[node])))
    }

    fn free(&self) -> Vec<u64> {
        let running = self.cluster.running();
        let minority = running.len().saturating_sub(1) / 2;
        if !self.struck.is_empty() && self.struck.len() >= minority {
            return Vec::new();
        }
        running.into_iter().filter(|node| !self.struck.contains(node)).collect()
    }

    /// Who has a copy of each group, while all is well.
    pub fn voters(&self) -> BTreeMap<u32, Vec<u64>> {
        self.voters.clone()
    }

    pub fn led_by(&self, nodes: &[u64]) -> Vec<GroupId> {
        nodes.iter().filter_map(|node| self.leads.get(node)).flatten().copied().collect()
    }

    /// Whether this run has what a nemesis needs.
    pub fn can_have(&self, kind: &nemeses::Kind) -> bool {
        !(self.args.plain && kind.needs.iter().any(|need| need.is_of_the_world()))
    }

    /// Whether only one thing goes wrong at a time.
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// Several things go wrong at once.
    pub fn mix(&mut self) {
        self.is_single = false;
    }

    /// A nemesis is about to do something.
    pub fn begin(&mut self, nemesis: &str, plan: &Plan) -> Begun {
        let fault = Fault {
            nemesis: nemesis.into(),
            nodes: plan.nodes.clone(),
            led: plan.led.iter().map(|group| group.0).collect(),
            more: plan.more.clone(),
            began: Moment::now(),
            healed: None,
            bite: None,
            writes_back_ms: None,
            cpu_waited_ms: None,
            over: None,
        };
        info!(nemesis, nodes = ?fault.nodes, led = ?fault.led, more = fault.more, "fault");
        self.history.note("fault", &json!(fault));
        let excused = plan.nodes.iter().filter(|_| plan.excuses);
        let excuses = excused.filter_map(|node| Excuse::begin(&self.cluster, *node)).collect();
        self.faults.push(fault);
        Begun { fault: self.faults.len() - 1, cpu_waited: None, excuses }
    }

    /// It was taken back.
    pub fn healed(&mut self, begun: &mut Begun, bite: Bite) {
        begun.cpu_waited = waited_for_cpu();
        let fault = &mut self.faults[begun.fault];
        fault.healed = Some(Moment::now());
        info!(nemesis = fault.nemesis, ?bite, "healed");
        match bite {
            Ok(bite) => fault.bite = Some(bite),
            Err(why) => self.findings.uncovered(format!("{} did nothing ({}): {why}", fault.nemesis, fault.more)),
        }
        self.history.note("healed", &json!(self.faults[begun.fault]));
    }

    /// Waits until the cluster is well, which it has to be by itself.
    pub async fn settle(&mut self, begun: Begun) -> anyhow::Result<()> {
        let healed = self.faults[begun.fault].healed.unwrap_or_else(Moment::now);
        let nemesis = self.faults[begun.fault].nemesis.clone();
        let waited_before = begun.cpu_waited;
        let back = self.writes_back(healed).await;
        let waited = waited_for_cpu().zip(waited_before).map(|(now, before)| ms(now.saturating_sub(before)));
        self.faults[begun.fault].cpu_waited_ms = waited;
        match back {
            Some(back) => {
                self.faults[begun.fault].writes_back_ms = Some(ms(back));
                if back > WRITES_BACK_WITHIN {
                    let (back, allowed) = (back.as_millis(), WRITES_BACK_WITHIN.as_millis());
                    let mut what =
                        format!("after {nemesis}, writes are back after {back} ms; {allowed} ms are allowed");
                    if let Some(ms) = self.faults[begun.fault].cpu_waited_ms {
                        what += &format!("; somebody waited for a processor for {ms:.0} ms of them");
                    }
                    self.findings.violation(p::WELL_AGAIN_IN_TIME, what);
                }
            }
            None => {
                let what = format!("after {nemesis}, writes are not back within {PATIENCE:?}");
                self.findings.violation(p::WELL_AGAIN_IN_TIME, what);
            }
        }
        self.well().await;
        for node in self.cluster.fallen() {
            self.findings.violation(p::NODES_STAY_UP, format!("node {node} has ended by itself"));
            self.cluster.start(node).await?;
        }
        self.excuses.extend(begun.excuses.into_iter().map(|excuse| excuse.end(&self.cluster)));
        let fault = &mut self.faults[begun.fault];
        fault.over = Some(Moment::now());
        self.history.note("well", &json!(fault));
        Ok(())
    }

    /// Waits until the cluster says that it is well.
    pub async fn well(&self) {
        if let Err(error) = self.operator.healthy(PATIENCE).await {
            self.findings.violation(p::WELL_AGAIN_IN_TIME, format!("the cluster does not get well: {error:#}"));
        }
    }

    /// How long after that moment every group had acknowledged a write.
    async fn writes_back(&self, since: Moment) -> Option<Duration> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(back) = self.probes().all_answered_after(since, self.args.groups) {
                return Some(back.since(since));
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(LOOK_AGAIN).await;
        }
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

    pub fn probes(&self) -> Probes {
        self.probers.as_ref().expect("they probe until all is quiet").probes.clone()
    }

    /// Waits until everything that was begun has ended: nothing goes wrong any more.
    async fn quiet(&mut self) -> anyhow::Result<()> {
        for (_, load) in &mut self.loads {
            load.quiet(QUIET_PATIENCE).await?;
        }
        if let Some(probers) = self.probers.take() {
            probers.stop().await;
        }
        // What it hands back is ended by others.
        if let Some(python) = self.python.take() {
            python.stop(&self.findings).await?;
        }
        Ok(())
    }
}

/// Runs the suite. What was found is in the summary; an error is what the suite itself could not do.
pub async fn run(args: &RunArgs) -> anyhow::Result<Summary> {
    let seed = args.common.seed.unwrap_or_else(|| rand::rng().random());
    let mut args = args.clone();
    args.common.seed = Some(seed);
    fs::create_dir_all(&args.common.out).with_context(|| format!("cannot make {}", args.common.out.display()))?;
    ensure!(fs::read_dir(&args.common.out)?.next().is_none(), "{} is not empty", args.common.out.display());
    info!(seed, out = %args.common.out.display(), "begins");
    let history = History::create(&args.common.out.join("history.jsonl"))?;
    history.note("begin", &json!({ "args": args, "version": env!("CARGO_PKG_VERSION") }));
    let summary = play(args.clone(), &history, seed).await;
    history.flush()?;
    let summary = summary.unwrap_or_else(|error| {
        warn!(%error, "the suite cannot go on");
        Summary::of_failure(&args, &format!("{error:#}"))
    });
    summary.write(&args.common.out)?;
    Ok(summary)
}

async fn play(args: RunArgs, history: &History, seed: u64) -> anyhow::Result<Summary> {
    let mut chance = StdRng::seed_from_u64(seed);
    let findings = Findings::new(history.clone());
    let (began, machine) = (Moment::now(), Machine::watched());
    let (kinds, skipped) = chosen(&args);
    for (name, why) in &skipped {
        warn!(nemesis = name, why, "skipped");
        history.note("skipped", &json!({ "nemesis": name, "why": why }));
    }
    if kinds.is_empty() && !skipped.is_empty() {
        return Ok(Summary::of_skipped(&args, skipped));
    }
    // Each part draws from chance of its own: what one draws does not change what another does.
    let mut fork = || StdRng::seed_from_u64(chance.random());
    let mut cluster = Cluster::empty(&args, fork())?;
    let (of_faults, mut of_load, mut of_probers) = (fork(), fork(), fork());
    let operator = form(&args, &mut cluster).await?;
    info!(nodes = args.common.nodes, groups = args.groups, "a cluster");

    let python = python_worker(&args, &cluster).await?;
    let operations = Operations::default();
    let mut loads = Vec::new();
    for kind in wanted(&args) {
        let setting = Setting {
            args: &args,
            cluster: &cluster,
            history: history.clone(),
            findings: findings.clone(),
            operations: operations.of(kind.name),
            chance: StdRng::seed_from_u64(of_load.random()),
            python: python.as_ref().map(PythonWorker::session),
        };
        loads.push((kind.name, (kind.start)(setting).await?));
    }
    let options = cluster.options(&cluster.running())?;
    let probers = Probers::start(&options, args.groups, history, &findings, &mut of_probers).await?;
    let mut stage = Stage {
        last_node: args.common.nodes,
        machine,
        python,
        args,
        cluster,
        operator,
        findings,
        operations,
        chance: of_faults,
        history: history.clone(),
        loads,
        probers: Some(probers),
        leads: BTreeMap::new(),
        voters: BTreeMap::new(),
        struck: BTreeSet::new(),
        is_single: true,
        faults: Vec::new(),
        skipped,
        excuses: Vec::new(),
        measured: Vec::new(),
    };
    let calm = Moment::now();
    sleep(Duration::from_secs(stage.args.calm)).await;
    let calm = (calm, Moment::now());
    nemeses::unleash(&mut stage, &kinds).await?;
    settle_down(stage, began, calm).await
}

fn wanted(args: &RunArgs) -> impl Iterator<Item = &'static workloads::Kind> {
    workloads::kinds().filter(|kind| args.workload.iter().any(|name| name == kind.name))
}

/// One for all workloads that have a program for it, if there is to be one.
async fn python_worker(args: &RunArgs, cluster: &Cluster) -> anyhow::Result<Option<PythonWorker>> {
    let programs: Vec<_> = wanted(args).filter_map(|kind| Some((kind.name, kind.python?))).collect();
    match args.python() {
        Some(python) if !programs.is_empty() => {
            Ok(Some(PythonWorker::start(&python, &programs, cluster, &args.common.out).await?))
        }
        _ => Ok(None),
    }
}

/// The nemeses that were asked for and can be had, and why others cannot.
fn chosen(args: &RunArgs) -> (Vec<&'static nemeses::Kind>, Vec<(String, String)>) {
    let (mut kinds, mut skipped) = (Vec::new(), Vec::new());
    for kind in args.nemesis.iter().filter_map(|name| nemeses::find(name)) {
        let network = kind.needs.iter().any(|need| need.is_of_the_world());
        let plain = (args.plain && network).then(|| "the nodes are plain processes".to_owned());
        match plain.or_else(|| nemeses::lacks(kind, args.common.nodes)) {
            None => kinds.push(kind),
            Some(why) => skipped.push((kind.name.to_owned(), why)),
        }
    }
    (kinds, skipped)
}

/// A cluster of so many nodes, from 1, with everything in its place.
async fn form(args: &RunArgs, cluster: &mut Cluster) -> anyhow::Result<Operator> {
    cluster.add(1).await?;
    let operator = Operator::connect(cluster.options(&[1])?).await?;
    operator.init(args.replication_factor, args.groups).await?;
    for node in 2..=args.common.nodes {
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
    let struck_for = Moment::now().since(calm.1);
    stage.quiet().await?;
    let at_rest = stage.operator.healthy(PATIENCE).await;
    let spread = match &at_rest {
        Ok(report) => checks::leader_spread(report, &stage.findings),
        Err(error) => {
            let what = format!("the cluster does not get well at the end: {error:#}");
            stage.findings.violation(p::WELL_AGAIN_IN_TIME, what);
            Default::default()
        }
    };
    let options = stage.cluster.options(&stage.cluster.running())?;
    let mut loads = BTreeMap::new();
    for (name, load) in std::mem::take(&mut stage.loads) {
        loads.insert(name, load.finish(options.clone()).await?);
    }
    let digests = checks::equal_copies(&stage.operator, stage.args.groups, &stage.findings).await?;
    let report = stage.operator.report().await?;
    stage.operator.close().await;
    let unclean = stage.cluster.stop_all().await;
    unclean.into_iter().for_each(|what| stage.findings.violation(p::NODES_STAY_UP, what));
    checks::logs(&stage.cluster, &stage.excuses, &stage.findings);
    let operations = stage.operations.all();
    checks::coverage(&operations, struck_for, OPERATIONS_PER_SECOND_MIN, &stage.findings);
    let nodes = checks::node_figures(&stage.cluster, &report);
    let network = stage.cluster.network().ok().map(|network| network.count());
    if stage.findings.all().contains_key(&Sort::Violation) {
        warn!("promises were broken");
    }
    let stood_still = stage.machine.stood_still();
    if stood_still >= STANDS_STILL_FROM {
        warn!(?stood_still, "the suite itself stood still: what it says of time says nothing");
    }
    let verdict = Verdict::of(&stage.findings.all(), stood_still >= STANDS_STILL_FROM);
    if verdict == Verdict::Valid && !stage.args.keep_disks {
        stage.cluster.remove_disks().await;
    }
    let summary = Summary::new(crate::report::Parts {
        args: stage.args,
        verdict,
        began,
        took: Moment::now().since(began),
        stood_still,
        calm,
        faults: stage.faults,
        skipped: stage.skipped,
        measured: stage.measured,
        loads,
        operations,
        probes,
        spread,
        digests,
        nodes,
        network,
        found: stage.findings.all(),
    });
    stage.history.note("end", &json!(summary));
    Ok(summary)
}
