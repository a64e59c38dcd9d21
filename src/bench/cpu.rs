//! CPU seconds and memory by process, from the operating system.

use std::collections::BTreeMap;

/// What one process (with its descendants) has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system CPU seconds, those of ended children included.
    pub cpu_seconds: f64,
    /// Resident memory in MiB.
    pub resident_mib: f64,
}

/// What the processes of each role, Postgres and Redis used.
pub type ByProcess = BTreeMap<&'static str, Usage>;

/// Reads the usage of `pid` and all its descendants (Postgres works in children).
pub fn usage_of_tree(pid: u32) -> Usage {
    let stats = read_all();
    let mut total = Usage::default();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        if let Some(stat) = stats.get(&pid) {
            total.cpu_seconds += stat.cpu_seconds;
            total.resident_mib += stat.resident_mib;
        }
        open.extend(stats.iter().filter(|(_, s)| s.parent == pid).map(|(child, _)| *child));
    }
    total
}

/// What each used between two looks; memory as at the later one.
pub fn difference(after: &ByProcess, before: &ByProcess) -> ByProcess {
    after
        .iter()
        .map(|(name, now)| {
            let then = before.get(name).copied().unwrap_or_default();
            (*name, Usage { cpu_seconds: now.cpu_seconds - then.cpu_seconds, resident_mib: now.resident_mib })
        })
        .collect()
}

#[derive(Debug)]
struct Stat {
    parent: u32,
    cpu_seconds: f64,
    resident_mib: f64,
}

/// Clock ticks a second: fixed at 100 on every Linux that matters (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;
const PAGES_PER_MIB: f64 = 256.0;

fn read_all() -> BTreeMap<u32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, read_stat(pid)?))
        })
        .collect()
}

fn read_stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may contain spaces and parentheses; fields are counted from the last one.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    // utime, stime, cutime, cstime are fields 14 to 17 of proc(5), counted from 1 with pid and comm.
    let cpu = ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        cpu_seconds: cpu / TICKS,
        resident_mib: ticks(21)? / PAGES_PER_MIB,
    })
}
