//! `scoreline simulate`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::client::{Play, play};
use crate::domain::clock::Clock;

/// Play a simulated game against an ingest.
#[derive(Args, Debug, Clone)]
pub struct SimulateConfig {
    /// Address of ingest.
    #[arg(long, env = "SCORELINE_INGEST", default_value = "http://127.0.0.1:8080")]
    pub ingest: String,
    /// A server key of the game.
    #[arg(long, env = "SCORELINE_SERVER_KEY", hide_env_values = true)]
    pub server_key: SecretString,
    /// How many players there are.
    #[arg(long, default_value_t = 100)]
    pub players: usize,
    /// Events per second in all.
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// How long to play, for example `60s`, `5m`, `1h`; until stopped when absent.
    #[arg(long = "for", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// The same seed plays the same game.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
}

/// Reads `90`, `90s`, `5m` or `1h`.
///
/// # Errors
/// Anything else.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no duration: write 60s, 5m or 1h"))?;
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        unit => return Err(format!("{unit} is no unit of time: use s, m or h")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| format!("{text} is too long"))
}

/// Plays, and says what became of it.
#[allow(clippy::print_stdout, reason = "the command's answer")]
pub async fn run(config: SimulateConfig) -> ExitCode {
    let stop = CancellationToken::new();
    let (done, duration) = (stop.clone(), config.duration);
    tokio::spawn(async move {
        let over = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        done.cancel();
    });
    let playing = Play {
        ingest: config.ingest.trim_end_matches('/').to_owned(),
        server_key: config.server_key,
        players: config.players,
        rate: config.rate,
        seed: config.seed,
    };
    let played = play(playing, Clock::system(), stop).await;
    if config.json {
        println!("{}", serde_json::json!(played));
    } else {
        println!("{} events sent, {} accepted, {} batches sent again", played.sent, played.accepted, played.again);
    }
    if played.sent == played.accepted && played.sent > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_minutes_and_hours() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
