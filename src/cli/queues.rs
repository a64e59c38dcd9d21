//! `scoreline queue` and `scoreline dead-letters`.

use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use super::With;
use super::boards::Nothing;
use super::reach::{Answer, Failure, QUEUE};
use super::table::table;
use crate::domain::ids::GameId;
use crate::services::dead_letters::{discard, replay};
use crate::services::queues::{self, QueueReport};
use crate::store::audit_log::Actor;
use crate::store::dead_letters::{self, DeadLetterFilter};
use crate::store::games;
use crate::store::pool::Pool;

/// Dead letters that are decided in one transaction.
const CHUNK: usize = 500;

/// `scoreline queue`.
#[derive(Subcommand, Debug, Clone)]
pub enum QueueCommand {
    /// Depth per lane, oldest age, workers and totals.
    Status(Box<With<Nothing>>),
    /// Hold a queue: workers finish what they have and take nothing new; ingest goes on.
    Pause(Box<With<Named>>),
    /// Let workers go on.
    Resume(Box<With<Named>>),
}

/// A queue.
#[derive(Args, Debug, Clone)]
pub struct Named {
    /// Which (`queue status`).
    name: String,
}

/// Runs `scoreline queue`.
pub async fn run_queue(command: QueueCommand) -> (bool, Result<Answer, Failure>) {
    match command {
        QueueCommand::Status(with) => (with.reach.json, status(*with).await),
        QueueCommand::Pause(with) => (with.reach.json, hold(*with, true).await),
        QueueCommand::Resume(with) => (with.reach.json, hold(*with, false).await),
    }
}

async fn status(with: With<Nothing>) -> Result<Answer, Failure> {
    let status = with.reach.queue()?.status().await?;
    let mut rows: Vec<[String; 3]> = status
        .lanes
        .iter()
        .map(|l| [l.lane.name().to_owned(), l.waiting.to_string(), format!("{:.1} s", status.oldest_seconds(l.lane))])
        .collect();
    let others =
        [("running", status.held()), ("suspect", status.suspect), ("delayed", status.delayed), ("dead", status.dead)];
    rows.extend(others.map(|(name, count)| [name.to_owned(), count.to_string(), String::new()]));
    let paused = if status.paused { " (paused)" } else { "" };
    let workers = status.workers.len();
    let mut text =
        format!("queue {QUEUE}{paused}, {workers} workers\n{}", table(["LANE", "JOBS", "OLDEST"], &rows, ""));
    for blocked in &status.blocked {
        text.push_str(&format!("\nblocked: game {}, job {}: {}", blocked.game, blocked.job, blocked.error));
    }
    Ok(Answer::new(&json!({ "queues": [QueueReport::new(QUEUE, status)] }), text))
}

async fn hold(with: With<Named>, paused: bool) -> Result<Answer, Failure> {
    let name = with.what.name.as_str();
    if name != QUEUE {
        return Err(Failure::NotFound(format!("there is no queue '{name}'; there is '{QUEUE}'")));
    }
    let (queue, pool) = (with.reach.queue()?, with.reach.pool()?);
    queues::hold(&pool, &queue, name, paused, Actor::CommandLine).await?;
    let text = format!("queue {name} {}", if paused { "is paused" } else { "goes on" });
    Ok(Answer::new(&json!({ "queue": name, "paused": paused }), text))
}

/// `scoreline dead-letters`.
#[derive(Subcommand, Debug, Clone)]
pub enum DeadLettersCommand {
    /// Those that wait for a decision, the oldest first.
    List(Box<With<Filter>>),
    /// One, with its job.
    Show(Box<With<One>>),
    /// Put some back into the queue.
    Replay(Box<With<Decided>>),
    /// Give some up for good.
    Discard(Box<With<Decided>>),
}

/// Which dead letters.
#[derive(Args, Debug, Clone)]
pub struct Filter {
    /// Of one game.
    #[arg(long)]
    game: Option<String>,
    /// Of one kind of job.
    #[arg(long)]
    kind: Option<String>,
    /// With one reason.
    #[arg(long)]
    reason: Option<String>,
    /// `waiting`, `replayed` or `discarded`.
    #[arg(long, default_value = "waiting")]
    state: String,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: i64,
}

/// A dead letter.
#[derive(Args, Debug, Clone)]
pub struct One {
    /// Its id.
    id: Uuid,
}

/// Dead letters by id, or all that pass a filter.
#[derive(Args, Debug, Clone)]
pub struct Decided {
    /// Their ids.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<Uuid>,
    /// All that wait (and pass the filters).
    #[arg(long)]
    all: bool,
    /// With --all: of one game.
    #[arg(long, requires = "all")]
    game: Option<String>,
    /// With --all: of one kind of job.
    #[arg(long, requires = "all")]
    kind: Option<String>,
    /// With --all: with one reason.
    #[arg(long, requires = "all")]
    reason: Option<String>,
}

/// Runs `scoreline dead-letters`.
pub async fn run_dead_letters(command: DeadLettersCommand) -> (bool, Result<Answer, Failure>) {
    match command {
        DeadLettersCommand::List(with) => (with.reach.json, list(*with).await),
        DeadLettersCommand::Show(with) => (with.reach.json, show(*with).await),
        DeadLettersCommand::Replay(with) => (with.reach.json, decide(*with, true).await),
        DeadLettersCommand::Discard(with) => (with.reach.json, decide(*with, false).await),
    }
}

async fn game_id(with: &super::Reach, pool: &Pool, slug: Option<&str>) -> Result<Option<GameId>, Failure> {
    match slug {
        Some(slug) => Ok(Some(with.game(pool, slug).await?.id)),
        None => Ok(None),
    }
}

async fn list(with: With<Filter>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let Filter { game, kind, reason, state, limit } = &with.what;
    let filter = DeadLetterFilter {
        state: Some(state),
        game: game_id(&with.reach, &pool, game.as_deref()).await?,
        kind: kind.as_deref(),
        reason: reason.as_deref(),
        after: None,
    };
    let found = dead_letters::list(&pool, &filter, *limit).await?;
    let games = games::list(&pool).await?;
    let slug_of = |id: Option<GameId>| match games.iter().find(|game| Some(game.id) == id) {
        Some(game) => game.slug.to_string(),
        None => id.map_or("-".to_owned(), |id| id.0.to_string()),
    };
    let rows: Vec<[String; 7]> = found
        .iter()
        .map(|d| {
            let error: String = d.error.chars().take(60).collect();
            [
                d.id.to_string(),
                slug_of(d.game_id),
                d.kind.clone(),
                d.reason.clone(),
                d.attempts.to_string(),
                d.received_at.to_string(),
                error,
            ]
        })
        .collect();
    let text = table(["ID", "GAME", "KIND", "REASON", "ATTEMPTS", "RECEIVED", "ERROR"], &rows, "no dead letters");
    Ok(Answer::new(&json!({ "dead_letters": found }), text))
}

async fn show(with: With<One>) -> Result<Answer, Failure> {
    let id = with.what.id;
    let found = dead_letters::read(&with.reach.pool()?, None, id).await?;
    let (letter, body) = found.ok_or_else(|| Failure::NotFound(format!("there is no dead letter {id}")))?;
    let body: serde_json::Value = body.and_then(|b| serde_json::from_str(&b).ok()).unwrap_or_default();
    let mut value = serde_json::to_value(&letter).unwrap_or_default();
    value["body"] = body;
    let text = serde_json::to_string_pretty(&value).unwrap_or_default();
    Ok(Answer::new(&value, text))
}

/// Replays or discards: the ids given, or chunk by chunk all that pass the filters.
async fn decide(with: With<Decided>, replaying: bool) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = game_id(&with.reach, &pool, with.what.game.as_deref()).await?;
    let mut decided: Vec<Uuid> = Vec::new();
    if with.what.all {
        let mut after = None;
        loop {
            let (kind, reason) = (with.what.kind.as_deref(), with.what.reason.as_deref());
            let filter = DeadLetterFilter { state: Some("waiting"), game, kind, reason, after };
            let found = dead_letters::list(&pool, &filter, CHUNK as i64).await?;
            let Some(last) = found.last() else { break };
            // On from here, so that one that dies again meanwhile is not replayed for ever.
            after = Some((last.received_at, last.id));
            let ids: Vec<Uuid> = found.iter().map(|d| d.id).collect();
            decided.extend(decide_chunk(&with, &pool, game, &ids, replaying).await?);
        }
    } else {
        for ids in with.what.ids.chunks(CHUNK) {
            decided.extend(decide_chunk(&with, &pool, game, ids, replaying).await?);
        }
        if decided.is_empty() {
            return Err(Failure::NotFound("none of these dead letters waits".to_owned()));
        }
    }
    let text = format!("{} {}", decided.len(), if replaying { "replayed" } else { "discarded" });
    Ok(Answer::new(&json!({ "ids": decided }), text))
}

async fn decide_chunk(
    with: &With<Decided>,
    pool: &Pool,
    game: Option<GameId>,
    ids: &[Uuid],
    replaying: bool,
) -> Result<Vec<Uuid>, Failure> {
    if replaying {
        return Ok(replay(pool, &with.reach.queue()?, game, ids, Actor::CommandLine).await?);
    }
    Ok(discard(pool, game, ids, Actor::CommandLine).await?)
}
