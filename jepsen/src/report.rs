//! What it all came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::Value;

use crate::args::RunArgs;
use crate::checks::NodeFigures;
use crate::findings::{Found, Sort};
use crate::moment::{Moment, ms};
use crate::network::Count;
use crate::operations::{Operation, Sum, Tally, between, sums};
use crate::probers::{Probes, Spread};
use crate::stage::Fault;
use crate::verdict::Verdict;

/// What a summary is made of.
pub struct Parts {
    pub args: RunArgs,
    pub verdict: Verdict,
    pub began: Moment,
    pub took: Duration,
    /// The longest time in which the suite itself did not run.
    pub stood_still: Duration,
    pub calm: (Moment, Moment),
    pub faults: Vec<Fault>,
    pub skipped: Vec<(String, String)>,
    pub measured: Vec<(String, Value)>,
    /// Figures of each workload.
    pub loads: BTreeMap<&'static str, Value>,
    pub operations: Vec<Operation>,
    pub probes: Probes,
    pub spread: BTreeMap<u64, usize>,
    pub digests: BTreeMap<u32, (u64, u64)>,
    pub nodes: Vec<NodeFigures>,
    pub network: Option<Count>,
    pub found: BTreeMap<Sort, Found>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub verdict: Verdict,
    /// Why the suite could not go on, if it could not.
    failure: Option<String>,
    seed: Option<u64>,
    args: RunArgs,
    took_s: f64,
    /// The longest time in which the suite itself did not run: on a busy machine times are of the machine, too.
    stood_still_ms: f64,
    found: BTreeMap<Sort, Found>,
    skipped: Vec<(String, String)>,
    /// By nemesis.
    unavailability: BTreeMap<String, Unavailability>,
    faults: Vec<FaultReport>,
    operations: BTreeMap<&'static str, Sum>,
    probe_ms_calm: Spread,
    workloads: BTreeMap<&'static str, Value>,
    measured: Vec<(String, Value)>,
    /// What was done to frames between nodes.
    network: Option<Count>,
    /// Groups that each node leads in the end.
    leaders: BTreeMap<u64, usize>,
    /// Index and checksum that all copies of a group have in the end.
    digests: BTreeMap<u32, (u64, String)>,
    nodes: Vec<NodeFigures>,
    #[serde(skip)]
    html: Option<String>,
}

/// How long groups could not be written to because of faults.
#[derive(Clone, Debug, Serialize)]
struct Unavailability {
    faults: usize,
    /// Of each fault the group that it hit hardest.
    worst_group_ms: Spread,
    /// Groups that the node led.
    led_ms: Spread,
    /// Groups that it did not lead.
    not_led_ms: Spread,
    /// From the end of the fault until every group had acknowledged a write.
    writes_back_ms: Spread,
    until_well_ms: Spread,
}

#[derive(Clone, Debug, Serialize)]
struct FaultReport {
    #[serde(flatten)]
    fault: Fault,
    /// The longest time without an acknowledged write, per group.
    gaps_ms: BTreeMap<u32, f64>,
    /// The longest of those.
    worst_group_ms: f64,
    until_well_ms: Option<f64>,
    /// What clients of each workload asked while it lasted, until all was well.
    operations: BTreeMap<&'static str, Tally>,
}

impl Summary {
    pub fn new(parts: Parts) -> Self {
        let operations = sums(&parts.operations);
        let html = crate::html::page(&parts, &operations);
        let Parts { args, verdict, took, calm, faults, skipped, measured, loads, probes, spread, .. } = parts;
        let reports: Vec<FaultReport> =
            faults.into_iter().map(|fault| FaultReport::new(fault, &probes, &parts.operations)).collect();
        let mut unavailability = BTreeMap::new();
        for fault in &reports {
            unavailability
                .entry(fault.fault.nemesis.clone())
                .or_insert_with(|| Unavailability::of(&reports, &fault.fault));
        }
        let sum = |(group, (index, sum))| (group, (index, format!("{sum:016x}")));
        Self {
            verdict,
            failure: None,
            seed: args.common.seed,
            args,
            took_s: took.as_secs_f64().round(),
            stood_still_ms: ms(parts.stood_still),
            found: parts.found,
            skipped,
            unavailability,
            faults: reports,
            operations,
            probe_ms_calm: Spread::of(probes.latencies(calm.0, calm.1)),
            workloads: loads,
            measured,
            network: parts.network,
            leaders: spread,
            digests: parts.digests.into_iter().map(sum).collect(),
            nodes: parts.nodes,
            html: Some(html),
        }
    }

    /// The suite itself could not go on.
    pub fn of_failure(args: &RunArgs, why: &str) -> Self {
        Self { failure: Some(why.to_owned()), ..Self::empty(args, Verdict::HarnessFailure) }
    }

    /// The machine lacks what every nemesis needs.
    pub fn of_skipped(args: &RunArgs, skipped: Vec<(String, String)>) -> Self {
        Self { skipped, ..Self::empty(args, Verdict::Skipped) }
    }

    fn empty(args: &RunArgs, verdict: Verdict) -> Self {
        Self {
            verdict,
            failure: None,
            seed: args.common.seed,
            args: args.clone(),
            took_s: 0.0,
            stood_still_ms: 0.0,
            found: BTreeMap::new(),
            skipped: Vec::new(),
            unavailability: BTreeMap::new(),
            faults: Vec::new(),
            operations: BTreeMap::new(),
            probe_ms_calm: Spread::default(),
            workloads: BTreeMap::new(),
            measured: Vec::new(),
            network: None,
            leaders: BTreeMap::new(),
            digests: BTreeMap::new(),
            nodes: Vec::new(),
            html: None,
        }
    }

    /// Into the folder of the run.
    pub fn write(&self, out: &Path) -> anyhow::Result<()> {
        fs::write(out.join("summary.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(out.join("summary.txt"), format!("{self}\n"))?;
        if let Some(html) = &self.html {
            fs::write(out.join("report.html"), html)?;
        }
        Ok(())
    }
}

impl FaultReport {
    fn new(fault: Fault, probes: &Probes, operations: &[Operation]) -> Self {
        let until = fault.over.unwrap_or_else(Moment::now);
        let gaps = probes.gaps(fault.began, until);
        let gaps_ms: BTreeMap<u32, f64> = gaps.into_iter().map(|(group, gap)| (group.0, ms(gap))).collect();
        Self {
            worst_group_ms: gaps_ms.values().copied().fold(0.0, f64::max),
            gaps_ms,
            operations: between(operations, fault.began, until),
            until_well_ms: fault.over.map(|over| ms(over.since(fault.began))),
            fault,
        }
    }
}

impl Unavailability {
    fn of(reports: &[FaultReport], of: &Fault) -> Self {
        let same: Vec<&FaultReport> = reports.iter().filter(|one| one.fault.nemesis == of.nemesis).collect();
        let gaps = |led: bool| {
            let of_one = move |one: &&FaultReport| {
                let gaps = one.gaps_ms.iter().filter(|(group, _)| one.fault.led.contains(group) == led);
                gaps.map(|(_, gap)| *gap).collect::<Vec<_>>()
            };
            Spread::of(same.iter().flat_map(of_one).collect())
        };
        Self {
            faults: same.len(),
            worst_group_ms: Spread::of(same.iter().map(|one| one.worst_group_ms).collect()),
            led_ms: gaps(true),
            not_led_ms: gaps(false),
            writes_back_ms: Spread::of(same.iter().filter_map(|one| one.fault.writes_back_ms).collect()),
            until_well_ms: Spread::of(same.iter().filter_map(|one| one.until_well_ms).collect()),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verdict: {}", self.verdict)?;
        let (seed, took) = (self.seed.unwrap_or_default(), self.took_s);
        writeln!(f, "seed {seed}, {took} s, {} under {}", self.args.workload.join(","), self.args.nemesis.join(","))?;
        writeln!(f, "the suite itself stood still for {:.0} ms at most", self.stood_still_ms)?;
        if let Some(failure) = &self.failure {
            writeln!(f, "the suite could not go on: {failure}")?;
        }
        for (nemesis, why) in &self.skipped {
            writeln!(f, "skipped: {nemesis}, because {why}")?;
        }
        for (workload, figures) in &self.workloads {
            writeln!(f, "{workload}: {figures}")?;
        }
        let mut table = table(&["", "count", "p50 ms", "p99 ms", "max ms"]);
        table.add_row(row("probe, calm", self.probe_ms_calm));
        for (what, sum) in &self.operations {
            table.add_row(row(&format!("{what} ({} failed, {} maybe)", sum.failed, sum.maybe), sum.ms));
        }
        for (nemesis, one) in &self.unavailability {
            table.add_row(row(&format!("{nemesis}: no write, worst group"), one.worst_group_ms));
            table.add_row(row(&format!("{nemesis}: no write, groups led"), one.led_ms));
            table.add_row(row(&format!("{nemesis}: no write, other groups"), one.not_led_ms));
            table.add_row(row(&format!("{nemesis}: writes back after"), one.writes_back_ms));
            table.add_row(row(&format!("{nemesis}: until well"), one.until_well_ms));
        }
        writeln!(f, "{table}")?;
        for (what, value) in &self.measured {
            writeln!(f, "{what}: {value}")?;
        }
        let mut nodes =
            self::table(&["node", "starts", "disk MiB", "log syncs", "log MiB", "entries", "commands", "leads"]);
        for node in &self.nodes {
            let mib = |bytes: u64| (bytes >> 20).to_string();
            let leads = self.leaders.get(&node.node).map(ToString::to_string).unwrap_or_default();
            let NodeFigures { starts, log_syncs, entries, commands, .. } = node;
            let [starts, syncs, entries, commands] =
                [*starts as u64, *log_syncs, *entries, *commands].map(|number| number.to_string());
            let (disk, log) = (mib(node.disk_bytes), mib(node.log_bytes));
            nodes.add_row([node.node.to_string(), starts, disk, syncs, log, entries, commands, leads]);
        }
        writeln!(f, "{nodes}")?;
        for fault in self.faults.iter().map(|report| &report.fault) {
            let bite = fault.bite.as_deref().unwrap_or("it did nothing");
            writeln!(f, "{} {:?}, {}: {bite}", fault.nemesis, fault.nodes, fault.more)?;
        }
        if let Some(network) = &self.network {
            writeln!(f, "frames: {network:?}")?;
        }
        write!(f, "violations: {}", self.found.get(&Sort::Violation).map_or(0, |found| found.count))?;
        for (sort, found) in &self.found {
            for what in &found.first {
                write!(f, "\n  {sort:?}: {what}")?;
            }
        }
        Ok(())
    }
}

pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(what: &str, spread: Spread) -> [String; 5] {
    let ms = |ms: f64| if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") };
    [what.to_owned(), spread.count.to_string(), ms(spread.p50), ms(spread.p99), ms(spread.max)]
}
