//! What is under way in Postgres towards leaderboards: undecided dead letters and facts, for the low-water mark.

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::store::{Pool, StoreError};

/// Whose something is (`None`: it does not say, or it may be any game's), and when the oldest of it was received.
pub type Waiting = (Option<GameId>, Micros);

fn waiting((game, received_at): (Option<i32>, Micros)) -> Waiting {
    (game.map(GameId), received_at)
}

/// The oldest undecided dead letter of each of these games, and of those that do not tell their game. `without_events`
/// are the kinds of jobs that carry none.
pub async fn dead_letters(pool: &Pool, games: &[i32], without_events: &[&str]) -> Result<Vec<Waiting>, StoreError> {
    let rows: Vec<(Option<i32>, Micros)> = sqlx::query_as(
        "SELECT g.id, d.received_at
           FROM unnest($1::int[]) AS g (id)
          CROSS JOIN LATERAL (
              SELECT received_at FROM dead_letters
               WHERE state = 'waiting' AND game_id = g.id AND kind <> ALL ($2) ORDER BY received_at LIMIT 1) AS d
         UNION ALL
         (SELECT NULL, received_at FROM dead_letters
           WHERE state = 'waiting' AND game_id IS NULL AND kind <> ALL ($2) ORDER BY received_at LIMIT 1)",
    )
    .bind(games)
    .bind(without_events)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(waiting).collect())
}

/// The oldest undecided dead letter of all.
pub async fn oldest_dead_letter(pool: &Pool, without_events: &[&str]) -> Result<Option<Micros>, StoreError> {
    sqlx::query_scalar(
        "SELECT received_at FROM dead_letters WHERE state = 'waiting' AND kind <> ALL ($1) ORDER BY received_at LIMIT 1",
    )
    .bind(without_events)
    .fetch_optional(pool)
    .await
}

/// How many undecided dead letters each game has, counting at most `most` of each; those that do not tell their game
/// under `None`.
pub async fn count_dead_letters(pool: &Pool, most: i64) -> Result<Vec<(Option<String>, i64)>, StoreError> {
    // From one game with letters to the next, by the index: most games have none.
    sqlx::query_as(
        "WITH RECURSIVE game (id) AS (
             (SELECT game_id FROM dead_letters WHERE state = 'waiting' AND game_id IS NOT NULL ORDER BY game_id LIMIT 1)
             UNION ALL
             SELECT (SELECT game_id FROM dead_letters WHERE state = 'waiting' AND game_id > h.id
                      ORDER BY game_id LIMIT 1)
               FROM game h WHERE h.id IS NOT NULL)
         SELECT coalesce(g.slug, h.id::text),
                (SELECT count(*) FROM (SELECT 1 FROM dead_letters
                                        WHERE state = 'waiting' AND game_id = h.id LIMIT $1) AS few)
           FROM game h LEFT JOIN games g ON g.id = h.id WHERE h.id IS NOT NULL
         UNION ALL
         SELECT NULL, (SELECT count(*) FROM (SELECT 1 FROM dead_letters
                                              WHERE state = 'waiting' AND game_id IS NULL LIMIT $1) AS few)",
    )
    .bind(most)
    .fetch_all(pool)
    .await
}

/// Rows of waiting facts that are looked at for the low-water mark.
const MOST_ROWS: i64 = 10_000;

/// What facts are not folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingFacts {
    /// Whether they were set aside, because no program could read or fold them.
    pub set_aside: bool,
    /// Whose, and since when.
    pub waiting: Waiting,
}

/// The oldest of the facts that are not folded, of each game. Where more rows wait than are looked at, the rest may be
/// anybody's and of any age; of those that were set aside every row is looked at, since they stay, and one game's must
/// not become everybody's. A recompute's are nobody's. One statement: a row changes its side at any moment.
pub async fn facts(pool: &Pool) -> Result<Vec<WaitingFacts>, StoreError> {
    let rows: Vec<(bool, Option<i32>, Micros)> = sqlx::query_as(
        "WITH few AS MATERIALIZED (
             SELECT min_received_at, games FROM score_facts WHERE shard >= 0 ORDER BY id LIMIT $1),
         aside AS MATERIALIZED (
             SELECT min(min_received_at) AS min_received_at, games FROM score_facts WHERE shard < 0 GROUP BY games)
         SELECT false, game, min(min_received_at)
           FROM few CROSS JOIN LATERAL unnest(coalesce(games, ARRAY[NULL::int])) AS game GROUP BY game
         UNION ALL
         SELECT false, NULL, 'epoch' FROM few HAVING count(*) = $1
         UNION ALL
         SELECT true, game, min(min_received_at)
           FROM aside CROSS JOIN LATERAL unnest(coalesce(games, ARRAY[NULL::int])) AS game GROUP BY game",
    )
    .bind(MOST_ROWS)
    .fetch_all(pool)
    .await?;
    let told =
        |(set_aside, game, at): (bool, Option<i32>, Micros)| WaitingFacts { set_aside, waiting: waiting((game, at)) };
    Ok(rows.into_iter().map(told).collect())
}
