//! What the kernel counted: CPU, memory and bytes written of a process, and how busy the machine was besides.

use std::time::Instant;

/// Totals of one process, or of several together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_s: f64,
    /// Sent to the disk, as the kernel accounts it when pages are dirtied.
    pub written: u64,
    /// Most memory ever resident.
    pub rss_peak: u64,
}

/// Memory of one process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident: u64,
    pub anonymous: u64,
    pub file: u64,
    pub peak: u64,
}

/// The whole machine, all cores together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    pub busy_s: f64,
    /// Taken by the host for other guests.
    pub stolen_s: f64,
}

/// `None` where /proc has no such process, or is not Linux's.
pub fn usage(pid: u32) -> Option<Usage> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    // The name may contain spaces; what follows its bracket starts with field 3. utime and stime are 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Usage {
        cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        written: read("io").and_then(|text| number_after(&text, "\nwrite_bytes:")).unwrap_or(0),
        rss_peak: read("status").and_then(|text| number_after(&text, "\nVmHWM:")).unwrap_or(0) * 1024,
    })
}

/// As [`usage`].
pub fn memory(pid: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| number_after(&status, name).map(|kib| kib * 1024);
    Some(Memory {
        resident: bytes("\nVmRSS:")?,
        anonymous: bytes("\nRssAnon:")?,
        file: bytes("\nRssFile:")?,
        peak: bytes("\nVmHWM:")?,
    })
}

pub fn usage_of_all(pids: &[u32]) -> Usage {
    pids.iter().filter_map(|pid| usage(*pid)).fold(Usage::default(), |all, one| Usage {
        cpu_s: all.cpu_s + one.cpu_s,
        written: all.written + one.written,
        rss_peak: all.rss_peak + one.rss_peak,
    })
}

pub fn machine() -> Machine {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let seconds = |fields: &[usize]| {
        let ticks: u64 = fields.iter().filter_map(|field| ticks.get(*field)).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    };
    // user, nice, system, irq, softirq; stolen.
    Machine { busy_s: seconds(&[0, 1, 2, 5, 6]), stolen_s: seconds(&[7]) }
}

/// Milliseconds of a fixed amount of arithmetic on one core: a shared host may give half of it a minute later.
pub fn core_ms() -> f64 {
    let once = || {
        let started = Instant::now();
        let mut x = 1_u64;
        for i in 0..10_000_000_u64 {
            x = (x ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        std::hint::black_box(x);
        started.elapsed().as_secs_f64() * 1e3
    };
    (0..3).map(|_| once()).fold(f64::MAX, f64::min)
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        core_ms();
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.cpu_s > 0.0 && usage.rss_peak > 1 << 20);
        assert!(machine().busy_s > usage.cpu_s);
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident >= memory.anonymous && memory.peak >= memory.anonymous);
    }
}
