//! Log lines: JSON (or text for people) on standard error, each passed through [`super::redaction`].

use std::io::{self, Write};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::redaction::redact;
use crate::config::{LogFormat, TelemetryConfig};

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `LOG` does not parse.
    #[error("LOG is no list of filter directives: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else has set up logs in this process.
    #[error("logs were set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Writes each event with one call, so that lines of several threads do not mix.
struct Redacted;

impl Write for Redacted {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().lock().write_all(redact(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Redacted {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// Sets up the process's logs; call it once, first.
///
/// # Errors
/// [`LogError`].
pub fn init(config: &TelemetryConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(|| Redacted);
    match config.log_format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
        LogFormat::Text => registry.with(layer.with_ansi(false).with_target(false)).try_init()?,
    }
    // A panic is a log record like all others: one line, without secrets. Whoever catches it need not log it.
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("not told");
        let location = panic.location().map(ToString::to_string);
        tracing::error!(reason, location, "a task panicked");
    }));
    Ok(())
}
