//! What the kernel says a server process used: CPU time and memory, from `/proc`.
//!
//! Promises: CPU time is user + system time of all threads, in microseconds, to the 10 ms that
//! the kernel reports; memory is resident bytes. A process that is gone reads as nothing.
//!
//! Not here: when it is sampled (`runner`). Linux only; elsewhere everything reads as nothing.

use std::{collections::BTreeMap, fs};

/// `/proc` counts CPU time in ticks of 1/100 s on every architecture that Larder runs on
/// (`USER_HZ`, proc_pid_stat(5)).
const TICK_US: u64 = 10_000;

/// A server process, with or without its children.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// The process.
    pub(super) pid: u32,
    /// Whether its living descendants count too.
    pub(super) tree: bool,
}

/// What a watched process used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// User and system time, microseconds.
    pub(super) cpu_us: u64,
    /// Resident now, bytes.
    pub(super) rss: u64,
    /// Most ever resident (`VmHWM`, summed over processes), bytes.
    pub(super) peak: u64,
}

/// Parent and CPU time out of `/proc/PID/stat`. The command may hold spaces and parentheses, so
/// fields are counted from its last one.
fn parse_stat(text: &str) -> Option<(u32, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((parent, (user + system) * TICK_US))
}

/// A `Name:   123 kB` line of `/proc/PID/status`, in bytes.
fn parse_status(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn usage_of(pid: u32) -> Option<Usage> {
    let (_, cpu_us) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss = parse_status(&status, "VmRSS");
    Some(Usage { cpu_us, rss, peak: parse_status(&status, "VmHWM") })
}

/// `pid` and all its living descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        if let Some((parent, _)) = parse_stat(&stat) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&next) = all.get(at) {
        all.extend(children.remove(&next).unwrap_or_default());
        at += 1;
    }
    all
}

impl Watch {
    /// What it used so far; `None` when it does not exist.
    pub(super) fn sample(&self) -> Option<Usage> {
        if !self.tree {
            return usage_of(self.pid);
        }
        let mut sum = usage_of(self.pid)?;
        for child in family(self.pid).into_iter().skip(1) {
            let usage = usage_of(child).unwrap_or_default();
            sum.cpu_us += usage.cpu_us;
            sum.rss += usage.rss;
            sum.peak += usage.peak;
        }
        Some(sum)
    }
}

/// CPU time of this very process, microseconds.
pub(super) fn own_cpu_us() -> u64 {
    usage_of(std::process::id()).unwrap_or_default().cpu_us
}

/// The machine in one line: processors, kernel, load.
pub(super) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split_ascii_whitespace().next().unwrap_or("?");
    format!("{cpus} x {model}, kernel {}, load {load} at the start", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_hostile_command_name() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 1 0 5 6 7";
        assert_eq!(parse_stat(stat), Some((7, 200 * TICK_US)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn status_lines_are_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse_status(text, "VmHWM"), 2 << 20);
        assert_eq!(parse_status(text, "VmSwap"), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_and_its_children_are_seen() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let watch = Watch { pid: std::process::id(), tree: true };
        assert!(family(watch.pid).contains(&child.id()));
        let usage = watch.sample().unwrap();
        assert!(usage.rss > 0 && usage.peak >= usage.rss / 2);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Watch { pid: u32::MAX, tree: true }.sample(), None);
    }
}
