//! `scoreline simulate`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::backfill::{Backfill, backfill};
use super::client::{Play, play};
use crate::cli::progress::bar;
use crate::runtime::clock;
use crate::store::games;
use crate::store::pool::Pool;
use crate::store::settings::PostgresConfig;
use crate::telemetry::redaction::redact;

/// Play a simulated game against an ingest, or store a past in which it was played.
#[derive(Args, Debug, Clone)]
pub struct SimulateConfig {
    /// Address of ingest.
    #[arg(long, env = "SCORELINE_INGEST", default_value = "http://127.0.0.1:8080")]
    pub ingest: String,
    /// A server key of the game.
    #[arg(long, env = "SCORELINE_SERVER_KEY", hide_env_values = true, required_unless_present = "backfill")]
    pub server_key: Option<SecretString>,
    /// How many players there are.
    #[arg(long, default_value_t = 100)]
    pub players: usize,
    /// Events per second in all.
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// How long to play, for example `60s`, `5m`, `1h`; until stopped when absent.
    #[arg(long = "for", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Instead of playing, store this many events of the past straight into Postgres. Leaderboards count them when they
    /// are recomputed (`scoreline recompute`).
    #[arg(long, value_name = "EVENTS", requires_all = ["database_url", "game"], conflicts_with_all = ["rate", "duration"])]
    pub backfill: Option<u64>,
    /// The game whose past it is.
    #[arg(long, requires = "backfill")]
    pub game: Option<String>,
    /// How many days of it.
    #[arg(long, default_value_t = 30)]
    pub days: u32,
    /// Postgres, for a past.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
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
    let number: u64 = digits.parse().map_err(|_| format!("invalid duration {text}: write 60s, 5m or 1h"))?;
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        unit => return Err(format!("unknown unit of time {unit}: use s, m or h")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| format!("{text} is too long"))
}

/// Plays, or stores a past, and says what became of it. Exit code 1: not everything was accepted or stored; 2: the
/// arguments do not fit together; 3: no such game.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]
pub async fn run(config: SimulateConfig) -> ExitCode {
    match (config.backfill, &config.server_key) {
        (Some(events), _) => match store_past(&config, events).await {
            Ok(game) if config.json => println!("{}", serde_json::json!({ "stored": events, "game": game })),
            Ok(game) => println!("{events} events stored; now run: scoreline recompute --game {game}"),
            Err((code, error)) => {
                eprintln!("error: {}", redact(&error));
                return ExitCode::from(code);
            }
        },
        (None, Some(key)) => return play_now(&config, key.clone()).await,
        // clap asks for one of them.
        (None, None) => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

/// Stores a past; returns the game's name, or an exit code and what went wrong.
async fn store_past(config: &SimulateConfig, events: u64) -> Result<String, (u8, String)> {
    let failed = |e: &dyn std::fmt::Display| (1, e.to_string());
    let (Some(url), Some(slug)) = (&config.database_url, &config.game) else {
        return Err((2, "--backfill needs --database-url and --game".to_owned()));
    };
    let postgres = PostgresConfig::at(url.expose_secret()).map_err(|e| failed(&e))?;
    let pool = Pool::lazy(&postgres, "cli").map_err(|e| failed(&e))?;
    let game = games::by_slug(&pool, slug).await.map_err(|e| failed(&e))?;
    let game = game.ok_or_else(|| (3, format!("there is no game '{slug}'")))?;
    let bar = bar(slug, Some(events));
    let past = Backfill {
        game: game.id,
        players: config.players,
        events,
        until: clock::system().now(),
        over: Duration::from_secs(u64::from(config.days) * 86_400),
        seed: config.seed,
    };
    let written = backfill(&pool, past, |stored| bar.set_position(stored)).await;
    bar.finish_and_clear();
    written.map_err(|e| failed(&e))?;
    Ok(slug.clone())
}

#[allow(clippy::print_stdout, reason = "the command's answer")]
async fn play_now(config: &SimulateConfig, server_key: SecretString) -> ExitCode {
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
        server_key,
        players: config.players,
        rate: config.rate,
        seed: config.seed,
    };
    let played = play(playing, clock::system(), stop).await;
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
