//! Entries are merged by the database: as the domain says, and by look-ups.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use scoreline::domain::board::{Operator, Order};
use scoreline::domain::clock::Micros;
use scoreline::domain::entry::EntryState;
use scoreline::domain::fact::Fact;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::store::entries::{FreshEntry, StoredEntry, merge, read};
use scoreline::store::markers::next_version;
use scoreline::store::{Pool, Transaction};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::arena::{Arena, Play, play};
use crate::support::eventually;

const PLAYERS: [&str; 4] = ["a", "b", "c", "d"];
const WAYS: [(Operator, Order); 5] = [
    (Operator::Best, Order::Descending),
    (Operator::Best, Order::Ascending),
    (Operator::Set, Order::Descending),
    (Operator::Incr, Order::Descending),
    (Operator::Decr, Order::Ascending),
];

/// Player, score, subscore, time, event, metadata: full of ties, and with the extremes.
type RawFact = (usize, i64, i64, i64, u128, Option<&'static str>);

fn raw_fact() -> impl Strategy<Value = RawFact> {
    let number = || prop_oneof![-2i64..3, Just(i64::MAX), Just(i64::MIN), any::<i64>()];
    let metadata = prop_oneof![Just(None), Just(Some("{\"x\":1}")), Just(Some("[ 1e3 ]"))];
    let scores = prop_oneof![(number(), number()), Just((0, 0))];
    (0..PLAYERS.len(), scores, 0i64..3, prop_oneof![0u128..3, any::<u128>()], metadata)
        .prop_map(|(player, (score, subscore), at, event, metadata)| (player, score, subscore, at, event, metadata))
}

fn state((_, score, subscore, at, event, metadata): &RawFact, operator: Operator) -> EntryState {
    let fact = Fact {
        generation: BoardGenerationId(1),
        period: Period::WHOLE,
        player_id: "",
        score: *score,
        subscore: *subscore,
        occurred_at: Micros(*at),
        event_id: Uuid::from_u128(*event),
        received_at: Micros(0),
        metadata: *metadata,
    };
    EntryState::from_fact(operator, &fact)
}

/// A period for each of the ways in which entries merge.
async fn periods(arena: &Arena) -> Vec<i64> {
    let mut ids = Vec::new();
    for (n, _) in WAYS.iter().enumerate() {
        let board = arena.board(&format!("way-{n}"), json!({})).await;
        let id = sqlx::query_scalar(
            "INSERT INTO leaderboard_periods (generation_id, starts_at) VALUES ($1, 'epoch') RETURNING id",
        );
        ids.push(id.bind(board.0).fetch_one(arena.pool()).await.unwrap());
    }
    ids
}

#[tokio::test]
async fn the_database_merges_entries_as_the_domain_does() {
    let arena = Arena::new().await;
    let periods = periods(&arena).await;
    let mut runner = TestRunner::deterministic();
    let mut transaction = arena.pool().begin().await.unwrap();
    let mut model: Vec<Vec<Option<StoredEntry>>> = vec![vec![None; PLAYERS.len()]; WAYS.len()];
    for _ in 0..150 {
        // One group: at most one state of each player, in every way at once.
        let group = proptest::collection::vec(raw_fact(), 1..4).new_tree(&mut runner).unwrap().current();
        let mut states = Vec::new();
        for (way, (operator, order)) in WAYS.iter().enumerate() {
            let mut taken = [false; PLAYERS.len()];
            for raw in group.iter().filter(|raw| !std::mem::replace(&mut taken[raw.0], true)) {
                states.push((way, *operator, *order, raw.0, state(raw, *operator)));
            }
        }
        let fresh: Vec<FreshEntry<'_>> = states
            .iter()
            .map(|(way, operator, order, player, state)| FreshEntry {
                period_id: periods[*way],
                player_id: PLAYERS[*player],
                operator: *operator,
                order: *order,
                state,
            })
            .collect();
        let version = next_version(&mut transaction).await.unwrap();
        let changed = merge(&mut transaction, version, &fresh).await.unwrap();
        for ((way, operator, order, player, state), changed) in states.iter().zip(changed) {
            let entry = &mut model[*way][*player];
            let moved = match entry {
                None => {
                    *entry = Some(StoredEntry { state: state.clone(), version });
                    true
                }
                Some(entry) => entry.state.merge(*operator, *order, state.clone()),
            };
            let entry = entry.as_mut().unwrap();
            entry.version = if moved { version } else { entry.version };
            assert_eq!(changed, moved.then(|| entry.state.published()), "{operator:?} {order:?} {group:?}");
        }
    }
    for ((period, entries), way) in periods.iter().zip(model).zip(WAYS) {
        let stored = read(&mut transaction, &[*period; PLAYERS.len()], &PLAYERS).await.unwrap();
        let expected: Vec<(usize, StoredEntry)> =
            entries.into_iter().enumerate().filter_map(|(n, entry)| Some((n, entry?))).collect();
        assert_eq!(stored, expected, "{way:?}");
    }
    transaction.rollback().await.unwrap();
}

/// Who is where: each entry's player, score, moment, metadata and version, as a board ranks them.
async fn ranked(arena: &Arena, board: BoardGenerationId) -> Vec<(String, i64, Micros, Option<String>, i64)> {
    sqlx::query_as(
        "SELECT player_id, e.score, reached_at, metadata::text, version
           FROM leaderboard_entries e JOIN leaderboard_periods p ON p.id = e.period_id
          WHERE p.generation_id = $1 ORDER BY e.score DESC, e.subscore DESC, reached_at",
    )
    .bind(board.0)
    .fetch_all(arena.pool())
    .await
    .unwrap()
}

fn points(player: &'static str, score: i64, subscore: i64, at: i64) -> Play<'static> {
    Play { subscore, metadata: Some(if score == 0 { "\"zero\"" } else { "\"points\"" }), ..play(player, score, at) }
}

#[tokio::test]
async fn zero_points_move_no_standing_and_lose_no_tie() {
    let arena = Arena::new().await;
    for operator in ["incr", "decr"] {
        let sign = if operator == "decr" { -1 } else { 1 };
        let all = [
            points("anna", 10 * sign, 1, 10),
            points("ben", 10 * sign, 1, 20),
            points("anna", 0, 0, 30),
            // Nothing but zeros: the first made the entry.
            points("zoe", 0, 0, 5),
            points("yan", 0, 0, 6),
            points("zoe", 0, 0, 40),
            // Up and down again has moved.
            points("max", 3, 0, 7),
            points("max", -3, 0, 50),
        ];
        let board = |name: &str, state: &'static str| {
            let (name, arena) = (format!("{name}-{operator}"), &arena);
            async move { arena.board_in(&name, json!({"operator": operator}), state).await }
        };
        let one_by_one = board("ties", "live").await;
        for play in &all {
            let before = ranked(&arena, one_by_one).await;
            arena.score(one_by_one, std::slice::from_ref(play)).await;
            if play.score == 0 && before.iter().any(|entry| entry.0 == play.player) {
                assert_eq!(ranked(&arena, one_by_one).await, before, "{operator}: a zero of {} moved it", play.player);
            }
        }
        let places = |ranked: Vec<(String, i64, Micros, Option<String>, i64)>| {
            ranked.into_iter().map(|(player, score, at, metadata, _)| (player, score, at, metadata)).collect::<Vec<_>>()
        };
        let expected = places(ranked(&arena, one_by_one).await);
        let names: Vec<&str> = expected.iter().map(|entry| entry.0.as_str()).collect();
        assert_eq!(names, ["anna", "ben", "zoe", "yan", "max"], "{operator}");
        let at_once = board("at-once", "live").await;
        arena.score(at_once, &all).await;
        assert_eq!(places(ranked(&arena, at_once).await), expected, "{operator}: of one batch");
        let recomputed = board("recomputed", "building").await;
        let mut backwards = all.to_vec();
        backwards.reverse();
        for play in &backwards {
            arena.score(recomputed, std::slice::from_ref(play)).await;
        }
        assert_eq!(places(ranked(&arena, recomputed).await), expected, "{operator}: in another order");
    }
}

/// Merges one fresh entry in each way, so that the statements are prepared; returns how Postgres would do them now.
async fn plans(transaction: &mut PgConnection, periods: &[i64]) -> Vec<String> {
    let version = next_version(transaction).await.unwrap();
    let states: Vec<EntryState> = WAYS.iter().map(|way| state(&(0, 1, 1, 1, 1, None), way.0)).collect();
    let fresh: Vec<FreshEntry<'_>> = (0..WAYS.len())
        .map(|n| FreshEntry {
            period_id: periods[n],
            player_id: "a",
            operator: WAYS[n].0,
            order: WAYS[n].1,
            state: &states[n],
        })
        .collect();
    merge(transaction, version, &fresh).await.unwrap();
    // As a fold of many entries would.
    let updates: Vec<String> = sqlx::query_scalar(
        "SELECT format('EXPLAIN EXECUTE %I (%L, %L, ''{}'',''{}'',''{}'',''{}'',''{}'',''{}'',1)', name,
                       array_agg(1), array_agg('p-' || n))
           FROM pg_prepared_statements, generate_series(1, 20000) AS n
          WHERE statement ~ '^\\s*UPDATE leaderboard_entries' GROUP BY name",
    )
    .fetch_all(&mut *transaction)
    .await
    .unwrap();
    assert_eq!(updates.len(), 4, "one for each way to merge");
    let mut plans = Vec::new();
    for explain in updates {
        let plan: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *transaction).await.unwrap();
        plans.push(plan.join("\n"));
    }
    plans
}

#[tokio::test]
async fn a_fold_looks_entries_up_however_small_the_table_was_when_it_was_planned() {
    let arena = Arena::new().await;
    let periods = periods(&arena).await;
    let looks_up = |plans: Vec<String>| {
        for plan in plans {
            let cond = "Index Cond: ((period_id = f.period_id) AND (player_id = (f.player_id)::text))";
            assert!(plan.contains(cond) && plan.contains("Nested Loop") && !plan.contains("Memoize"), "{plan}");
        }
    };
    let analyze = "ANALYZE leaderboard_entries";
    // Who owns a table counts it; autovacuum may, too.
    let mut owner = arena.database.owner().await;
    sqlx::query(analyze).execute(&mut owner).await.unwrap();
    let mut transaction = owner.begin().await.unwrap();
    // On an empty table any plan is as good; it must not be the one that is kept.
    plans(&mut transaction, &periods).await;
    sqlx::query(
        "INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
         SELECT $1, 'q-' || n, 0, 0, now(), gen_random_uuid(), 1, 1 FROM generate_series(1, 12000) AS n",
    )
    .bind(periods[0])
    .execute(&mut *transaction)
    .await
    .unwrap();
    looks_up(plans(&mut transaction, &periods).await);
    sqlx::query(analyze).execute(&mut *transaction).await.unwrap();
    looks_up(plans(&mut transaction, &periods).await);
    let mode: String = sqlx::query_scalar("SHOW plan_cache_mode").fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(mode, "force_generic_plan", "a table that was counted is planned for once");
    transaction.rollback().await.unwrap();
}

/// An open transaction that has made an entry of b's.
async fn make_entry(pool: &Pool, period_id: i64) -> Result<Transaction, sqlx::Error> {
    let state = &state(&(0, 5, 0, 9, 1, None), Operator::Best);
    let (operator, order) = (Operator::Best, Order::Descending);
    let mut transaction = pool.begin().await?;
    let version = next_version(&mut transaction).await?;
    merge(&mut transaction, version, &[FreshEntry { period_id, player_id: "b", operator, order, state }]).await?;
    Ok(transaction)
}

#[tokio::test]
async fn an_entry_that_somebody_else_made_meanwhile_rolls_the_fold_back_and_the_next_one_counts_both() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    let period = arena.count("SELECT id FROM leaderboard_periods").await;
    // Two transactions that both see no entry of b's; leases keep that from happening.
    let first = make_entry(arena.pool(), period).await.unwrap();
    let (pool, waits) = (arena.pool().clone(), period);
    let second = tokio::spawn(async move { make_entry(&pool, waits).await.map(drop) });
    eventually("the second waits for the first", Duration::from_secs(10), async || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        arena.count(waiting).await > 0
    })
    .await;
    first.commit().await.unwrap();
    let refused = second.await.unwrap().unwrap_err();
    assert_eq!(refused.as_database_error().and_then(|e| e.code()).as_deref(), Some("23505"), "{refused}");
    arena.score(board, &[play("b", 3, 9)]).await;
    assert_eq!(arena.entries(board).await["b"].2, 2, "plays");
}
