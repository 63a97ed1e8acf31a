//! One write after the other in each data group, each as soon as the one before is answered: where answers stop, the group
//! cannot be written to.
//!
//! Each prober submits one task again and again, under the same id: a command of its group like any other, agreed on by a
//! quorum, that adds nothing to the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coda_checkers::properties as p;
use coda_client::{Client, ConnectOptions, SubmitOptions};
use coda_protocol::ids::{GroupId, SessionId, TaskId};
use coda_protocol::slots::SlotMap;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::findings::Findings;
use crate::groups::{data_groups, task_id_in};
use crate::history::History;
use crate::moment::{Moment, ms};

/// Between an answer and the next write. Shorter gaps than some of these are not seen; much more load is not wanted.
const PAUSE: Duration = Duration::from_millis(2);
/// A write that is answered so late is in the history.
const NOTED: Duration = Duration::from_millis(100);
/// A queue that nobody serves.
const QUEUE: &str = "probes";
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone)]
pub struct Probes(Arc<Mutex<BTreeMap<GroupId, Vec<Answer>>>>);

/// One write.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub asked: Moment,
    pub answered: Moment,
}

pub struct Probers {
    pub probes: Probes,
    stop: Arc<AtomicBool>,
    probing: Vec<(GroupId, JoinHandle<()>)>,
    findings: Findings,
}

impl Probers {
    pub async fn start(
        options: &ConnectOptions,
        groups: u16,
        history: &History,
        findings: &Findings,
        chance: &mut StdRng,
    ) -> anyhow::Result<Self> {
        let (probes, stop) = (Probes(Arc::default()), Arc::new(AtomicBool::new(false)));
        let slots = SlotMap::even(groups);
        let mut probing = Vec::new();
        for group in data_groups(groups) {
            let client = Client::connect(ConnectOptions { session: SessionId::random(), ..options.clone() }).await?;
            let task = task_id_in(group, &slots, chance);
            let prober = Prober {
                client,
                group,
                task,
                probes: probes.clone(),
                stop: stop.clone(),
                history: history.clone(),
                findings: findings.clone(),
            };
            probing.push((group, tokio::spawn(prober.run())));
        }
        Ok(Self { probes, stop, probing, findings: findings.clone() })
    }

    /// Stops them. One that waits for an answer gets it, or there is something wrong.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for (group, probing) in self.probing {
            if timeout(STOPS_WITHIN, probing).await.is_err() {
                let what = format!("group {group}: a write is not answered when everything is quiet");
                self.findings.violation(p::ACCEPTED_WORK_ENDS, what);
            }
        }
    }
}

struct Prober {
    client: Client,
    group: GroupId,
    task: TaskId,
    probes: Probes,
    stop: Arc<AtomicBool>,
    history: History,
    findings: Findings,
}

impl Prober {
    async fn run(self) {
        while !self.stop.load(Ordering::Relaxed) {
            let asked = Moment::now();
            let submit = SubmitOptions::new("probe").id(self.task).queue(QUEUE);
            if let Err(error) = self.client.submit(submit).await {
                let what = format!("group {}: a prober was told {error}", self.group);
                self.findings.violation(p::TROUBLE_IS_NOT_TOLD, what);
                return;
            }
            let answered = Moment::now();
            self.probes.0.lock().entry(self.group).or_default().push(Answer { asked, answered });
            if answered.since(asked) >= NOTED {
                let waited = ms(answered.since(asked));
                self.history.note("slow-probe", &json!({ "group": self.group.0, "asked": asked, "ms": waited }));
            }
            sleep(PAUSE).await;
        }
        self.client.close().await;
    }
}

impl Probes {
    /// The longest time without an answer that touches the time between the two, per group.
    pub fn gaps(&self, from: Moment, to: Moment) -> BTreeMap<GroupId, Duration> {
        let probes = self.0.lock();
        let longest = |answers: &Vec<Answer>| longest_gap(answers, from, to);
        probes.iter().map(|(group, answers)| (*group, longest(answers))).collect()
    }

    /// When the last of so many groups had acknowledged a write after that moment; none if one has not yet.
    pub fn all_answered_after(&self, since: Moment, groups: u16) -> Option<Moment> {
        let probes = self.0.lock();
        let first = |group: GroupId| {
            let answers = probes.get(&group)?;
            // Answers of one prober are in order.
            Some(answers.get(answers.partition_point(|answer| answer.answered <= since))?.answered)
        };
        let firsts: Option<Vec<Moment>> = data_groups(groups).map(first).collect();
        firsts?.into_iter().max()
    }

    /// All answers, by group.
    pub fn all(&self) -> BTreeMap<GroupId, Vec<Answer>> {
        self.0.lock().clone()
    }

    /// How long answers took that were asked for between the two.
    pub fn latencies(&self, from: Moment, to: Moment) -> Vec<f64> {
        let probes = self.0.lock();
        let asked = probes.values().flatten().filter(|answer| (from..to).contains(&answer.asked));
        asked.map(|answer| ms(answer.answered.since(answer.asked))).collect()
    }
}

fn longest_gap(answers: &[Answer], from: Moment, to: Moment) -> Duration {
    // Answers of one prober are in order.
    let first = answers.partition_point(|answer| answer.answered < from).saturating_sub(1);
    let gaps = answers[first.min(answers.len())..].windows(2).take_while(|pair| pair[0].answered < to);
    gaps.map(|pair| pair[1].answered.since(pair[0].answered)).max().unwrap_or_default()
}

/// Some numbers, summed up.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |percent: usize| all.get((all.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self {
            count: all.len(),
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            max: all.last().copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_for_every_time_that_it_touches() {
        let answers: Vec<Answer> =
            [10, 20, 70, 75].map(|at| Answer { asked: Moment(at - 1), answered: Moment(at) }).to_vec();
        let gap = |from, to| longest_gap(&answers, Moment(from), Moment(to)).as_micros();
        assert_eq!((gap(0, 100), gap(30, 40), gap(60, 71), gap(72, 90), gap(80, 90)), (50, 50, 50, 5, 0));
        assert_eq!(longest_gap(&[], Moment(0), Moment(9)), Duration::ZERO);
    }

    #[test]
    fn percentiles_are_numbers_that_were_seen() {
        let spread = Spread::of((1..=200).map(f64::from).collect());
        assert_eq!((spread.count, spread.p50, spread.p99, spread.max), (200, 100.0, 198.0, 200.0));
        assert_eq!(Spread::of(vec![3.0]).p99, 3.0);
        assert_eq!(Spread::of(Vec::new()).max, 0.0);
    }
}
