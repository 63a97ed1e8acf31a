//! What a suite says: how often each nemesis struck each workload, what clients asked meanwhile, how long nothing could be written.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::turns::Turn;
use crate::html::{document, escaped, verdict_class};
use crate::operations::Tally;
use crate::probers::Spread;
use crate::report::table;
use crate::verdict::Verdict;

const FILE: &str = "suite.json";

/// What is to be run.
pub struct Wanted {
    pub seed: u64,
    pub workloads: Vec<String>,
    pub nemeses: Vec<String>,
    /// What a suite of this length leaves out, and why.
    pub skipped: Option<(String, String)>,
}

/// One run, as its summary says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub name: String,
    pub verdict: Verdict,
    pub seed: u64,
    pub nemeses: Vec<String>,
    pub seconds: f64,
    /// Of all clients, while things went wrong and before and after.
    pub operations: Tally,
    pub faults: Vec<FaultLine>,
    pub skipped: Vec<(String, String)>,
    pub found: Vec<String>,
}

/// What is read of a fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultLine {
    pub nemesis: String,
    pub bite: Option<String>,
    pub writes_back_ms: Option<f64>,
    #[serde(default)]
    pub worst_group_ms: f64,
    #[serde(default)]
    pub cpu_waited_ms: Option<f64>,
    /// By workload.
    #[serde(default)]
    pub operations: BTreeMap<String, Tally>,
}

/// What a nemesis did to one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pair {
    pub faults: usize,
    pub operations: Tally,
}

/// What a nemesis did to the cluster.
#[derive(Debug, Default, Serialize)]
pub struct Struck {
    /// Faults that did something.
    pub faults: usize,
    /// Of each fault the group that could not be written to for longest, while it lasted and after.
    pub no_write_ms: Spread,
    /// From the end of the fault until every group had acknowledged a write.
    pub writes_back_ms: Spread,
    /// Writes never came back.
    pub never_back: usize,
    pub workloads: BTreeMap<String, Pair>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    seed: u64,
    /// Of runs that count.
    seconds: f64,
    workloads: Vec<String>,
    operations: Tally,
    pairs_wanted: usize,
    pairs_ran: usize,
    nemeses: BTreeMap<String, Struck>,
    skipped: BTreeMap<String, String>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Saved {
    seed: u64,
    runs: Vec<Run>,
}

impl Run {
    pub fn begun(name: String, turn: &Turn, took: Duration) -> Self {
        Self {
            name,
            verdict: Verdict::HarnessFailure,
            seed: turn.seed,
            nemeses: turn.nemeses.clone(),
            seconds: took.as_secs_f64().round(),
            operations: Tally::default(),
            faults: Vec::new(),
            skipped: Vec::new(),
            found: Vec::new(),
        }
    }

    /// What its summary says.
    pub fn read(self, summary: &Value) -> Self {
        let part = |name: &str| summary.get(name).cloned().unwrap_or_default();
        let mut operations = Tally::default();
        let sums = part("operations");
        let sums = sums.as_object().into_iter().flatten();
        sums.filter_map(|(_, sum)| serde_json::from_value(sum.clone()).ok()).for_each(|sum| operations.add(sum));
        let found = part("found");
        let found = found.as_object().into_iter().flatten().flat_map(|(sort, found)| {
            let first: Vec<String> = serde_json::from_value(found["first"].clone()).unwrap_or_default();
            first.into_iter().map(move |what| format!("{sort}: {what}"))
        });
        let failure = part("failure").as_str().map(|failure| format!("harness: {failure}"));
        Self {
            verdict: serde_json::from_value(part("verdict")).unwrap_or(Verdict::HarnessFailure),
            operations,
            faults: serde_json::from_value(part("faults")).unwrap_or_default(),
            skipped: serde_json::from_value(part("skipped")).unwrap_or_default(),
            found: found.chain(failure).collect(),
            ..self
        }
    }

    /// Whether it says anything: some could not be run here, others were suspended.
    fn counts(&self) -> bool {
        !matches!(self.verdict, Verdict::Skipped | Verdict::Spoiled)
    }
}

impl Report {
    pub fn new(wanted: &Wanted, runs: &[Run]) -> Self {
        let counted = || runs.iter().filter(|run| run.counts());
        let mut operations = Tally::default();
        counted().for_each(|run| operations.add(run.operations));
        let mut nemeses: BTreeMap<String, Struck> =
            wanted.nemeses.iter().map(|name| (name.clone(), Struck::default())).collect();
        let faults: Vec<&FaultLine> = counted().flat_map(|run| &run.faults).collect();
        for fault in &faults {
            let struck = nemeses.entry(fault.nemesis.clone()).or_default();
            // One that did nothing is no fault.
            struck.faults += usize::from(fault.bite.is_some());
            struck.never_back += usize::from(fault.writes_back_ms.is_none());
            for (workload, tally) in fault.operations.iter().filter(|(_, tally)| tally.attempted() > 0) {
                let pair = struck.workloads.entry(workload.clone()).or_default();
                pair.faults += usize::from(fault.bite.is_some());
                pair.operations.add(*tally);
            }
        }
        for (name, struck) in &mut nemeses {
            let of = || faults.iter().filter(|fault| fault.nemesis == *name);
            struck.no_write_ms = Spread::of(of().map(|fault| fault.worst_group_ms).collect());
            struck.writes_back_ms = Spread::of(of().filter_map(|fault| fault.writes_back_ms).collect());
        }
        let ran = |name: &String| {
            let pairs = nemeses.get(name).map(|struck| &struck.workloads);
            pairs
                .into_iter()
                .flatten()
                .filter(|(workload, pair)| pair.faults > 0 && wanted.workloads.contains(workload))
        };
        let pairs_ran = wanted.nemeses.iter().flat_map(ran).count();
        Self {
            // Nothing that ran says nothing.
            verdict: counted().map(|run| run.verdict).max().unwrap_or(Verdict::Skipped),
            seed: wanted.seed,
            seconds: counted().map(|run| run.seconds).sum(),
            workloads: wanted.workloads.clone(),
            operations,
            pairs_wanted: wanted.nemeses.len() * wanted.workloads.len(),
            pairs_ran,
            nemeses,
            skipped: runs.iter().flat_map(|run| run.skipped.iter().cloned()).chain(wanted.skipped.clone()).collect(),
            runs: runs.to_vec(),
        }
    }

    /// The seed and the runs of an earlier suite.
    pub fn read(out: &Path) -> anyhow::Result<(u64, Vec<Run>)> {
        let Saved { seed, runs } = serde_json::from_slice(&fs::read(out.join(FILE))?)?;
        Ok((seed, runs))
    }

    pub fn write(&self, out: &Path) -> anyhow::Result<()> {
        // Whole or not at all: a suite goes on from it.
        let fresh = out.join(format!("{FILE}.new"));
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&fresh, out.join(FILE))?;
        fs::write(out.join("suite.txt"), format!("{self}\n"))?;
        fs::write(out.join("report.html"), self.page())?;
        Ok(())
    }

    fn heading(&self) -> String {
        let Tally { ok, failed, maybe } = self.operations;
        format!(
            "seed {}, {:.0} minutes, {} runs, {} of {} pairs of a workload and a nemesis; {} operations: {ok} acknowledged or \
             answered, {failed} refused, {maybe} of which nobody knows",
            self.seed,
            self.seconds / 60.0,
            self.runs.len(),
            self.pairs_ran,
            self.pairs_wanted,
            self.operations.attempted()
        )
    }

    fn cells(&self, struck: &Struck) -> Vec<String> {
        let ms = |spread: Spread| format!("{:.0}/{:.0}", spread.p50, spread.max);
        let back = match struck.never_back {
            0 => ms(struck.writes_back_ms),
            never => format!("{}, {never} never", ms(struck.writes_back_ms)),
        };
        let pair = |workload: &String| {
            let Tally { ok, maybe, .. } = struck.workloads.get(workload).copied().unwrap_or_default().operations;
            let attempted = struck.workloads.get(workload).map_or(0, |pair| pair.operations.attempted());
            format!("{attempted}/{ok}/{maybe}")
        };
        let figures = [struck.faults.to_string(), ms(struck.no_write_ms), back];
        figures.into_iter().chain(self.workloads.iter().map(pair)).collect()
    }

    fn page(&self) -> String {
        let verdict =
            |verdict: Verdict| format!("<span class=\"{}\">{verdict}</span>", verdict_class(verdict == Verdict::Valid));
        let mut body = format!("<h1>coda-jepsen: {}</h1><p>{}</p>\n", verdict(self.verdict), self.heading());
        body += "<h2>Faults</h2><p>Milliseconds are p50/max over faults, operations attempted/acknowledged/unknown while the \
                 faults of a nemesis lasted.</p><table><tr><th>nemesis<th>faults<th>no write, worst group<th>writes back";
        for workload in &self.workloads {
            let _ = write!(body, "<th>{workload}");
        }
        for (nemesis, struck) in &self.nemeses {
            let _ = write!(body, "<tr><td>{nemesis}");
            self.cells(struck).iter().for_each(|cell| body += &format!("<td class=\"n\">{cell}"));
        }
        for (nemesis, why) in &self.skipped {
            let columns = self.workloads.len() + 3;
            let _ = write!(body, "<tr><td>{nemesis}<td colspan=\"{columns}\">skipped: {}", escaped(why));
        }
        body += "</table><h2>Runs</h2><table><tr><th>run<th>verdict<th>seed<th>nemeses<th>s<th>operations<th>found";
        for run in &self.runs {
            let (name, found) = (&run.name, run.found.iter().map(|what| escaped(what)).collect::<Vec<_>>());
            let _ = write!(
                body,
                "<tr><td><a href=\"{name}/report.html\">{name}</a><td>{}<td class=\"n\">{}<td>{}<td class=\"n\">{}\
                 <td class=\"n\">{}<td>{}",
                verdict(run.verdict),
                run.seed,
                run.nemeses.join(", "),
                run.seconds,
                run.operations.attempted(),
                found.join("<br>")
            );
        }
        body += "</table>\n";
        document("coda-jepsen", &body)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verdict: {}\n{}", self.verdict, self.heading())?;
        let columns = ["", "faults", "no write, ms", "writes back, ms"];
        let workloads = self.workloads.iter().map(String::as_str);
        let mut table = table(&columns.into_iter().chain(workloads).collect::<Vec<_>>());
        for (nemesis, struck) in &self.nemeses {
            table.add_row([nemesis.clone()].into_iter().chain(self.cells(struck)));
        }
        writeln!(
            f,
            "{table}\nms: p50/max over faults. Operations: attempted/acknowledged/unknown while faults lasted."
        )?;
        for (nemesis, why) in &self.skipped {
            writeln!(f, "skipped: {nemesis}, because {why}")?;
        }
        for run in &self.runs {
            write!(
                f,
                "{}: {}, seed {}, {} s, {}",
                run.name,
                run.verdict,
                run.seed,
                run.seconds,
                run.nemeses.join(",")
            )?;
            run.found.iter().try_for_each(|what| write!(f, "\n  {what}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(number: usize) -> Run {
        let turn = Turn { nemeses: vec!["kill".into()], copies: 3, seed: number as u64 };
        Run::begun(format!("run-{number:03}"), &turn, Duration::from_secs(90))
    }

    fn wanted() -> Wanted {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let skipped = Some(("lag".into(), "it takes minutes".into()));
        Wanted { seed: 7, workloads: names(&["tasks", "order"]), nemeses: names(&["kill", "pause"]), skipped }
    }

    fn summary(verdict: &str) -> Value {
        json!({
            "verdict": verdict, "failure": null,
            "operations": { "start": { "ok": 3, "failed": 0, "maybe": 1 }, "read": { "ok": 4, "failed": 2, "maybe": 0 } },
            "faults": [
                {
                    "nemesis": "kill", "nodes": [1], "bite": "gone", "writes_back_ms": 7.5, "worst_group_ms": 900.0,
                    "operations": { "tasks": { "ok": 3, "failed": 0, "maybe": 1 }, "order": { "ok": 0, "failed": 0, "maybe": 0 } },
                },
                { "nemesis": "kill", "bite": null, "writes_back_ms": null, "worst_group_ms": 100.0, "operations": {} },
            ],
            "skipped": [["disk-full", "it takes root"]],
            "found": { "violation": { "count": 1, "first": ["lost <b>"] } },
        })
    }

    #[test]
    fn pairs_are_counted_of_runs_that_say_something() {
        let runs = [
            run(1).read(&summary("invalid")),
            run(2).read(&summary("spoiled")),
            run(3).read(&summary("skipped")),
            run(4).read(&summary("valid")),
        ];
        assert_eq!(runs[0].operations, Tally { ok: 7, failed: 2, maybe: 1 });
        assert_eq!(runs[0].found, ["violation: lost <b>"]);
        let report = Report::new(&wanted(), &runs);
        assert_eq!((report.verdict, report.seconds, report.operations.ok), (Verdict::Invalid, 180.0, 14));
        let kill = &report.nemeses["kill"];
        assert_eq!((kill.faults, kill.never_back, kill.no_write_ms.max, kill.writes_back_ms.p50), (2, 2, 900.0, 7.5));
        let pair = Pair { faults: 2, operations: Tally { ok: 6, failed: 0, maybe: 2 } };
        assert_eq!((kill.workloads["tasks"], kill.workloads.get("order")), (pair, None));
        assert_eq!((report.pairs_ran, report.pairs_wanted), (1, 4));
        let (text, page) = (report.to_string(), report.page());
        assert!(
            text.contains("8/6/2") && text.contains("skipped: disk-full") && text.contains("skipped: lag"),
            "{text}"
        );
        assert!(page.contains("lost &lt;b&gt;") && page.contains("100/900"), "{page}");
        assert_eq!(Report::new(&wanted(), &runs[2..3]).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_suite_goes_on_from_what_it_has_left() {
        let out = std::env::temp_dir().join(format!("coda-suite-{}", std::process::id()));
        fs::create_dir_all(&out).unwrap();
        assert!(Report::read(&out).is_err());
        let runs = [run(1).read(&summary("invalid")), run(2).read(&summary("valid"))];
        Report::new(&wanted(), &runs).write(&out).unwrap();
        let (seed, read) = Report::read(&out).unwrap();
        let again = Report::new(&wanted(), &read);
        assert_eq!((seed, read.len()), (7, 2));
        assert_eq!(again.to_string(), Report::new(&wanted(), &runs).to_string());
        fs::remove_dir_all(&out).unwrap();
    }
}
