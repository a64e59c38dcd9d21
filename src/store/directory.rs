//! Reading everything that the directory carries, at one moment.

use crate::store::pool::Pool;

use crate::directory::snapshot::{GameSnapshot, KeySnapshot, LeaderboardSnapshot, Snapshot};
use crate::domain::ids::{GameId, Slug};

/// The version of the directory: grows with every change to games, keys or leaderboards.
///
/// # Errors
/// Whatever Postgres says.
pub async fn version(pool: &Pool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT version FROM directory_version").fetch_one(pool).await
}

/// Announces to the directory's publishers that something it carries changed, in the transaction of that change.
/// Taken last in a transaction: its row lock orders all such changes.
///
/// # Errors
/// Whatever Postgres says.
pub async fn changed(transaction: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE directory_version SET version = version + 1").execute(transaction).await.map(drop)
}

/// A row: version, then a game with its limits, keys and leaderboards as JSON text.
type GameRow = (i64, Option<i32>, Option<String>, Option<i32>, Option<i32>, Option<String>, Option<String>);

/// Reads all games with their unrevoked keys and their live and building generations. A game that cannot be read
/// (damage) is left out and logged.
///
/// # Errors
/// Whatever Postgres says.
pub async fn snapshot(pool: &Pool) -> Result<Snapshot, sqlx::Error> {
    // One statement, so that everything is of one moment.
    let rows: Vec<GameRow> = sqlx::query_as(
        "SELECT v.version, g.id, g.slug, g.limit_player_events, g.limit_game_events,
                (SELECT json_agg(json_build_object('id', k.id, 'kind', k.kind, 'sha256', encode(k.key_sha256, 'hex')))
                   FROM api_keys k WHERE k.game_id = g.id AND k.revoked_at IS NULL)::text,
                (SELECT json_agg(json_build_object('id', l.id, 'spec', l.spec, 'generations', coalesce(
                          (SELECT json_agg(json_build_object('id', b.id, 'since_generation', b.since_generation,
                                                             'state', b.state, 'spec', b.spec) ORDER BY b.id)
                             FROM leaderboard_generations b
                            WHERE b.leaderboard_id = l.id AND b.state <> 'retired'), '[]'::json)))
                   FROM leaderboards l WHERE l.game_id = g.id AND l.deleted_at IS NULL)::text
           FROM directory_version v LEFT JOIN games g ON true
          ORDER BY g.id",
    )
    .fetch_all(pool)
    .await?;
    let mut snapshot = Snapshot::default();
    for (version, id, slug, limit_player_events, limit_game_events, keys, leaderboards) in rows {
        snapshot.version = version;
        let (Some(id), Some(slug)) = (id, slug) else { continue };
        let Ok(slug) = Slug::parse(&slug) else {
            tracing::error!(game = id, "the stored name of a game is damaged");
            continue;
        };
        let limit = |stored: Option<i32>| stored.and_then(|l| u32::try_from(l).ok());
        snapshot.games.push(GameSnapshot {
            id: GameId(id),
            slug,
            limit_player_events: limit(limit_player_events),
            limit_game_events: limit(limit_game_events),
            keys: parse_each::<KeySnapshot>(keys.as_deref(), id),
            leaderboards: parse_each::<LeaderboardSnapshot>(leaderboards.as_deref(), id),
        });
    }
    Ok(snapshot)
}

fn parse_each<T: serde::de::DeserializeOwned>(array: Option<&str>, game: i32) -> Vec<T> {
    let Some(array) = array else { return Vec::new() };
    let values: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(array).unwrap_or_default();
    let mut parsed = Vec::with_capacity(values.len());
    for value in values {
        match serde_json::from_str(value.get()) {
            Ok(item) => parsed.push(item),
            Err(error) => tracing::error!(game, %error, "a stored key or leaderboard is damaged"),
        }
    }
    parsed
}
