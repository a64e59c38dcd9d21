//! Standings from Postgres: final ones of closed periods, and boards that Redis does not hold at the moment.

use std::collections::HashMap;

use crate::store::{Pool, StoreError};

use crate::domain::clock::Micros;
use crate::domain::ranking_key::Standing;

/// An entry of a period that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Whose it is.
    pub player_id: String,
    /// As published.
    pub standing: Standing,
    /// The entry's version.
    pub version: i64,
}

/// All entries of a period, and the version of its board.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SmallBoard {
    /// In no order.
    pub entries: Vec<StoredEntry>,
    /// On the scale of what Redis shows: that of the last fold that changed the board.
    pub version: i64,
}

type SmallRow = (i64, Option<String>, Option<i64>, Option<i64>, Option<Micros>, Option<i64>);

/// All entries of a period that has at most `most`; `None`: it has more, or there is no such period (any more).
pub async fn small_board(pool: &Pool, period: i64, most: i64) -> Result<Option<SmallBoard>, StoreError> {
    // One statement, so that entries and version are of one moment; a period without entries has a version too.
    let rows: Vec<SmallRow> = sqlx::query_as(
        "SELECT coalesce(v.version, 0), e.player_id, e.score, e.subscore, e.reached_at, e.version
           FROM leaderboard_periods p
           LEFT JOIN board_versions v ON v.generation_id = p.generation_id
           LEFT JOIN leaderboard_entries e ON e.period_id = p.id
          WHERE p.id = $1 LIMIT $2",
    )
    .bind(period)
    .bind(most + 1)
    .fetch_all(pool)
    .await?;
    // No row at all: clean-up has removed the period, and who still asks for it must not be told that it is empty.
    if rows.is_empty() || rows.len() as i64 > most {
        return Ok(None);
    }
    let mut board = SmallBoard::default();
    for (board_version, player_id, score, subscore, reached_at, version) in rows {
        board.version = board.version.max(board_version).max(version.unwrap_or_default());
        if let (Some(player_id), Some(score), Some(subscore), Some(reached_at)) =
            (player_id, score, subscore, reached_at)
        {
            board.entries.push(StoredEntry {
                player_id,
                standing: Standing { score, subscore, reached_at },
                version: version.unwrap_or_default(),
            });
        }
    }
    Ok(Some(board))
}

/// A row of the final standings of a closed period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalStanding {
    /// From 1, without ties.
    pub rank: i64,
    /// 1, 2, 2, 4.
    pub competition_rank: i64,
    /// Whose it is.
    pub player_id: String,
    /// As published.
    pub standing: Standing,
}

type FinalRow = (i64, i64, String, i64, i64, Micros);

fn from_row((rank, competition_rank, player_id, score, subscore, reached_at): FinalRow) -> FinalStanding {
    FinalStanding { rank, competition_rank, player_id, standing: Standing { score, subscore, reached_at } }
}

/// The final standings with ranks from `first` to `last` (inclusive), best first.
pub async fn final_ranks(pool: &Pool, period: i64, first: i64, last: i64) -> Result<Vec<FinalStanding>, StoreError> {
    let rows: Vec<FinalRow> = sqlx::query_as(
        "SELECT rank, competition_rank, player_id, score, subscore, reached_at
           FROM period_standings WHERE period_id = $1 AND rank BETWEEN $2 AND $3 ORDER BY rank",
    )
    .bind(period)
    .bind(first)
    .bind(last)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// The final standings of some players, best first.
pub async fn final_of_players(pool: &Pool, period: i64, players: &[&str]) -> Result<Vec<FinalStanding>, StoreError> {
    let rows: Vec<FinalRow> = sqlx::query_as(
        "SELECT rank, competition_rank, player_id, score, subscore, reached_at
           FROM period_standings WHERE period_id = $1 AND player_id = ANY($2) ORDER BY rank",
    )
    .bind(period)
    .bind(players)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// What `?include=` adds to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extras {
    /// How many facts were merged.
    pub plays: i64,
    /// The deciding event's metadata, JSON text.
    pub metadata: Option<String>,
}

/// Plays and metadata of some players, of a closed period from its final standings.
pub async fn extras(
    pool: &Pool,
    period: i64,
    closed: bool,
    players: &[&str],
) -> Result<HashMap<String, Extras>, StoreError> {
    let rows: Vec<(String, i64, Option<String>)> = if closed {
        sqlx::query_as(
            "SELECT player_id, plays, metadata::text FROM period_standings
              WHERE period_id = $1 AND player_id = ANY($2)",
        )
    } else {
        sqlx::query_as(
            "SELECT player_id, plays, metadata::text FROM leaderboard_entries
              WHERE period_id = $1 AND player_id = ANY($2)",
        )
    }
    .bind(period)
    .bind(players)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(player, plays, metadata)| (player, Extras { plays, metadata })).collect())
}
