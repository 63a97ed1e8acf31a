//! What it all came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::Value;

use crate::args::RunArgs;
use crate::checks::NodeFigures;
use crate::findings::Found;
use crate::moment::{Moment, ms};
use crate::probers::{Probes, Spread};
use crate::stage::Fault;
use crate::workloads::ledger::LoadReport;

/// What a summary is made of.
pub struct Parts {
    pub args: RunArgs,
    pub took: Duration,
    pub calm: (Moment, Moment),
    pub faults: Vec<Fault>,
    pub measured: Vec<(String, Value)>,
    pub load: LoadReport,
    pub probes: Probes,
    pub read_again: u64,
    pub spread: BTreeMap<u64, usize>,
    pub digests: BTreeMap<u32, (u64, u64)>,
    pub nodes: Vec<NodeFigures>,
    pub found: Found,
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    seed: Option<u64>,
    args: RunArgs,
    took_s: f64,
    violations: u64,
    first_violations: Vec<String>,
    /// By nemesis.
    unavailability: BTreeMap<String, Unavailability>,
    faults: Vec<FaultReport>,
    operations: Operations,
    measured: Vec<(String, Value)>,
    /// Groups that each node leads in the end.
    leaders: BTreeMap<u64, usize>,
    /// Index and checksum that all copies of a group have in the end.
    digests: BTreeMap<u32, (u64, String)>,
    nodes: Vec<NodeFigures>,
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
    until_well_ms: Spread,
}

#[derive(Clone, Debug, Serialize)]
struct FaultReport {
    #[serde(flatten)]
    fault: Fault,
    /// The longest time without an acknowledged write, per group.
    gaps_ms: BTreeMap<u32, f64>,
    until_well_ms: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct Operations {
    runs_started: u64,
    runs_acknowledged: u64,
    runs_ended: u64,
    results_read_again: u64,
    start_ms: Spread,
    run_ms: Spread,
    steps_recorded: u64,
    executions: u64,
    executions_repeated: u64,
    executions_python: u64,
    probes: usize,
    probe_ms_calm: Spread,
}

impl Summary {
    pub fn new(parts: Parts) -> Self {
        let Parts { args, took, calm, faults, measured, load, probes, read_again, spread, digests, nodes, found } =
            parts;
        let reports: Vec<FaultReport> = faults.into_iter().map(|fault| FaultReport::new(fault, &probes)).collect();
        let mut unavailability = BTreeMap::new();
        for fault in &reports {
            unavailability
                .entry(fault.fault.nemesis.clone())
                .or_insert_with(|| Unavailability::of(&reports, &fault.fault));
        }
        let operations = Operations {
            runs_started: load.runs_started,
            runs_acknowledged: load.runs_acknowledged,
            runs_ended: load.runs_ended,
            results_read_again: read_again,
            start_ms: Spread::of(load.start_ms),
            run_ms: Spread::of(load.run_ms),
            steps_recorded: load.steps_recorded,
            executions: load.executions,
            executions_repeated: load.executions_repeated,
            executions_python: load.executions_python,
            probes: probes.count(),
            probe_ms_calm: Spread::of(probes.latencies(calm.0, calm.1)),
        };
        Self {
            seed: args.seed,
            args,
            took_s: took.as_secs_f64().round(),
            violations: found.count,
            first_violations: found.first,
            unavailability,
            faults: reports,
            operations,
            measured,
            leaders: spread,
            digests: digests.into_iter().map(|(group, (index, sum))| (group, (index, format!("{sum:016x}")))).collect(),
            nodes,
        }
    }

    pub fn violations(&self) -> u64 {
        self.violations
    }
}

impl FaultReport {
    fn new(fault: Fault, probes: &Probes) -> Self {
        let until = fault.over.unwrap_or_else(Moment::now);
        let gaps = probes.gaps(fault.began, until);
        Self {
            gaps_ms: gaps.into_iter().map(|(group, gap)| (group.0, ms(gap))).collect(),
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
        let worst = |one: &&FaultReport| one.gaps_ms.values().copied().fold(0.0, f64::max);
        Self {
            faults: same.len(),
            worst_group_ms: Spread::of(same.iter().map(worst).collect()),
            led_ms: gaps(true),
            not_led_ms: gaps(false),
            until_well_ms: Spread::of(same.iter().filter_map(|one| one.until_well_ms).collect()),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operations { runs_started, runs_acknowledged, runs_ended, .. } = self.operations;
        let of = &self.operations;
        writeln!(f, "seed {}, {} s, nemeses {:?}", self.seed.unwrap_or_default(), self.took_s, self.args.nemesis)?;
        writeln!(
            f,
            "runs: {runs_started} started, {runs_acknowledged} acknowledged, {runs_ended} ended, {} read again",
            of.results_read_again
        )?;
        writeln!(
            f,
            "steps: {} recorded, {} executions ({} repeated, {} in Python)",
            of.steps_recorded, of.executions, of.executions_repeated, of.executions_python
        )?;
        let mut table = table(&["", "count", "p50 ms", "p99 ms", "max ms"]);
        table.add_row(row("probe, calm", of.probe_ms_calm));
        table.add_row(row("start of a run", of.start_ms));
        table.add_row(row("run, start to result", of.run_ms));
        for (nemesis, one) in &self.unavailability {
            table.add_row(row(&format!("{nemesis}: no write, worst group"), one.worst_group_ms));
            table.add_row(row(&format!("{nemesis}: no write, groups led"), one.led_ms));
            table.add_row(row(&format!("{nemesis}: no write, other groups"), one.not_led_ms));
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
        write!(f, "violations: {}", self.violations)?;
        for violation in &self.first_violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}

fn table(header: &[&str]) -> Table {
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
