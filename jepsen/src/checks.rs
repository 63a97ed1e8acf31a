//! What must hold when all is quiet.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use coda_checkers::properties as p;
use coda_protocol::ids::GroupId;
use coda_protocol::operate::{ClusterReport, ReplicaDigest};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::findings::Findings;
use crate::operations::{Ending, Operation};
use crate::operator::{Operator, leads};

/// Copies that are behind come along within it.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// No node leads so many more groups than another.
const SPREAD_MAX: usize = 1;
/// What no healthy node logs.
const ALARMS: [&str; 2] = ["panicked at", " ERROR "];
const ALARMS_SHOWN_MAX: usize = 5;

/// What a node came to.
#[derive(Clone, Debug, Serialize)]
pub struct NodeFigures {
    pub node: u64,
    pub starts: usize,
    pub disk_bytes: u64,
    /// Since its last start.
    pub log_syncs: u64,
    pub log_bytes: u64,
    pub entries: u64,
    pub commands: u64,
}

/// All copies of all groups, equal at one index.
pub async fn equal_copies(
    operator: &Operator,
    groups: u16,
    findings: &Findings,
) -> anyhow::Result<BTreeMap<u32, (u64, u64)>> {
    let mut digests = BTreeMap::new();
    for group in (0..=u32::from(groups)).map(GroupId) {
        let deadline = Instant::now() + EQUAL_WITHIN;
        loop {
            let copies = operator.verify(group).await?;
            if let Some(digest) = equal(&copies) {
                digests.insert(group.0, digest);
                break;
            }
            // The same entries and not the same state: that does not pass.
            if diverged(&copies) || Instant::now() >= deadline {
                findings
                    .violation(p::COPIES_ARE_EQUAL, format!("the copies of group {group} are not equal: {copies:?}"));
                break;
            }
            sleep(LOOK_AGAIN).await;
        }
    }
    Ok(digests)
}

fn equal(copies: &[ReplicaDigest]) -> Option<(u64, u64)> {
    let first = copies.first()?.digest.clone().ok()?;
    copies.iter().all(|copy| copy.digest.as_ref() == Ok(&first)).then_some(first)
}

fn diverged(copies: &[ReplicaDigest]) -> bool {
    let mut known = BTreeMap::new();
    let digests = copies.iter().filter_map(|copy| copy.digest.as_ref().ok());
    digests.into_iter().any(|(index, digest)| known.insert(index, digest).is_some_and(|other| other != digest))
}

/// Leaders are spread over the nodes; how many each has.
pub fn leader_spread(report: &ClusterReport, findings: &Findings) -> BTreeMap<u64, usize> {
    let spread: BTreeMap<u64, usize> = leads(report).into_iter().map(|(node, groups)| (node, groups.len())).collect();
    let (most, least) = (spread.values().max().copied(), spread.values().min().copied());
    if most.unwrap_or_default() - least.unwrap_or_default() > SPREAD_MAX {
        findings.violation(p::WELL_AGAIN_IN_TIME, format!("leaders are not spread: {spread:?}"));
    }
    spread
}

/// What a node says in this time, because of what was done to it, is no alarm.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    node: u64,
    /// Bytes of what it has said.
    from: u64,
    to: u64,
}

impl Excuse {
    pub fn begin(cluster: &Cluster, node: u64) -> Option<Self> {
        let from = said(cluster.folder(node).ok()?);
        Some(Self { node, from, to: u64::MAX })
    }

    pub fn end(self, cluster: &Cluster) -> Self {
        let to = cluster.folder(self.node).map_or(u64::MAX, said);
        Self { to, ..self }
    }
}

fn said(folder: &Path) -> u64 {
    fs::metadata(folder.join("node.err")).map_or(0, |file| file.len())
}

/// Nodes complain of nothing that should not be.
pub fn logs(cluster: &Cluster, excuses: &[Excuse], findings: &Findings) {
    for (node, folder) in cluster.folders() {
        let said = fs::read(folder.join("node.err")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let mut at = 0;
        let mut alarms = Vec::new();
        for line in said.split_inclusive('\n') {
            let is_excused = |excuse: &Excuse| excuse.node == node && (excuse.from..excuse.to).contains(&at);
            if ALARMS.iter().any(|alarm| line.contains(alarm)) && !excuses.iter().any(is_excused) {
                alarms.push(line.trim_end().to_owned());
            }
            at += line.len() as u64;
        }
        for line in alarms.into_iter().take(ALARMS_SHOWN_MAX) {
            findings.violation(p::NODES_STAY_UP, format!("node {node} says: {line}"));
        }
    }
}

/// Enough was acknowledged while things went wrong.
pub fn coverage(operations: &[Operation], lasted: Duration, per_second_min: f64, findings: &Findings) {
    let ok = operations.iter().filter(|operation| operation.ending == Ending::Ok).count();
    let per_second = ok as f64 / lasted.as_secs_f64().max(1.0);
    if per_second < per_second_min {
        findings.uncovered(format!(
            "{ok} operations were acknowledged, {per_second:.1} per second; {per_second_min} are the least"
        ));
    }
}

/// What each node that ever was has come to; counters of those that are there.
pub fn node_figures(cluster: &Cluster, report: &ClusterReport) -> Vec<NodeFigures> {
    let figures = |(node, folder): (u64, &Path)| {
        let counters = report.node(coda_protocol::ids::NodeId(node)).map(|node| node.counters).unwrap_or_default();
        let said = fs::read_to_string(folder.join("node.out")).unwrap_or_default();
        NodeFigures {
            node,
            starts: said.matches("coda is ready on ").count(),
            disk_bytes: size(&folder.join("data")),
            log_syncs: counters.log_syncs,
            log_bytes: counters.log_bytes,
            entries: counters.entries,
            commands: counters.commands,
        }
    };
    cluster.folders().map(figures).collect()
}

fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.metadata().map_or(0, |file| if file.is_dir() { size(&entry.path()) } else { file.len() }))
        .sum()
}

#[cfg(test)]
mod tests {
    use coda_protocol::ids::NodeId;

    use super::*;
    use crate::findings::Sort;
    use crate::history::History;
    use crate::moment::Moment;

    fn findings(of: &str) -> Findings {
        let path = std::env::temp_dir().join(format!("coda-jepsen-{}-{of}", std::process::id()));
        let findings = Findings::new(History::create(&path).unwrap());
        fs::remove_file(path).unwrap();
        findings
    }

    #[test]
    fn too_few_acknowledged_operations_are_no_coverage_and_others_do_not_count() {
        let one = |ending| Operation { workload: "tasks", what: "start", asked: Moment(0), ended: Moment(1), ending };
        let many = |ok: usize, maybe: usize| [vec![one(Ending::Ok); ok], vec![one(Ending::Maybe); maybe]].concat();
        let found = |operations: &[Operation]| {
            let findings = findings(&operations.len().to_string());
            coverage(operations, Duration::from_secs(10), 5.0, &findings);
            findings.all().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(found(&many(50, 0)), []);
        assert_eq!(found(&many(49, 1_000)), [Sort::Coverage]);
        assert_eq!(found(&[]), [Sort::Coverage]);
    }

    fn copies(digests: &[(u64, u64)]) -> Vec<ReplicaDigest> {
        let copy =
            |(i, digest): (usize, &(u64, u64))| ReplicaDigest { node: NodeId(i as u64 + 1), digest: Ok(*digest) };
        digests.iter().enumerate().map(copy).collect()
    }

    #[test]
    fn copies_are_compared_at_one_index() {
        assert_eq!(equal(&copies(&[(7, 1), (7, 1), (7, 1)])), Some((7, 1)));
        let behind = copies(&[(7, 1), (6, 2)]);
        assert_eq!((equal(&behind), diverged(&behind)), (None, false));
        let apart = copies(&[(7, 1), (6, 2), (7, 3)]);
        assert_eq!((equal(&apart), diverged(&apart)), (None, true));
        let gone = [copies(&[(7, 1)]), vec![ReplicaDigest { node: NodeId(2), digest: Err("gone".into()) }]].concat();
        assert_eq!((equal(&gone), diverged(&gone)), (None, false));
    }
}
