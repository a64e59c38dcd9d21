//! Reading everything that the directory carries, at one moment.

use crate::store::{Pool, StoreError};

use crate::domain::directory::{GameText, Snapshot};
use crate::domain::ids::GameId;

/// The version of the directory: a number that grows with every change to games, keys or leaderboards, and a mark that
/// never comes twice, because the number goes back with the database.
pub async fn version(pool: &Pool) -> Result<(i64, String), StoreError> {
    sqlx::query_as("SELECT version, mark::text FROM directory_version").fetch_one(pool).await
}

/// Announces to the directory's publishers that something it carries changed, in the transaction of that change.
/// Taken last in a transaction: its row lock orders all such changes.
pub async fn changed(transaction: &mut sqlx::PgConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE directory_version SET version = version + 1").execute(transaction).await.map(drop)
}

/// Reads all games with their unrevoked keys and their live and building generations, each as the JSON that travels.
/// What is inside is not looked at: whoever publishes need not be able to read it. What did not change has the same
/// text, in whichever order Postgres finds rows: its digest says so.
pub async fn snapshot(pool: &Pool) -> Result<Snapshot, StoreError> {
    // One statement, so that everything is of one moment.
    let rows: Vec<(i64, String, Option<i32>, Option<String>)> = sqlx::query_as(
        "SELECT v.version, v.mark::text, g.id, CASE WHEN g.id IS NOT NULL THEN json_build_object(
                'id', g.id, 'slug', g.slug,
                'limit_player_events', g.limit_player_events, 'limit_game_events', g.limit_game_events,
                'keys', coalesce(
                    (SELECT json_agg(json_build_object('id', k.id, 'kind', k.kind, 'sha256', encode(k.key_sha256, 'hex'))
                                     ORDER BY k.id)
                       FROM api_keys k WHERE k.game_id = g.id AND k.revoked_at IS NULL), '[]'::json),
                'leaderboards', coalesce(
                    (SELECT json_agg(json_build_object('id', l.id, 'spec', l.spec, 'generations', coalesce(
                              (SELECT json_agg(json_build_object('id', b.id, 'since_generation', b.since_generation,
                                                                 'state', b.state, 'spec', b.spec) ORDER BY b.id)
                                 FROM leaderboard_generations b
                                WHERE b.leaderboard_id = l.id AND b.state <> 'retired'), '[]'::json))
                                     ORDER BY l.id)
                       FROM leaderboards l WHERE l.game_id = g.id AND l.deleted_at IS NULL), '[]'::json))::text END
           FROM directory_version v LEFT JOIN games g ON true
          ORDER BY g.id",
    )
    .fetch_all(pool)
    .await?;
    let mut snapshot = Snapshot::default();
    for (version, mark, id, json) in rows {
        (snapshot.version, snapshot.mark) = (version, mark);
        if let (Some(id), Some(json)) = (id, json) {
            snapshot.games.push(GameText { id: GameId(id), json });
        }
    }
    Ok(snapshot)
}
