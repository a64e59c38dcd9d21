//! What was stored before anything is measured: every player has an entry already, and behind that, where it was asked
//! for, a history. Written straight into Postgres and counted by a recompute.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::batch::{self, Mix};
use super::{BenchError, Options};
use crate::domain::clock::Micros;
use crate::domain::event::Event;
use crate::domain::ids::GameId;
use crate::runtime::clock;
use crate::simulate::backfill::{Backfill, backfill};
use crate::simulate::players;
use crate::store::events::{EventRow, copy_new};
use crate::store::pool::Pool;
use crate::store::{partitions, recompute};

/// How far back a history goes.
const HISTORY: Duration = Duration::from_secs(30 * 86_400);
/// How far back everybody played once.
const ONCE: Duration = Duration::from_secs(3_600);
/// Events of one transaction.
const GROUP: u32 = 5_000;

/// Has each of `options.players` play once, stores `options.history` events more of the same players, and has the
/// leaderboard count all of it.
///
/// # Errors
/// [`BenchError`].
pub async fn grow(pool: &Pool, options: &Options) -> Result<(), BenchError> {
    let (game, leaderboard): (i32, i32) =
        sqlx::query_as("SELECT game_id, id FROM leaderboards").fetch_one(pool).await?;
    let failed = |e: &dyn std::fmt::Display| BenchError::Services(format!("the history: {e}"));
    let now = clock::system().now();
    if options.history > 0 {
        let history = Backfill {
            game: GameId(game),
            players: options.players as usize,
            events: options.history,
            until: now.plus_seconds(-(ONCE.as_secs().cast_signed())),
            over: HISTORY,
            seed: 1,
        };
        backfill(pool, history, |_| ()).await.map_err(|e| failed(&e))?;
    }
    partitions::ensure(pool, now.plus_seconds(-(ONCE.as_secs().cast_signed())), now).await.map_err(|e| failed(&e))?;
    let mut random = SmallRng::seed_from_u64(2);
    for first in (0..options.players).step_by(GROUP as usize) {
        play_once(pool, GameId(game), first..(first + GROUP).min(options.players), now, &mut random).await?;
    }
    sqlx::query("VACUUM (ANALYZE) events").execute(pool).await?;
    let mut transaction = pool.begin().await?;
    recompute::begin(&mut transaction, leaderboard).await.map_err(|e| failed(&e))?;
    transaction.commit().await?;
    let building = "SELECT EXISTS (SELECT FROM leaderboard_generations WHERE state = 'building')";
    while sqlx::query_scalar(building).fetch_one(pool).await? {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The retired generation's clean-up and the first visit of fresh pages belong to no figure.
    sqlx::query("VACUUM (ANALYZE) leaderboard_entries").execute(pool).await?;
    visit_entries_after_a_checkpoint(pool).await
}

/// After a checkpoint the first change of a page logs the whole page. A running system has that behind it for most of
/// the time between two checkpoints; measured right after one, a fold would seem to cost a fifth more than it does.
async fn visit_entries_after_a_checkpoint(pool: &Pool) -> Result<(), BenchError> {
    sqlx::query("CHECKPOINT").execute(pool).await?;
    let one_row_a_page = "
        UPDATE leaderboard_entries AS e SET plays = e.plays
          FROM (SELECT tableoid, min(ctid) AS first FROM leaderboard_entries
                 GROUP BY tableoid, (ctid::text::point)[0]) AS page
         WHERE e.tableoid = page.tableoid AND e.ctid = page.first";
    sqlx::query(one_row_a_page).execute(pool).await?;
    Ok(())
}

async fn play_once(
    pool: &Pool,
    game_id: GameId,
    players: std::ops::Range<u32>,
    now: Micros,
    random: &mut SmallRng,
) -> Result<(), BenchError> {
    let ago = |random: &mut SmallRng| random.random_range(0..ONCE.as_micros() as i64);
    let plays: Vec<_> = players
        .map(|n| {
            let at = Micros(now.0 - ago(random));
            (players::name(n as usize), batch::event_id(at, random), at, batch::payload(random))
        })
        .collect();
    let mut rows: Vec<EventRow<'_>> = plays
        .iter()
        .map(|(player_id, event_id, at, payload)| EventRow {
            game_id,
            event: Event {
                event_id: *event_id,
                event_type: Mix::SCORING,
                player_id,
                session_id: None,
                schema_version: None,
                occurred_at: *at,
                payload,
            },
            received_at: *at,
            // Older than any definition, so that the recompute counts it.
            definitions_generation: 0,
            from_server: true,
        })
        .collect();
    rows.sort_by_key(EventRow::key);
    let mut transaction = pool.begin().await?;
    copy_new(&mut transaction, &rows).await?;
    transaction.commit().await?;
    Ok(())
}
