//! `scoreline leaderboard`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::With;
use super::games::OfGame;
use super::reach::{Answer, Failure};
use super::table::table;
use crate::domain::board_text::parse_spec;
use crate::domain::clock::Micros;
use crate::services;
use crate::services::author::Author;
use crate::services::leaderboards::EditError;
use crate::store::games::Game;
use crate::store::leaderboards::{self, Applied, ApplyError, StoredLeaderboard};
use crate::store::pool::Pool;
use crate::store::{period_closing, periods};

/// `scoreline leaderboard`.
#[derive(Subcommand, Debug, Clone)]
pub enum LeaderboardCommand {
    /// Create or edit a leaderboard from a JSON file (`-`: standard input).
    Apply(Box<With<Apply>>),
    /// All leaderboards of a game.
    List(Box<With<OfGame>>),
    /// A leaderboard's definition, as `apply` takes it, and where it stands.
    Show(Box<With<Show>>),
    /// Its latest periods, and why one that is over is not closed.
    Periods(Box<With<Show>>),
    /// Delete a leaderboard; events are kept.
    Delete(Box<With<Show>>),
}

/// A leaderboard to write.
#[derive(Args, Debug, Clone)]
pub struct Apply {
    /// The definition.
    file: PathBuf,
    /// Whose.
    #[arg(long)]
    game: String,
    /// Count from the stored events only, where older ones were dropped by retention.
    #[arg(long)]
    accept_incomplete_history: bool,
}

/// A leaderboard.
#[derive(Args, Debug, Clone)]
pub struct Show {
    /// Which.
    slug: String,
    /// Whose.
    #[arg(long)]
    game: String,
}

/// Runs `scoreline leaderboard`.
pub async fn run(command: LeaderboardCommand) -> (bool, Result<Answer, Failure>) {
    match command {
        LeaderboardCommand::Apply(with) => (with.reach.json, apply(*with).await),
        LeaderboardCommand::List(with) => (with.reach.json, list(*with).await),
        LeaderboardCommand::Show(with) => (with.reach.json, show(*with).await),
        LeaderboardCommand::Periods(with) => (with.reach.json, periods(*with).await),
        LeaderboardCommand::Delete(with) => (with.reach.json, delete(*with).await),
    }
}

fn state(stored: &StoredLeaderboard) -> String {
    match &stored.building {
        None => "live".to_owned(),
        Some(building) => {
            let total = building.events_total.map_or("?".to_owned(), |t| t.to_string());
            format!("building ({} of about {total} events)", building.events_scanned)
        }
    }
}

fn as_json(stored: &StoredLeaderboard) -> serde_json::Value {
    json!({
        "definition": stored.spec, "state": if stored.building.is_some() { "building" } else { "live" },
        "readable": stored.live.is_some(), "live_generation": stored.live, "building": stored.building,
        "created_at": stored.created_at, "updated_at": stored.updated_at,
    })
}

async fn apply(with: With<Apply>) -> Result<Answer, Failure> {
    let Apply { file, game, accept_incomplete_history } = &with.what;
    let text =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|e| Failure::Input(format!("{}: {e}", file.display())))?;
    let spec = parse_spec(text.as_bytes(), None)
        .map_err(|problem| Failure::Input(format!("{} {}: {problem}", file.display(), problem.field)))?;
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, game).await?;
    let (ranking, accept) = (with.reach.ranking()?, *accept_incomplete_history);
    let written = services::leaderboards::write(&pool, &ranking, game.id, &spec, accept, &Author::COMMAND_LINE).await;
    let written = written.map_err(|error| match error {
        EditError::Definition(ApplyError::HistoryIncomplete) => {
            Failure::Refused(format!("{error} (--accept-incomplete-history)"))
        }
        EditError::NotFound => no_leaderboard(&game, spec.slug.as_str()),
        other => other.into(),
    })?;
    let (applied, stored) = (written.result, written.stored);
    if let Some(error) = written.not_opened {
        eprintln!("warning: created, but not readable yet (cron will see to it): {error}");
    }
    with.reach.directory_changed(&pool).await;
    let did = match applied {
        Applied::Created => "created",
        Applied::Recomputing => "edited; a new generation replaces the old one when it is computed",
        Applied::Shown => "edited; only how it is shown",
        Applied::Unchanged => "unchanged",
    };
    let mut value = as_json(&stored);
    value["result"] = json!(applied);
    Ok(Answer::new(&value, format!("leaderboard '{}': {did}\nstate: {}", spec.slug, state(&stored))))
}

async fn find(pool: &Pool, game: &Game, slug: &str) -> Result<StoredLeaderboard, Failure> {
    let found = services::leaderboards::find(pool, game.id, slug).await?;
    found.ok_or_else(|| no_leaderboard(game, slug))
}

fn no_leaderboard(game: &Game, slug: &str) -> Failure {
    Failure::NotFound(format!("the game '{}' has no leaderboard '{slug}'", game.slug))
}

async fn list(with: With<OfGame>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, &with.what.game).await?;
    let all = leaderboards::list(&pool, game.id).await?;
    let rows: Vec<[String; 5]> = all
        .iter()
        .map(|l| {
            let definition = &l.spec.definition;
            let operator = format!("{:?}", definition.operator).to_lowercase();
            let public = if l.spec.public { "yes" } else { "no" };
            let event_type = definition.event_type.as_str().to_owned();
            [l.spec.slug.as_str().to_owned(), event_type, operator, public.to_owned(), state(l)]
        })
        .collect();
    let text = table(["LEADERBOARD", "EVENT TYPE", "OPERATOR", "PUBLIC", "STATE"], &rows, "no leaderboards");
    Ok(Answer::new(&json!({ "leaderboards": all.iter().map(as_json).collect::<Vec<_>>() }), text))
}

async fn show(with: With<Show>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, &with.what.game).await?;
    let stored = find(&pool, &game, &with.what.slug).await?;
    let definition = serde_json::to_string_pretty(&stored.spec).unwrap_or_default();
    Ok(Answer::new(&as_json(&stored), format!("{definition}\nstate: {}", state(&stored))))
}

/// Periods that `scoreline leaderboard periods` lists.
const LATEST: i64 = 50;
/// The end of the year 9999.
const END_OF_TIME: Micros = Micros::from_seconds(253_402_300_799);

async fn periods(with: With<Show>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, &with.what.game).await?;
    let stored = find(&pool, &game, &with.what.slug).await?;
    let found = match stored.live {
        Some(live) => periods::began_before(&pool, live, END_OF_TIME, LATEST).await?,
        None => Vec::new(),
    };
    let ids: Vec<i64> = found.iter().map(|period| period.id).collect();
    let mut notes = period_closing::notes(&pool, &ids).await?;
    let (mut rows, mut listed) = (Vec::new(), Vec::new());
    for period in &found {
        let note = notes.remove(&period.id).unwrap_or_default();
        let state = if period.closed { "closed" } else { "open" };
        let ends_at = period.period.ends_at;
        rows.push([
            period.period.starts_at.to_string(),
            ends_at.map_or_else(|| "never".to_owned(), |end| end.to_string()),
            state.to_owned(),
            period.late_count.to_string(),
            note.waits_for.join(", "),
            note.closed_over.join(", "),
        ]);
        listed.push(json!({
            "id": period.id, "starts_at": period.period.starts_at, "ends_at": ends_at, "state": state,
            "entry_count": period.entry_count, "late_count": period.late_count, "closed_at": period.closed_at,
            "waits_for": note.waits_for, "closed_over": note.closed_over,
        }));
    }
    let text = table(["STARTS AT", "ENDS AT", "STATE", "LATE", "WAITS FOR", "CLOSED OVER"], &rows, "no periods");
    Ok(Answer::new(&json!({ "periods": listed }), text))
}

async fn delete(with: With<Show>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, &with.what.game).await?;
    let slug = with.what.slug.as_str();
    let deleted = services::leaderboards::delete(&pool, game.id, slug, &Author::COMMAND_LINE).await;
    deleted.map_err(|error| match error {
        EditError::NotFound => no_leaderboard(&game, slug),
        other => other.into(),
    })?;
    with.reach.directory_changed(&pool).await;
    Ok(Answer::new(&json!({ "deleted": slug }), format!("leaderboard '{slug}' is deleted")))
}
