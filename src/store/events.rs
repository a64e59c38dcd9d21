//! Writing events: by COPY when all are expected to be new, the careful way otherwise
//! (docs/rules.md#jobs-are-written-together).

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Transaction};
use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::event::Event;
use crate::domain::fact::Occurrence;
use crate::domain::ids::GameId;
use crate::store::StoreError;
use crate::store::definitions::GameDefinitions;

/// One row of `events`, borrowing from the job that carried it.
#[derive(Debug, Clone, Copy)]
pub struct EventRow<'a> {
    /// Whose event it is.
    pub game_id: GameId,
    /// The event.
    pub event: Event<'a>,
    /// When ingest enqueued it (Redis time).
    pub received_at: Micros,
    /// The game's definitions generation under which its facts are made.
    pub definitions_generation: i32,
    /// Whether a server key sent it.
    pub from_server: bool,
}

impl<'a> EventRow<'a> {
    /// The primary key: the event's identity.
    pub fn key(&self) -> (GameId, Uuid, Micros) {
        (self.game_id, self.event.event_id, self.event.occurred_at)
    }

    /// What of it matters to leaderboards.
    pub fn occurrence(&self) -> Occurrence<'a> {
        Occurrence {
            event_id: self.event.event_id,
            event_type: self.event.event_type,
            player_id: self.event.player_id,
            payload: self.event.payload,
            occurred_at: self.event.occurred_at,
            received_at: self.received_at,
            from_server: self.from_server,
        }
    }
}

/// The header of Postgres's binary COPY format: signature, flags, extension length.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Columns of a copied row.
const COPY_COLUMNS: i16 = 11;
/// Bytes of a row beside its texts: column count, 11 lengths, fixed-width values.
const COPY_FIXED_BYTES: usize = 2 + 11 * 4 + 4 + 16 + 8 + 8 + 4 + 4 + 1;

/// Begins the transaction of a write on a connection that stays its owner's, to be closed after an error. Nothing may
/// drop this before it has begun; where that can happen, [`super::Pool::begin`] begins.
pub async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, StoreError> {
    connection.begin().await
}

/// Writes all rows with one COPY, which fails as a whole when any of them is stored already (`23505`).
///
/// # Errors
/// [`StoreError`]. After any error but `23505` the connection must be closed: its protocol state is unknown.
pub async fn copy_new(connection: &mut PgConnection, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
    let mut copy = connection
        .copy_in_raw(
            "COPY events (game_id, event_id, occurred_at, received_at, definitions_generation, schema_version,
                          from_server, type, player_id, session_id, payload)
             FROM STDIN WITH (FORMAT binary)",
        )
        .await?;
    if let Err(error) = copy.send(encode_copy(rows)).await {
        // Ends the COPY; the error that matters is the first.
        let _ = copy.abort("the rows could not be sent").await;
        return Err(error);
    }
    copy.finish().await?;
    Ok(())
}

fn encode_copy(rows: &[EventRow<'_>]) -> Vec<u8> {
    let texts =
        |e: &Event<'_>| e.payload.len() + e.event_type.len() + e.player_id.len() + e.session_id.map_or(0, str::len);
    let capacity = rows.iter().map(|r| COPY_FIXED_BYTES + texts(&r.event)).sum::<usize>();
    let mut out = Vec::with_capacity(COPY_HEADER.len() + capacity + 2);
    out.extend_from_slice(COPY_HEADER);
    for row in rows {
        let event = &row.event;
        out.extend_from_slice(&COPY_COLUMNS.to_be_bytes());
        field(&mut out, &row.game_id.0.to_be_bytes());
        field(&mut out, event.event_id.as_bytes());
        field(&mut out, &event.occurred_at.to_postgres().to_be_bytes());
        field(&mut out, &row.received_at.to_postgres().to_be_bytes());
        field(&mut out, &row.definitions_generation.to_be_bytes());
        optional_field(&mut out, event.schema_version.map(i32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice));
        field(&mut out, &[u8::from(row.from_server)]);
        field(&mut out, event.event_type.as_bytes());
        field(&mut out, event.player_id.as_bytes());
        optional_field(&mut out, event.session_id.map(str::as_bytes));
        field(&mut out, event.payload.as_bytes());
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
}

fn field(out: &mut Vec<u8>, value: &[u8]) {
    // Values are bounded far below 2 GiB by ingest's limits.
    out.extend_from_slice(&(value.len() as i32).to_be_bytes());
    out.extend_from_slice(value);
}

fn optional_field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => field(out, value),
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
}

/// Writes those rows that are not stored yet; returns the keys that are new.
pub async fn insert_missing(
    connection: &mut PgConnection,
    rows: &[EventRow<'_>],
) -> Result<HashSet<(GameId, Uuid, Micros)>, StoreError> {
    fn column<'r, T>(rows: &'r [EventRow<'r>], pick: impl Fn(&'r EventRow<'r>) -> T) -> Vec<T> {
        rows.iter().map(pick).collect()
    }
    let new: Vec<(i32, Uuid, Micros)> = sqlx::query_as(
        "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, schema_version,
                             from_server, type, player_id, session_id, payload)
         SELECT game_id, event_id, occurred_at, received_at, definitions_generation, schema_version,
                from_server, type, player_id, session_id, payload::json
           FROM unnest($1::int[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::int[], $6::int[], $7::bool[],
                       $8::text[], $9::text[], $10::text[], $11::text[])
             AS r (game_id, event_id, occurred_at, received_at, definitions_generation, schema_version, from_server,
                   type, player_id, session_id, payload)
         ON CONFLICT DO NOTHING
         RETURNING game_id, event_id, occurred_at",
    )
    .bind(column(rows, |r| r.game_id.0))
    .bind(column(rows, |r| r.event.event_id))
    .bind(column(rows, |r| r.event.occurred_at))
    .bind(column(rows, |r| r.received_at))
    .bind(column(rows, |r| r.definitions_generation))
    .bind(column(rows, |r| r.event.schema_version))
    .bind(column(rows, |r| r.from_server))
    .bind(column(rows, |r| r.event.event_type))
    .bind(column(rows, |r| r.event.player_id))
    .bind(column(rows, |r| r.event.session_id))
    .bind(column(rows, |r| r.event.payload))
    .fetch_all(connection)
    .await?;
    Ok(new.into_iter().map(|(game, id, at)| (GameId(game), id, at)).collect())
}

/// Locks the games' rows against changes of definitions until the transaction ends, and returns their definitions
/// generations as they stand. A game whose row another transaction locks is missing from the answer, and so is one that
/// does not exist: one game's long transaction stops no other game.
pub async fn lock_definitions_generations(
    connection: &mut PgConnection,
    games: &[GameId],
) -> Result<Vec<(GameId, GameDefinitions)>, StoreError> {
    let rows: Vec<(i32, i32, Uuid)> = sqlx::query_as(
        "SELECT id, definitions_generation, definitions_mark FROM games WHERE id = ANY($1)
          ORDER BY id FOR SHARE SKIP LOCKED",
    )
    .bind(numbers(games))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, generation, mark)| (GameId(id), GameDefinitions { generation, mark })).collect())
}

/// Likewise for one game, waiting for whoever locks its row, at most for `longest`.
///
/// # Errors
/// [`StoreError`]; [`super::failure::is_lock_timeout`] when the lock was not had in time.
pub async fn wait_for_definitions_generation(
    connection: &mut PgConnection,
    game: GameId,
    longest: Duration,
) -> Result<Vec<(GameId, GameDefinitions)>, StoreError> {
    // Nought would mean for ever.
    let longest = format!("{}ms", longest.as_millis().max(1));
    sqlx::query("SELECT set_config('lock_timeout', $1, true)").bind(longest).execute(&mut *connection).await?;
    let row: Option<(i32, Uuid)> =
        sqlx::query_as("SELECT definitions_generation, definitions_mark FROM games WHERE id = $1 FOR SHARE")
            .bind(game.0)
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(generation, mark)| (game, GameDefinitions { generation, mark })).into_iter().collect())
}

/// Which of these games exist, whoever locks them.
pub async fn existing_games(connection: &mut PgConnection, games: &[GameId]) -> Result<HashSet<GameId>, StoreError> {
    let ids: Vec<i32> = sqlx::query_scalar("SELECT id FROM games WHERE id = ANY($1)")
        .bind(numbers(games))
        .fetch_all(connection)
        .await?;
    Ok(ids.into_iter().map(GameId).collect())
}

fn numbers(games: &[GameId]) -> Vec<i32> {
    games.iter().map(|game| game.0).collect()
}
