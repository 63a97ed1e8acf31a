//! From readings to figures, and from figures to tables.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::drive::{Latencies, Measured};
use crate::run::{Reading, Setting};

/// One measurement. Names that the peers' harness has too mean the same there; `bench/README.md` explains each.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub system: &'static str,
    pub workload: String,
    pub run: u32,
    pub concurrency: usize,
    pub sync_delay: Option<String>,

    pub tasks: u64,
    pub wall_s: f64,
    pub tasks_per_s: f64,
    pub wf_per_s: f64,
    pub submit_per_s: Option<f64>,
    /// Until the result; in W6 until the body began.
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub step_p50_ms: f64,
    /// Until it was on disk.
    pub accepted_p50_ms: f64,
    pub accepted_p99_ms: f64,
    /// Until the result, in W6 too.
    pub ended_p50_ms: f64,

    pub server_cpu_s: Option<f64>,
    pub server_cpu_s_per_1k: Option<f64>,
    /// A worker in this process counts as client.
    pub worker_cpu_s: f64,
    pub client_cpu_s: f64,
    pub server_rss_mb: Option<f64>,
    pub worker_rss_mb: f64,
    pub server_write_mb: Option<f64>,

    pub entries: u64,
    pub commands: u64,
    pub leases: u64,
    pub rejects: u64,
    pub log_syncs: u64,
    pub log_bytes: u64,
    pub commands_per_entry: f64,
    pub commands_per_sync: f64,
    pub tasks_per_sync: f64,
    pub syncs_per_s: f64,
    pub log_bytes_per_task: f64,
    pub written_bytes_per_task: Option<f64>,

    /// What the disk alone did: 4 KiB appends with fdatasync per second, the mean of before and after.
    pub disk_syncs_per_s: Option<f64>,
    /// The same with as many bytes as the node wrote per sync.
    pub disk_syncs_same_size_per_s: Option<f64>,
    /// The node's syncs per second as a share of that.
    pub of_disk_limit: Option<f64>,
    /// Tasks per second for each sync per second that the disk can do.
    pub tasks_per_disk_sync: Option<f64>,

    pub core_ms: f64,
    /// Share of all cores that other processes took meanwhile.
    pub others_cpu: Option<f64>,
    pub machine_busy_s: f64,
    pub stolen_s: f64,
}

impl Figures {
    pub fn new(setting: &Setting, measured: &Measured, before: &Reading, after: &Reading) -> Self {
        let wall_s = measured.wall.as_secs_f64();
        let tasks = measured.count * setting.workload.tasks();
        let per_task = |value: f64| value / tasks.max(1) as f64;
        let counted = |of: fn(&coda_client::protocol::reply::Counters) -> u64| {
            of(&after.counters).saturating_sub(of(&before.counters))
        };
        let (entries, commands, log_syncs, log_bytes) =
            (counted(|c| c.entries), counted(|c| c.commands), counted(|c| c.log_syncs), counted(|c| c.log_bytes));
        let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;

        let node = before.node.zip(after.node);
        let server_cpu_s = node.map(|(before, after)| after.cpu_s - before.cpu_s);
        let written = node.map(|(before, after)| after.written.saturating_sub(before.written) as f64);
        let worker_cpu_s = after.workers.cpu_s - before.workers.cpu_s;
        let client_cpu_s = after.own.cpu_s - before.own.cpu_s;
        let machine_busy_s = after.machine.busy_s - before.machine.busy_s;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
        let others =
            |server: f64| ((machine_busy_s - server - worker_cpu_s - client_cpu_s) / (wall_s * cores)).max(0.0);

        let main = if measured.began.is_empty() { &measured.ended } else { &measured.began };
        let disk = setting.disk.block.map(|(before, after)| f64::midpoint(before, after));
        let syncs_per_s = log_syncs as f64 / wall_s;
        let tasks_per_s = tasks as f64 / wall_s;
        Self {
            system: "coda-rust",
            workload: setting.workload.name(),
            run: setting.round,
            concurrency: setting.concurrency,
            sync_delay: setting.sync_delay.clone(),
            tasks,
            wall_s,
            tasks_per_s,
            wf_per_s: measured.count as f64 / wall_s,
            submit_per_s: measured.submitting.map(|took| measured.count as f64 / took.as_secs_f64()),
            p50_ms: ms(main, 0.5),
            p90_ms: ms(main, 0.9),
            p99_ms: ms(main, 0.99),
            p999_ms: ms(main, 0.999),
            max_ms: ms(main, 1.0),
            step_p50_ms: ms(main, 0.5) / setting.workload.tasks() as f64,
            accepted_p50_ms: ms(&measured.accepted, 0.5),
            accepted_p99_ms: ms(&measured.accepted, 0.99),
            ended_p50_ms: ms(&measured.ended, 0.5),
            server_cpu_s,
            server_cpu_s_per_1k: server_cpu_s.map(|s| per_task(s) * 1e3),
            worker_cpu_s,
            client_cpu_s,
            server_rss_mb: after.node.map(|usage| usage.rss_peak as f64 / 1e6),
            worker_rss_mb: after.workers.rss_peak as f64 / 1e6,
            server_write_mb: written.map(|bytes| bytes / 1e6),
            entries,
            commands,
            leases: counted(|c| c.leases),
            rejects: counted(|c| c.rejects),
            log_syncs,
            log_bytes,
            commands_per_entry: ratio(commands, entries),
            commands_per_sync: ratio(commands, log_syncs),
            tasks_per_sync: ratio(tasks, log_syncs),
            syncs_per_s,
            log_bytes_per_task: per_task(log_bytes as f64),
            written_bytes_per_task: written.map(per_task),
            disk_syncs_per_s: disk,
            disk_syncs_same_size_per_s: setting.disk.same_size,
            of_disk_limit: setting.disk.same_size.map(|limit| syncs_per_s / limit),
            tasks_per_disk_sync: disk.map(|limit| tasks_per_s / limit),
            core_ms: setting.core_ms,
            others_cpu: server_cpu_s.map(others),
            machine_busy_s,
            stolen_s: after.machine.stolen_s - before.machine.stolen_s,
        }
    }
}

fn ms(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

/// What a person reads: how fast, at what cost, and against which limit.
pub fn tables(figures: &[Figures]) -> String {
    let speed = table(
        &[
            "",
            "in flight",
            "tasks/s",
            "runs/s",
            "p50 ms",
            "p90",
            "p99",
            "p99.9",
            "max",
            "accepted p50",
            "p99",
            "others' CPU",
        ],
        figures,
        |f| {
            vec![
                f.concurrency.to_string(),
                number(f.tasks_per_s),
                number(f.wf_per_s),
                number(f.p50_ms),
                number(f.p90_ms),
                number(f.p99_ms),
                number(f.p999_ms),
                number(f.max_ms),
                number(f.accepted_p50_ms),
                number(f.accepted_p99_ms),
                f.others_cpu.map_or_else(none, percent),
            ]
        },
    );
    let cost = table(
        &[
            "",
            "node CPU s/1k",
            "rest CPU s/1k",
            "node RSS MB",
            "cmds/entry",
            "cmds/sync",
            "syncs/s",
            "disk can",
            "log B/task",
            "written B/task",
            "core ms",
        ],
        figures,
        |f| {
            vec![
                f.server_cpu_s_per_1k.map_or_else(none, number),
                number((f.worker_cpu_s + f.client_cpu_s) / f.tasks.max(1) as f64 * 1e3),
                f.server_rss_mb.map_or_else(none, number),
                number(f.commands_per_entry),
                number(f.commands_per_sync),
                number(f.syncs_per_s),
                f.disk_syncs_same_size_per_s.map_or_else(none, number),
                number(f.log_bytes_per_task),
                f.written_bytes_per_task.map_or_else(none, number),
                number(f.core_ms),
            ]
        },
    );
    format!("{speed}\n\n{cost}\n")
}

fn table(head: &[&str], figures: &[Figures], row: impl Fn(&Figures) -> Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for one in figures {
        let mut cells = vec![one.workload.clone()];
        cells.extend(row(one));
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn none() -> String {
    "–".to_owned()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three digits, more or less.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_about_three_digits() {
        assert_eq!([0.1234, 1.234, 12.34, 123.4, 12345.6].map(number), ["0.123", "1.23", "12.3", "123", "12346"]);
    }
}
