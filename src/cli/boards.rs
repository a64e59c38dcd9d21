//! `scoreline rebuild`, `recompute`, `partitions` and `audit-log`.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::With;
use super::progress::bar;
use super::reach::{Answer, Failed, Failure};
use super::table::table;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::services;
use crate::services::author::Author;
use crate::services::board_rebuild::Rebuilt;
use crate::services::leaderboards::{EditError, RequestedRebuild};
use crate::store::audit_log::latest;
use crate::store::leaderboards::{self, StoredLeaderboard};
use crate::store::pool::Pool;
use crate::store::{games, partitions, period_closing, processes, recompute};

/// How often the progress of a recompute is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// No arguments.
#[derive(Args, Debug, Clone, Copy)]
pub struct Nothing {}

/// Which leaderboards; all when nothing is said.
#[derive(Args, Debug, Clone)]
pub struct Which {
    /// Of one game.
    #[arg(long)]
    game: Option<String>,
    /// One leaderboard of that game.
    #[arg(long, requires = "game")]
    leaderboard: Option<String>,
    /// Refused with a word about --leaderboard, which one is likely to mean.
    #[arg(hide = true, value_parser = refuse_positional)]
    positional: Option<String>,
}

fn refuse_positional(text: &str) -> Result<String, String> {
    Err(format!("a leaderboard is named with --leaderboard: --game GAME --leaderboard {text}"))
}

/// Which leaderboards to recompute.
#[derive(Args, Debug, Clone)]
pub struct Recompute {
    #[command(flatten)]
    which: Which,
    /// Begin, and do not wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

/// Which changes.
#[derive(Args, Debug, Clone)]
pub struct AuditLog {
    /// Of one game.
    #[arg(long)]
    game: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: i64,
}

impl Which {
    /// The leaderboards that are meant, each with its game and `game/slug`.
    pub async fn find(
        &self,
        with: &super::Reach,
        pool: &Pool,
    ) -> Result<Vec<(GameId, String, StoredLeaderboard)>, Failure> {
        let of = match &self.game {
            Some(slug) => vec![with.game(pool, slug).await?],
            None => games::list(pool).await?,
        };
        let mut found = Vec::new();
        for game in of {
            for stored in leaderboards::list(pool, game.id).await? {
                if self.leaderboard.as_deref().is_none_or(|slug| slug == stored.spec.slug.as_str()) {
                    found.push((game.id, format!("{}/{}", game.slug, stored.spec.slug), stored));
                }
            }
        }
        match &self.leaderboard {
            Some(slug) if found.is_empty() => Err(Failure::NotFound(format!("there is no leaderboard '{slug}'"))),
            _ => Ok(found),
        }
    }
}

/// Runs `scoreline rebuild`.
pub async fn rebuild(with: With<Which>) -> Result<Answer, Failure> {
    let (pool, ranking) = (with.reach.pool()?, with.reach.ranking()?);
    let (mut done, mut failed) = (Vec::new(), Failed::default());
    for (game, name, stored) in with.what.find(&with.reach, &pool).await? {
        let Some(live) = stored.live else { continue };
        let rebuilding = async {
            // Not that of the definition as written: players see the live generation until an edit is computed.
            let order = period_closing::order(&mut *pool.acquire().await?, live).await?;
            let (slug, author) = (stored.spec.slug.as_str(), Author::COMMAND_LINE);
            let requested = RequestedRebuild::begin(&pool, game, slug, live, order, &author).await?;
            let bar = bar(&name, None);
            let rebuilt = requested.run(&pool, &ranking, "cli", |entries| bar.set_position(entries)).await;
            bar.finish_and_clear();
            rebuilt.map_err(|error| Failure::Failed(error.to_string()))
        };
        if let Some(rebuilt) = failed.or(&name, rebuilding.await)? {
            done.push((name, rebuilt));
        }
    }
    let rows: Vec<[String; 3]> =
        done.iter().map(|(name, r)| [name.clone(), r.periods.to_string(), r.entries.to_string()]).collect();
    let text = table(["LEADERBOARD", "PERIODS", "ENTRIES"], &rows, "no leaderboards to rebuild");
    let rebuilt = |(name, done): &(String, Rebuilt)| {
        let Rebuilt { periods, entries, version } = done;
        json!({ "leaderboard": name, "periods": periods, "entries": entries, "version": version })
    };
    let answer = Answer::new(&json!({ "rebuilt": done.iter().map(rebuilt).collect::<Vec<_>>() }), text);
    Ok(answer.unless(&failed))
}

/// Runs `scoreline recompute`: begins new generations, which cron fills; waits and shows how far they are.
pub async fn recompute(with: With<Recompute>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let (mut begun, mut failed) = (Vec::new(), Failed::default());
    for (game, name, stored) in with.what.which.find(&with.reach, &pool).await? {
        let beginning = match services::leaderboards::recompute(&pool, game, &stored, &Author::COMMAND_LINE).await {
            // Deleted since they were listed.
            Err(EditError::NotFound) => continue,
            begun => begun,
        };
        if let Some(generation) = failed.or(&name, beginning)? {
            begun.push((name, generation));
        }
    }
    with.reach.directory_changed(&pool).await;
    let nobody = !with.what.no_wait && !processes::is_running(&pool, "cron").await?;
    if nobody && !begun.is_empty() {
        eprintln!("warning: no cron process runs; begun, and computed as soon as one does");
    }
    let mut rows = Vec::new();
    for (name, generation) in begun {
        let state =
            if with.what.no_wait || nobody { "building".to_owned() } else { wait(&pool, &name, generation).await? };
        rows.push([name, generation.to_string(), state]);
    }
    let text = table(["LEADERBOARD", "GENERATION", "STATE"], &rows, "no leaderboards to recompute");
    let all = rows
        .iter()
        .map(|[name, generation, state]| json!({ "leaderboard": name, "generation": generation, "state": state }));
    Ok(Answer::new(&json!({ "recomputed": all.collect::<Vec<_>>() }), text).unless(&failed))
}

async fn wait(pool: &Pool, name: &str, generation: BoardGenerationId) -> Result<String, Failure> {
    let bar = bar(name, None);
    loop {
        let progress = recompute::progress(&mut *pool.acquire().await?, generation).await?;
        let progress = match progress {
            Some(progress) if progress.state == "building" => progress,
            ended => {
                bar.finish_and_clear();
                return Ok(ended.map_or("retired".to_owned(), |p| p.state));
            }
        };
        let scanned = progress.events_scanned.unsigned_abs();
        bar.set_length(progress.events_total.map_or(scanned, i64::unsigned_abs).max(scanned));
        bar.set_position(scanned);
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs `scoreline partitions`.
pub async fn partitions(with: With<Nothing>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let all = partitions::list_with_bytes(&mut *pool.acquire().await?).await?;
    let rows: Vec<[String; 5]> = all
        .iter()
        .map(|(p, bytes)| {
            // Postgres says -1 of a table that it has not analysed yet.
            let rows = u64::try_from(p.estimated_rows).map_or("unknown".to_owned(), |rows| rows.to_string());
            let bytes = format!("{:.1} MB", *bytes as f64 / 1e6);
            [p.name.clone(), p.range_start.to_string(), p.range_end.to_string(), rows, bytes]
        })
        .collect();
    let text = table(["PARTITION", "FROM", "TO", "ROWS (ABOUT)", "SIZE"], &rows, "no partitions yet; cron makes them");
    let as_json = |(p, bytes): &(partitions::Partition, i64)| {
        json!({ "name": p.name, "starts_at": p.range_start, "ends_at": p.range_end, "rows": u64::try_from(p.estimated_rows).ok(),
                "bytes": bytes, "detach_pending": p.detach_pending })
    };
    Ok(Answer::new(&json!({ "partitions": all.iter().map(as_json).collect::<Vec<_>>() }), text))
}

/// Runs `scoreline audit-log`.
pub async fn audit_log(with: With<AuditLog>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = match &with.what.game {
        Some(slug) => Some(with.reach.game(&pool, slug).await?.id),
        None => None,
    };
    let changes = latest(&pool, game, None, with.what.limit).await?;
    let rows: Vec<[String; 4]> =
        changes.iter().map(|c| [c.at.to_string(), c.actor.clone(), c.action.clone(), c.subject.clone()]).collect();
    let text = table(["AT", "WHO", "WHAT", "ON"], &rows, "no changes");
    Ok(Answer::new(&json!({ "changes": changes }), text))
}
