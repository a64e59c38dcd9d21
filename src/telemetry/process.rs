//! What the operating system says of this process: CPU, memory, open files. Linux only; elsewhere it says nothing.

use std::fmt::Write;

use super::metrics::LOG_LINES_LEFT_OUT;

/// Clock ticks per second in `/proc`; the kernel's interface fixes it at 100 (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time since the start.
    pub cpu_seconds: f64,
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
}

/// Reads a process's usage by its id (`None`: this process).
pub fn usage(pid: Option<u32>) -> Option<Usage> {
    let directory = pid.map_or_else(|| "/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
    let stat = std::fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The command's name may hold spaces and brackets; the fields begin after its last bracket (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    let open_files = std::fs::read_dir(format!("{directory}/fd")).map_or(0, |entries| entries.count() as u64);
    Some(Usage {
        cpu_seconds: ticks / TICKS_PER_SECOND,
        resident_bytes: pages * rustix::param::page_size() as u64,
        open_files,
    })
}

/// The usage of this process as Prometheus lines. Under `up` all roles are one process and show the same.
pub fn render(role: &str) -> String {
    let (mut out, name, left_out) = (String::new(), LOG_LINES_LEFT_OUT, super::log_writer::left_out());
    let _ = write!(out, "# TYPE {name} counter\n{name}{{role=\"{role}\"}} {left_out}\n");
    let Some(usage) = usage(None) else { return out };
    let _ = write!(
        out,
        "# TYPE scoreline_process_cpu_seconds_total counter\n\
         scoreline_process_cpu_seconds_total{{role=\"{role}\"}} {}\n\
         # TYPE scoreline_process_resident_bytes gauge\n\
         scoreline_process_resident_bytes{{role=\"{role}\"}} {}\n\
         # TYPE scoreline_process_open_files gauge\n\
         scoreline_process_open_files{{role=\"{role}\"}} {}\n",
        usage.cpu_seconds, usage.resident_bytes, usage.open_files
    );
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_something() {
        let usage = super::usage(None).unwrap();
        assert!(usage.resident_bytes > 1_000_000 && usage.open_files > 2, "{usage:?}");
    }
}
