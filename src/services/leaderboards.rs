//! Leaderboards of a game: written, deleted, rebuilt and recomputed because somebody asks. Whoever changed one
//! publishes the directory afterwards.

use serde_json::json;

use super::author::Author;
use super::board_rebuild::{RebuildBoardError, Rebuilt, open_empty_board, rebuild_board};
use crate::domain::board::{LeaderboardSpec, Order};
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::ranking::Ranking;
use crate::store::audit_log::{self, Begun, Change};
use crate::store::game_bounds::{self, OverBound};
use crate::store::leaderboards::{self, Applied, ApplyError, StoredLeaderboard};
use crate::store::recompute::{self, ChangeError};
use crate::store::{Pool, StoreError};

/// Why a leaderboard was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is none of that name, or not any more.
    #[error("there is no such leaderboard")]
    NotFound,
    /// Its definition cannot be written.
    #[error(transparent)]
    Definition(#[from] ApplyError),
    /// The game has as much, or changes as often, as it may.
    #[error(transparent)]
    Bound(#[from] OverBound),
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// A leaderboard after it was written.
#[derive(Debug)]
pub struct WrittenLeaderboard {
    /// What writing it did.
    pub result: Applied,
    /// As it is stored now.
    pub stored: StoredLeaderboard,
    /// Why a new one cannot be read yet; cron sees to it.
    pub not_opened: Option<RebuildBoardError>,
}

/// The leaderboard of that name, if the game has one.
///
/// # Errors
/// [`StoreError`].
pub async fn find(pool: &Pool, game: GameId, slug: &str) -> Result<Option<StoredLeaderboard>, StoreError> {
    let all = leaderboards::list(pool, game).await?;
    Ok(all.into_iter().find(|stored| stored.spec.slug.as_str() == slug))
}

/// Creates or edits a leaderboard whose specification has been checked, and opens a new one in Redis.
/// `accept_incomplete_history`: count from the stored events only, where older ones were dropped by retention.
///
/// # Errors
/// [`EditError`]; nothing is changed.
pub async fn write(
    pool: &Pool,
    ranking: &Ranking,
    game: GameId,
    spec: &LeaderboardSpec,
    accept_incomplete_history: bool,
    author: &Author<'_>,
) -> Result<WrittenLeaderboard, EditError> {
    // Whoever says again and again what is so changes nothing, and takes no lock.
    if let Some(stored) = find(pool, game, spec.slug.as_str()).await?.filter(|stored| stored.spec == *spec) {
        return Ok(WrittenLeaderboard { result: Applied::Unchanged, stored, not_opened: None });
    }
    let result = apply(pool, game, spec, accept_incomplete_history, author).await?;
    let stored = find(pool, game, spec.slug.as_str()).await?.ok_or(EditError::NotFound)?;
    let not_opened = match (result, stored.live) {
        // Readable before anybody hears of it, not when cron next looks.
        (Applied::Created, Some(live)) => open_empty_board(pool, ranking, live).await.err(),
        _ => None,
    };
    Ok(WrittenLeaderboard { result, stored, not_opened })
}

async fn apply(
    pool: &Pool,
    game: GameId,
    spec: &LeaderboardSpec,
    accept_incomplete_history: bool,
    author: &Author<'_>,
) -> Result<Applied, EditError> {
    if let Some(bounds) = author.bounds {
        game_bounds::may_change(pool, game, bounds).await?;
    }
    let mut transaction = pool.begin().await?;
    let event_type = spec.definition.event_type.as_str();
    let bound = match author.bounds {
        Some(bounds) => Some((bounds, game_bounds::holdings(&mut transaction, game, event_type).await?)),
        None => None,
    };
    let result = leaderboards::apply(&mut transaction, game, spec, accept_incomplete_history, author.actor).await?;
    if let (Some((bounds, before)), true) = (bound, result != Applied::Unchanged) {
        let after = game_bounds::holdings(&mut transaction, game, event_type).await?;
        after.check(&before, bounds)?;
        game_bounds::count_change(&mut transaction, game, bounds).await?;
    }
    transaction.commit().await?;
    Ok(result)
}

/// Deletes a leaderboard: gone for readers at once; events are kept.
///
/// # Errors
/// [`EditError`]; nothing is changed.
pub async fn delete(pool: &Pool, game: GameId, slug: &str, author: &Author<'_>) -> Result<(), EditError> {
    if let Some(bounds) = author.bounds {
        game_bounds::may_change(pool, game, bounds).await?;
    }
    let mut transaction = pool.begin().await?;
    if !leaderboards::delete(&mut transaction, game, slug, author.actor).await? {
        transaction.rollback().await?;
        return Err(EditError::NotFound);
    }
    if let Some(bounds) = author.bounds {
        game_bounds::count_change(&mut transaction, game, bounds).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Begins to compute a leaderboard anew from the stored events, beside the live one; cron goes on with it. Whoever is
/// bound begins none while one is under way, anybody else replaces it.
///
/// # Errors
/// [`EditError`]; nothing is begun.
pub async fn recompute(
    pool: &Pool,
    game: GameId,
    stored: &StoredLeaderboard,
    author: &Author<'_>,
) -> Result<BoardGenerationId, EditError> {
    if let Some(bounds) = author.bounds {
        game_bounds::may_change(pool, game, bounds).await?;
    }
    let mut transaction = pool.begin().await?;
    if let Some(bounds) = author.bounds {
        game_bounds::check_not_recomputing(&mut transaction, game, stored.id).await?;
        game_bounds::count_change(&mut transaction, game, bounds).await?;
    }
    let generation = match recompute::begin(&mut transaction, stored.id).await {
        Ok(begun) => begun.id,
        // Deleted since it was looked up.
        Err(ChangeError::NotFound) => return Err(EditError::NotFound),
        Err(error) => return Err(ApplyError::from(error).into()),
    };
    let change = change("leaderboard.recompute", game, stored.spec.slug.as_str(), generation, author);
    audit_log::record(&mut transaction, &change).await?;
    transaction.commit().await?;
    Ok(generation)
}

fn change<'a>(
    action: &'static str,
    game: GameId,
    subject: &'a str,
    generation: BoardGenerationId,
    author: &Author<'_>,
) -> Change<'a> {
    let detail = json!({ "generation": generation });
    Change { actor: author.actor, action, game: Some(game), subject, detail }
}

/// A rebuild that somebody asked for. It is in the audit log as begun.
#[derive(Debug)]
#[must_use = "it is in the audit log as begun"]
pub struct RequestedRebuild {
    generation: BoardGenerationId,
    order: Order,
    begun: Begun,
}

impl RequestedRebuild {
    /// Asks for a rebuild of what players see of a leaderboard.
    ///
    /// # Errors
    /// [`OverBound`].
    pub async fn begin(
        pool: &Pool,
        game: GameId,
        slug: &str,
        generation: BoardGenerationId,
        order: Order,
        author: &Author<'_>,
    ) -> Result<Self, OverBound> {
        if let Some(bounds) = author.bounds {
            game_bounds::may_change(pool, game, bounds).await?;
            game_bounds::count_change(&mut *pool.acquire().await?, game, bounds).await?;
        }
        let change = change("leaderboard.rebuild", game, slug, generation, author);
        Ok(Self { generation, order, begun: audit_log::begin(pool, &change).await? })
    }

    /// Rebuilds the board ([`rebuild_board`]) and records how that ended.
    ///
    /// # Errors
    /// [`RebuildBoardError`]; the board is as it was.
    pub async fn run(
        self,
        pool: &Pool,
        ranking: &Ranking,
        role: &'static str,
        progress: impl FnMut(u64),
    ) -> Result<Rebuilt, RebuildBoardError> {
        let rebuilt = rebuild_board(pool, ranking, self.generation, self.order, role, progress).await;
        self.begun.ended(pool, &rebuilt).await;
        rebuilt
    }
}
