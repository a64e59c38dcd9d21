//! Log lines: JSON (or text for people) on standard error, each passed through [`super::redaction`] and written by
//! [`super::log_writer`].

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_writer::LogWriter;
use super::redaction::redact;
use super::settings::{LogFormat, TelemetryConfig};
use crate::domain::clock::{Clock, Micros};

/// How long a process that ends waits for whoever reads its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `LOG` does not parse.
    #[error("LOG is not a list of filter directives: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else has set up logs in this process.
    #[error("logs were set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// There is no thread that could write them.
    #[error("no thread for the logs: {0}")]
    Thread(#[from] io::Error),
}

/// The process's writer, once logs are set up.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Hands each event over as one line, so that lines of several threads do not mix.
struct Redacted(LogWriter);

impl Write for Redacted {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(redact(&String::from_utf8_lossy(line)).as_bytes().to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Redacted {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self(self.0.clone())
    }
}

/// Standard error without its lock: nobody but the writer's thread is to wait for it.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, when it is dropped, for the last lines to be written; not for ever.
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct LastLines;

impl Drop for LastLines {
    fn drop(&mut self) {
        if let Some(writer) = WRITER.get() {
            writer.flush(LAST_LINES);
        }
    }
}

/// Sets up the process's logs; call it once, first, and keep what it returns to the end. `clock` tells when lines were
/// left out.
///
/// # Errors
/// [`LogError`].
pub fn init(config: &TelemetryConfig, clock: Clock) -> Result<LastLines, LogError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let registry = tracing_subscriber::registry().with(filter);
    let format = config.log_format;
    let writer = LogWriter::start(StandardError, move |count| left_out_line(format, count, clock.now()))?;
    let layer = tracing_subscriber::fmt::layer().with_writer(Redacted(writer.clone()));
    match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
        LogFormat::Text => registry.with(layer.with_ansi(false).with_target(false)).try_init()?,
    }
    let _ = WRITER.set(writer);
    // A panic is a log record like all others: one line, without secrets. Whoever catches it need not log it.
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("not told");
        let location = panic.location().map(ToString::to_string);
        tracing::error!(reason, location, "a task panicked");
    }));
    Ok(LastLines)
}

/// Says something to whoever started the process, in its own words and not as a log record; without secrets.
#[allow(clippy::print_stderr, reason = "logs may not be set up yet, and whoever started this reads standard error")]
pub fn say(text: &str) {
    let text = redact(text);
    match WRITER.get() {
        Some(writer) => writer.line(format!("{text}\n").into_bytes()),
        None => eprintln!("{text}"),
    }
}

fn left_out_line(format: LogFormat, count: u64, now: Micros) -> Vec<u8> {
    let message = "log lines were left out: nobody read them in time";
    match format {
        LogFormat::Text => format!("{now}  WARN {message} left_out={count}\n").into_bytes(),
        LogFormat::Json => {
            let line = serde_json::json!({
                "timestamp": now, "level": "WARN", "message": message, "left_out": count, "target": module_path!(),
            });
            format!("{line}\n").into_bytes()
        }
    }
}
