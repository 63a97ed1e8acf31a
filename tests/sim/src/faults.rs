//! Brings about what a plan says, and takes it back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use coda_client::{Admin, Client, ConnectOptions};
use coda_protocol::ids::{GroupId, NodeId};

use crate::plan::{Fault, Plan, Planned};
use crate::stage::Stage;

/// Less than what a node keeps in reserve.
const NEARLY_FULL_BYTES: u64 = 64 << 20;
const OPERATOR_PATIENCE: Duration = Duration::from_secs(5);

/// What is to come, and what is to be taken back.
pub struct Faults {
    to_come: Vec<Planned>,
    lasting: Vec<(Duration, Fault)>,
    /// How often each way is cut: faults overlap.
    cuts: BTreeMap<(IpAddr, IpAddr), u32>,
    began: Duration,
    next_checkpoints: Duration,
    /// How many of each kind there were.
    pub counts: BTreeMap<&'static str, u32>,
}

impl Faults {
    /// The plan begins now.
    #[must_use]
    pub fn new(plan: &Plan, now: Duration) -> Self {
        let mut to_come = plan.faults.clone();
        to_come.reverse();
        Self {
            to_come,
            lasting: Vec::new(),
            cuts: BTreeMap::new(),
            began: now,
            next_checkpoints: now,
            counts: BTreeMap::new(),
        }
    }

    /// To be called after every tick.
    pub fn step(&mut self, stage: &mut Stage) {
        let now = stage.world.now();
        if let Some(every) = stage.plan.checkpoints_every
            && now >= self.next_checkpoints
        {
            self.next_checkpoints = now + every;
            (1..=stage.plan.nodes).for_each(|node| stage.checkpoint(node));
        }
        while self.to_come.last().is_some_and(|next| self.began + next.at <= now) {
            let Some(Planned { number, lasts, fault, .. }) = self.to_come.pop() else { return };
            stage.world.trace.event(now, format_args!("fault #{number} {fault:?} for {lasts:?}"));
            *self.counts.entry(fault.name()).or_default() += 1;
            self.begin(stage, &fault);
            self.lasting.push((now + lasts, fault));
        }
        let mut at = 0;
        while at < self.lasting.len() {
            if self.lasting[at].0 > now {
                at += 1;
                continue;
            }
            let (_, fault) = self.lasting.remove(at);
            stage.world.trace.event(now, format_args!("over: {fault:?}"));
            self.end(stage, &fault);
        }
    }

    /// Everything is taken back, and nothing more comes.
    pub fn stop(&mut self, stage: &mut Stage) {
        self.to_come.clear();
        for (_, fault) in std::mem::take(&mut self.lasting) {
            self.end(stage, &fault);
        }
        self.cuts.clear();
        stage.world.net.heal();
    }

    fn begin(&mut self, stage: &mut Stage, fault: &Fault) {
        match fault {
            Fault::PowerCut(nodes) => nodes.iter().for_each(|node| stage.power_cut(*node)),
            Fault::Kill(node) => stage.kill(*node),
            Fault::Restart(node) => stage.cluster.stop(*node),
            Fault::Pause(node) => stage.node_host(*node).pause(),
            Fault::PauseWorker(worker) => stage.worker_host(*worker).pause(),
            Fault::KillWorker(worker) => stage.kill_worker(*worker),
            Fault::Partition(_)
            | Fault::Split(_)
            | Fault::Deaf(_)
            | Fault::Mute(_)
            | Fault::Bridge { .. }
            | Fault::Unreachable(_)
            | Fault::Estranged { .. } => self.cut(stage, &ways(stage, fault)),
            Fault::BadWays(node, quality) => {
                let me = stage.node_ip(*node);
                for other in stage.all_ips().into_iter().filter(|other| *other != me) {
                    stage.world.net.set_way(me, other, *quality);
                    stage.world.net.set_way(other, me, *quality);
                }
            }
            Fault::Jump { node, ms } => stage.node_host(*node).jump(*ms),
            Fault::Drift { node, parts } => stage.node_host(*node).set_drift(*parts),
            Fault::Transfer { group, to } => {
                let (group, to) = (GroupId(*group), NodeId(u64::from(*to)));
                stage.operate(move |admin| async move { drop(admin.transfer_leader(group, Some(to)).await) });
            }
            Fault::Drain(node) => {
                let node = NodeId(u64::from(*node));
                stage.operate(move |admin| async move { drop(admin.drain(node).await) });
            }
            Fault::Checkpoint(node) => stage.checkpoint(*node),
            Fault::CheckpointAll => (1..=stage.plan.nodes).for_each(|node| stage.checkpoint(node)),
            Fault::SlowDisk { node, ms } => stage.set_sync_ms(*node, (*ms, 2 * *ms)),
            Fault::HungDisk(node) => stage.cluster.change_disk(*node, |disk| disk.hangs = true),
            Fault::FailedSync(node) => stage.cluster.change_disk(*node, |disk| disk.fails = true),
            Fault::FullDisk(node) => stage.cluster.change_disk(*node, |disk| disk.room = Some(NEARLY_FULL_BYTES)),
        }
    }

    fn end(&mut self, stage: &mut Stage, fault: &Fault) {
        match fault {
            Fault::PowerCut(nodes) => nodes.iter().for_each(|node| stage.go(*node)),
            Fault::Kill(node) | Fault::Restart(node) => stage.go(*node),
            Fault::Pause(node) => stage.node_host(*node).resume(),
            Fault::PauseWorker(worker) => stage.worker_host(*worker).resume(),
            Fault::KillWorker(worker) => stage.start_worker(*worker),
            Fault::Partition(_)
            | Fault::Split(_)
            | Fault::Deaf(_)
            | Fault::Mute(_)
            | Fault::Bridge { .. }
            | Fault::Unreachable(_)
            | Fault::Estranged { .. } => self.mend(stage, &ways(stage, fault)),
            Fault::BadWays(node, _) => {
                let me = stage.node_ip(*node);
                for other in stage.all_ips() {
                    stage.world.net.restore_way(me, other);
                    stage.world.net.restore_way(other, me);
                }
            }
            Fault::Jump { node, .. } => stage.node_host(*node).set_wall_clock(),
            Fault::Drift { node, .. } => stage.node_host(*node).set_drift(0),
            Fault::Drain(node) => {
                let node = NodeId(u64::from(*node));
                stage.operate(move |admin| async move {
                    // If it fails, the operator sees it when all is over.
                    drop(admin.undrain(node).await);
                });
            }
            Fault::Transfer { .. } | Fault::Checkpoint(_) | Fault::CheckpointAll => {}
            Fault::SlowDisk { node, .. } => stage.set_sync_ms(*node, stage.plan.sync_ms),
            Fault::HungDisk(node) => stage.cluster.change_disk(*node, |disk| disk.hangs = false),
            Fault::FailedSync(node) => {
                stage.cluster.change_disk(*node, |disk| disk.fails = false);
                // Whoever looks after a node starts it again once it has given up; a disk that failed is not believed.
                stage.kill(*node);
                stage.go(*node);
            }
            Fault::FullDisk(node) => stage.cluster.change_disk(*node, |disk| disk.room = None),
        }
    }

    fn cut(&mut self, stage: &Stage, ways: &[(IpAddr, IpAddr)]) {
        for way in ways {
            *self.cuts.entry(*way).or_default() += 1;
            stage.world.net.cut(way.0, way.1);
        }
    }

    fn mend(&mut self, stage: &Stage, ways: &[(IpAddr, IpAddr)]) {
        for way in ways {
            let Some(count) = self.cuts.get_mut(way) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                stage.world.net.mend(way.0, way.1);
            }
        }
    }
}

/// What a fault cuts.
fn ways(stage: &Stage, fault: &Fault) -> Vec<(IpAddr, IpAddr)> {
    let ips = |nodes: &[u8]| nodes.iter().map(|node| stage.node_ip(*node)).collect::<Vec<_>>();
    let others = |nodes: &[u8]| ips(&(1..=stage.plan.nodes).filter(|node| !nodes.contains(node)).collect::<Vec<_>>());
    let from_to = |from: &[IpAddr], to: &[IpAddr]| {
        from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))).collect::<Vec<_>>()
    };
    let both = |one: &[IpAddr], other: &[IpAddr]| [from_to(one, other), from_to(other, one)].concat();
    match fault {
        Fault::Split(nodes) => {
            let users = stage.user_ips();
            let every_other = |first: usize| users.iter().skip(first).step_by(2).copied().collect::<Vec<_>>();
            let (here, there) = (ips(nodes), others(nodes));
            [both(&here, &there), both(&here, &every_other(0)), both(&there, &every_other(1))].concat()
        }
        Fault::Partition(nodes) => both(&ips(nodes), &others(nodes)),
        Fault::Deaf(nodes) => from_to(&others(nodes), &ips(nodes)),
        Fault::Mute(nodes) => from_to(&ips(nodes), &others(nodes)),
        Fault::Bridge { left, right, .. } => both(&ips(left), &ips(right)),
        Fault::Unreachable(node) => both(&[stage.node_ip(*node)], &stage.user_ips()),
        Fault::Estranged { node, user } => both(&[stage.node_ip(*node)], &[stage.user_ips()[usize::from(*user)]]),
        _ => Vec::new(),
    }
}

/// Asks something as an operator, with a connection of its own.
pub async fn operate<F: Future<Output = ()>>(options: ConnectOptions, what: impl FnOnce(Admin) -> F) {
    let Ok(client) = Client::connect(options).await else { return };
    what(Admin::new(client.link().clone(), OPERATOR_PATIENCE)).await;
    client.close().await;
}
