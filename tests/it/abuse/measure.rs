//! What a process tells of itself, and what the operating system tells of it.

use std::net::SocketAddr;

use crate::support::http::get;

/// The sum of a metric's lines that begin so.
pub async fn metric(operations: SocketAddr, beginning: &str) -> f64 {
    let (_, text) = get(operations, "/metrics").await;
    let values = text.lines().filter(|line| line.starts_with(beginning)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

/// The most memory a process has had resident so far, in KiB.
pub fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
