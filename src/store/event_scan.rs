//! Reading stored events in the order of their key, a chunk at a time, so that no snapshot lives long.

use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::fact::Occurrence;
use crate::domain::ids::GameId;
use crate::store::StoreError;

/// What of a stored event matters to leaderboards.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Whose it is.
    pub game_id: GameId,
    /// Its identity.
    pub event_id: Uuid,
    /// When it happened.
    pub occurred_at: Micros,
    /// When ingest enqueued it.
    pub received_at: Micros,
    /// Whether a server key sent it.
    pub from_server: bool,
    /// Its type.
    pub event_type: String,
    /// Who did it.
    pub player_id: String,
    /// The payload's JSON text.
    pub payload: String,
}

impl StoredEvent {
    /// Where a scan that stopped after this event goes on.
    pub fn key(&self) -> ScanKey {
        ScanKey { game_id: self.game_id, event_id: self.event_id, occurred_at: self.occurred_at }
    }

    /// What of it matters to leaderboards.
    pub fn occurrence(&self) -> Occurrence<'_> {
        Occurrence {
            event_id: self.event_id,
            event_type: &self.event_type,
            player_id: &self.player_id,
            payload: &self.payload,
            occurred_at: self.occurred_at,
            received_at: self.received_at,
            from_server: self.from_server,
        }
    }
}

/// A place in a scan: the primary key of the last event that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanKey {
    /// Whose event.
    pub game_id: GameId,
    /// Its identity.
    pub event_id: Uuid,
    /// When it happened.
    pub occurred_at: Micros,
}

/// The year 1: within Postgres's range, before any event.
const BEFORE_ALL: i64 = -62_135_596_800;

impl ScanKey {
    /// Before every event of `game_id` and of those after it.
    pub const fn before(game_id: GameId) -> Self {
        Self { game_id, event_id: Uuid::nil(), occurred_at: Micros::from_seconds(BEFORE_ALL) }
    }
}

fn read(row: &PgRow) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        game_id: GameId(row.try_get(0)?),
        event_id: row.try_get(1)?,
        occurred_at: row.try_get(2)?,
        received_at: row.try_get(3)?,
        from_server: row.try_get(4)?,
        event_type: row.try_get(5)?,
        player_id: row.try_get(6)?,
        payload: row.try_get(7)?,
    })
}

/// Which events of one game a scan is about.
#[derive(Debug, Clone, Copy)]
pub struct GameScan<'a> {
    /// The month's first moment and the first after it: one partition.
    pub range: (Micros, Micros),
    /// The type that feeds the leaderboard.
    pub event_type: &'a str,
    /// Only events stamped with an earlier definitions generation.
    pub stamped_before: i32,
    /// Only players of this part of all (part, parts), by hash.
    pub players: (i32, i32),
    /// Most rows that are looked at in one chunk.
    pub limit: i64,
}

/// Payloads of one chunk, in bytes, but for the last one: what a chunk holds in memory, however large events are.
const CHUNK_BYTES: i64 = 8 * 1024 * 1024;

/// A chunk is not cut below so many rows: what takes too long even then is not a matter of its size.
const LEAST: i64 = 10;
/// Chunks that pass after one that took too long, before they get twice as large again.
const STEADY: u32 = 8;

/// How many rows to look at in a chunk: fewer after one that was cut short, so that Postgres does not read again and
/// again what does not fit, and after one that took longer than a statement may.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    limit: i64,
    most: i64,
    /// No chunk is larger for now: `most`, unless one took too long not long ago.
    ceiling: i64,
    /// Chunks that passed since then.
    passed: u32,
}

impl Pace {
    /// At most `most` rows at once.
    pub const fn new(most: i64) -> Self {
        Self { limit: most, most, ceiling: most, passed: 0 }
    }

    /// For the next chunk.
    pub const fn limit(&self) -> i64 {
        self.limit
    }

    /// A chunk of [`Pace::limit`] rows is committed and brought so many.
    pub fn brought(&mut self, rows: i64) {
        self.passed = self.passed.saturating_add(1);
        if self.passed.is_multiple_of(STEADY) {
            self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
        }
        self.limit = rows.min(self.limit).saturating_mul(2).clamp(1, self.ceiling);
    }

    /// A chunk took longer than Postgres allows: the next one is half as large. Says whether there is any use in it.
    pub fn took_too_long(&mut self) -> bool {
        if self.limit <= LEAST {
            return false;
        }
        self.ceiling = (self.limit / 2).max(LEAST);
        (self.limit, self.passed) = (self.ceiling, 0);
        true
    }

    /// What was read is at its end, so the last chunk says nothing about the next.
    pub fn begin_anew(&mut self) {
        self.limit = self.ceiling;
    }
}

/// A chunk of a scan.
#[derive(Debug)]
pub struct Chunk {
    /// Events that concern the caller.
    pub events: Vec<StoredEvent>,
    /// The last key that was looked at; `None`: nothing is left.
    pub reached: Option<ScanKey>,
    /// How many events were looked at.
    pub looked_at: i64,
}

/// The next chunk of one game's events in one partition. Looks at `limit` keys, whatever their type, so that a chunk is
/// bounded also where the type is rare; at fewer where payloads are large.
pub async fn next_of_game(
    connection: &mut PgConnection,
    scan: &GameScan<'_>,
    after: ScanKey,
) -> Result<Chunk, StoreError> {
    let rows = sqlx::query(
        "WITH chunk AS MATERIALIZED (
             SELECT game_id, event_id, occurred_at, received_at, from_server, type, player_id,
                    CASE WHEN type = $6 AND definitions_generation < $7
                          AND ($9 = 1 OR ((hashtext(player_id) & 2147483647) % $9) = $8)
                         THEN payload::text END AS payload
               FROM events
              WHERE occurred_at >= $1 AND occurred_at < $2 AND game_id = $3 AND (event_id, occurred_at) > ($4, $5)
              ORDER BY game_id, event_id, occurred_at
              LIMIT $10),
         sized AS (
             SELECT *, coalesce(sum(octet_length(payload)) OVER (
                           ORDER BY event_id, occurred_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
               FROM chunk),
         kept AS (SELECT * FROM sized WHERE before < $11),
         reached AS (SELECT event_id, occurred_at, count(*) OVER () AS n FROM kept ORDER BY event_id DESC, occurred_at DESC LIMIT 1)
         SELECT game_id, event_id, occurred_at, received_at, from_server, type, player_id, payload, NULL::bigint AS n
           FROM kept WHERE payload IS NOT NULL
          UNION ALL
         SELECT $3, event_id, occurred_at, occurred_at, false, '', '', '', n FROM reached",
    )
    .bind(scan.range.0)
    .bind(scan.range.1)
    .bind(after.game_id.0)
    .bind(after.event_id)
    .bind(after.occurred_at)
    .bind(scan.event_type)
    .bind(scan.stamped_before)
    .bind(scan.players.0)
    .bind(scan.players.1)
    .bind(scan.limit)
    .bind(CHUNK_BYTES)
    .fetch_all(connection)
    .await?;
    let mut chunk = Chunk { events: Vec::with_capacity(rows.len()), reached: None, looked_at: 0 };
    for row in &rows {
        let event = read(row)?;
        if let Some(looked_at) = row.try_get::<Option<i64>, _>(8)? {
            chunk.looked_at = looked_at;
            chunk.reached = Some(event.key());
        } else {
            chunk.events.push(event);
        }
    }
    Ok(chunk)
}

/// The next chunk of one partition, of every game: at most `limit` events, fewer where payloads are large.
pub async fn next_of_all(
    connection: &mut PgConnection,
    range: (Micros, Micros),
    after: ScanKey,
    limit: i64,
) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = sqlx::query(
        "WITH chunk AS MATERIALIZED (
             SELECT game_id, event_id, occurred_at, received_at, from_server, type, player_id, payload::text AS payload
               FROM events
              WHERE occurred_at >= $1 AND occurred_at < $2 AND (game_id, event_id, occurred_at) > ($3, $4, $5)
              ORDER BY game_id, event_id, occurred_at
              LIMIT $6),
         sized AS (
             SELECT *, coalesce(sum(octet_length(payload)) OVER (
                           ORDER BY game_id, event_id, occurred_at
                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
               FROM chunk)
         SELECT game_id, event_id, occurred_at, received_at, from_server, type, player_id, payload
           FROM sized WHERE before < $7 ORDER BY game_id, event_id, occurred_at",
    )
    .bind(range.0)
    .bind(range.1)
    .bind(after.game_id.0)
    .bind(after.event_id)
    .bind(after.occurred_at)
    .bind(limit)
    .bind(CHUNK_BYTES)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_takes_too_long_is_halved_and_grows_again_slowly() {
        let mut pace = Pace::new(5_000);
        let mut sizes = vec![pace.limit()];
        while pace.took_too_long() {
            sizes.push(pace.limit());
        }
        assert_eq!(sizes, [5_000, 2_500, 1_250, 625, 312, 156, 78, 39, 19, 10], "and no further");
        let mut chunks = 0;
        while pace.limit() < 5_000 {
            let before = pace.limit();
            pace.brought(before);
            chunks += 1;
            assert!(pace.limit() == before || chunks % STEADY == 0, "{before} to {} after {chunks}", pace.limit());
        }
        assert_eq!(chunks, 9 * STEADY);
        // What was cut short for its bytes grows at once, as ever.
        pace.brought(100);
        assert_eq!(pace.limit(), 200);
        pace.brought(200);
        assert_eq!(pace.limit(), 400);
        pace.begin_anew();
        assert_eq!(pace.limit(), 5_000);
    }
}
