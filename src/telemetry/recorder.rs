//! The process's metrics recorder, and what one role shows of it.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// How often recorded histogram samples are folded; without it they pile up.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// Latencies from 100 µs to 30 s.
const SECONDS: [f64; 17] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// Installs the recorder, once per process; later calls (a second role under `up`, another test) get the same one.
/// Handles that were taken before this count nothing, so call it first.
///
/// # Errors
/// Something else has installed a recorder.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Of everything the process recorded, the lines of `role`, with the `# TYPE` lines that they need.
pub fn lines_of(rendered: &str, role: &str) -> String {
    let label = format!("role=\"{role}\"");
    let mut out = String::with_capacity(rendered.len());
    let mut heading = String::new();
    for line in rendered.lines() {
        if line.starts_with('#') {
            if line.starts_with("# HELP") || !heading.starts_with("# HELP") {
                heading.clear();
            }
            heading.push_str(line);
            heading.push('\n');
        } else if line.contains(&label) {
            out.push_str(&heading);
            heading.clear();
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_shows_its_own_lines_only() {
        let all = "# TYPE a counter\na{role=\"ingest\"} 1\na{role=\"api\"} 2\n\n# TYPE b gauge\nb{role=\"api\"} 3\n";
        assert_eq!(lines_of(all, "ingest"), "# TYPE a counter\na{role=\"ingest\"} 1\n");
        assert_eq!(lines_of(all, "api"), "# TYPE a counter\na{role=\"api\"} 2\n# TYPE b gauge\nb{role=\"api\"} 3\n");
        assert_eq!(lines_of(all, "worker"), "");
    }
}
