//! CPU seconds and memory by process, from the operating system.

use std::collections::BTreeMap;

/// What one process (with its descendants) has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system CPU seconds, those of ended children included.
    pub cpu_seconds: f64,
    /// Resident memory in MiB. Memory that the processes of a tree share (Postgres's buffers) counts once.
    pub resident_mib: f64,
}

/// What the processes of each role, Postgres and Redis used.
pub type ByProcess = BTreeMap<&'static str, Usage>;

/// Reads the usage of `pid` and all its descendants (Postgres works in children).
pub fn usage_of_tree(pid: u32) -> Usage {
    let stats = read_all();
    let mut total = Usage::default();
    let mut shared_mib: f64 = 0.0;
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        if let Some(stat) = stats.get(&pid) {
            total.cpu_seconds += stat.cpu_seconds;
        }
        if let Some(memory) = std::fs::read_to_string(format!("/proc/{pid}/status")).ok().map(|s| Memory::parse(&s)) {
            total.resident_mib += memory.own_mib;
            // Each process has touched a part of the same segment: the largest part is nearest to what is in memory.
            shared_mib = shared_mib.max(memory.shared_mib);
        }
        open.extend(stats.iter().filter(|(_, s)| s.parent == pid).map(|(child, _)| *child));
    }
    total.resident_mib += shared_mib;
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
}

/// Resident memory of one process, from `/proc/PID/status` of proc(5).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Memory {
    /// Its own pages and those of files.
    own_mib: f64,
    /// Shared memory.
    shared_mib: f64,
}

impl Memory {
    fn parse(status: &str) -> Self {
        let mib = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
            value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default() / 1024.0
        };
        Self { own_mib: mib("RssAnon:") + mib("RssFile:"), shared_mib: mib("RssShmem:") }
    }
}

/// Clock ticks a second: fixed at 100 on every Linux that matters (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

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
    Some(Stat { parent: fields.get(1)?.parse().ok()?, cpu_seconds: cpu / TICKS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_told_from_a_process_s_own() {
        let status = "Name:\tpostgres\nRssAnon:\t    2048 kB\nRssFile:\t    1024 kB\nRssShmem:\t  524288 kB\n";
        assert_eq!(Memory::parse(status), Memory { own_mib: 3.0, shared_mib: 512.0 });
        assert_eq!(Memory::parse("Name:\tgone\n"), Memory::default());
    }

    #[test]
    fn a_process_has_memory_and_its_children_count() {
        assert!(usage_of_tree(std::process::id()).resident_mib > 1.0);
    }
}
