//! The statements of docs/locks.md that can meet, each against each.

use scoreline::aggregator::fold::{FoldError, fold_once};
use scoreline::aggregator::rules::Rules;
use scoreline::aggregator::shards::of_lane;
use scoreline::domain::clock::Micros;
use scoreline::domain::fact::shard_of;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::store::fold_periods::Place;
use scoreline::store::leases::{self, Lease};
use scoreline::store::pool::Pool;
use scoreline::store::{dead_letters, fold_periods, processes, recompute_steps, retention, swap};
use serde_json::json;
use uuid::Uuid;

use super::meeting::{Party, deadlocked, meet, meet_inserting, statements};
use crate::fold::arena::{Arena, Play, play, seconds};
use crate::support::postgres::database;

const DAY: i64 = 86_400;

/// The first and the last period by id: as a fold finds them.
const PERIODS: [&str; 2] = [
    "SELECT 1 FROM leaderboard_periods WHERE id = (SELECT min(id) FROM leaderboard_periods) FOR UPDATE",
    "SELECT 1 FROM leaderboard_periods WHERE id = (SELECT max(id) FROM leaderboard_periods) FOR UPDATE",
];

#[tokio::test]
async fn opposite_orders_are_found_out_by_how_parties_meet() {
    let database = database().await;
    sqlx::query("INSERT INTO leases VALUES ('a', 'x', 1, now()), ('b', 'x', 2, now())")
        .execute(&database.pool)
        .await
        .unwrap();
    let up = statements(
        &database.pool,
        &["UPDATE leases SET holder = '1' WHERE name = 'a'", "UPDATE leases SET holder = '1' WHERE name = 'b'"],
    );
    let down = statements(
        &database.pool,
        &["UPDATE leases SET holder = '2' WHERE name = 'b'", "UPDATE leases SET holder = '2' WHERE name = 'a'"],
    );
    let ended = meet(
        &database.pool,
        ["SELECT 1 FROM leases WHERE name = 'a' FOR UPDATE", "SELECT 1 FROM leases WHERE name = 'b' FOR UPDATE"],
        [up, down],
    )
    .await;
    assert!(deadlocked(&ended), "{ended:?}");
}

/// A player whose facts of this board are folded in this lane.
fn player_of(board: BoardGenerationId, lane: u16) -> String {
    (0..).map(|n| format!("p-{n}")).find(|player| shard_of(board, player) % 2 == lane).unwrap()
}

fn folding(arena: &Arena, lane: i16) -> Party {
    let (pool, held) = (arena.pool().clone(), of_lane(arena.shards.held(), lane));
    let rules = Rules::new(pool.clone());
    Box::pin(async move {
        rules.reload().await?;
        match fold_once(&pool, &rules, &held, 100).await {
            Ok(_) => Ok(()),
            Err(FoldError::Postgres(error)) => Err(error),
            Err(FoldError::LeaseLost) => Err(sqlx::Error::RowNotFound),
        }
    })
}

/// Two boards of one event type at their reset: one lane has late scores of the first and timely ones of the second,
/// the other lane has it the other way round. `closed`: what is late is so because the period is frozen.
async fn folds_that_cross(closed: bool) {
    let arena = Arena::new().await;
    let spec = json!({"reset": "daily", "grace_seconds": 0});
    let boards = [arena.board("x", spec.clone()).await, arena.board("y", spec).await];
    for board in boards {
        for lane in [0, 1] {
            arena.facts(board, &[play(&player_of(board, lane), 1, 0)]).await;
        }
    }
    arena.fold().await;
    if closed {
        sqlx::query("UPDATE leaderboard_periods SET state = 'closed'").execute(arena.pool()).await.unwrap();
    }
    for (n, board) in boards.into_iter().enumerate() {
        for lane in [0u16, 1] {
            let received = if usize::from(lane) == n && !closed { DAY } else { 0 };
            arena.facts(board, &[Play { received, ..play(&player_of(board, lane), 2, 0) }]).await;
        }
    }
    let ended = meet(arena.pool(), PERIODS, [folding(&arena, 0), folding(&arena, 1)]).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    let late = arena.count("SELECT sum(late_count)::bigint FROM leaderboard_periods").await;
    assert_eq!((late, arena.count("SELECT count(*) FROM score_facts").await), (if closed { 4 } else { 2 }, 0));
}

#[tokio::test]
async fn folds_late_in_one_period_and_timely_in_another_do_not_deadlock() {
    folds_that_cross(false).await;
}

#[tokio::test]
async fn folds_of_frozen_periods_do_not_deadlock() {
    folds_that_cross(true).await;
}

/// A board with two days, of which the later is made first: a fold has its facts in the order of time, which is not
/// that of ids. Facts of both days wait in lane 0.
async fn two_days() -> (Arena, BoardGenerationId) {
    let arena = Arena::new().await;
    let board = arena.board("x", json!({"reset": "daily"})).await;
    let player = player_of(board, 0);
    for day in [DAY, 0] {
        arena.facts(board, &[play(&player, 1, day)]).await;
        arena.fold().await;
    }
    arena.facts(board, &[play(&player, 2, 0), play(&player, 2, DAY)]).await;
    (arena, board)
}

#[tokio::test]
async fn a_fold_and_a_recompute_that_want_the_same_periods_do_not_deadlock() {
    let (arena, board) = two_days().await;
    let schedule = &arena.rules.board(board).unwrap().schedule;
    let places = [0, DAY].map(|day| (board, schedule.period_at(seconds(day))));
    let pool = arena.pool().clone();
    let recomputing: Party = Box::pin(async move {
        let mut transaction = pool.begin().await?;
        recompute_steps::lock_periods(&mut transaction, &places).await?;
        transaction.commit().await
    });
    let ended = meet(arena.pool(), PERIODS, [folding(&arena, 0), recomputing]).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
}

#[tokio::test]
async fn a_fold_and_a_swap_that_waits_for_it_do_not_deadlock() {
    let (arena, board) = two_days().await;
    let pool = arena.pool().clone();
    let swapping: Party = Box::pin(async move { swap::let_folds_end(&pool, board).await });
    let ended = meet(arena.pool(), PERIODS, [folding(&arena, 0), swapping]).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_eq!(arena.count("SELECT count(*) FROM score_facts").await, 0);
}

#[tokio::test]
async fn processes_that_create_the_same_periods_do_not_deadlock() {
    let arena = Arena::new().await;
    // Of one board: periods of two come in the order in which the plan finds boards, whatever is asked for.
    let board = arena.board("x", json!({"reset": "daily"})).await;
    let day = |n: i64| {
        let starts_at = Micros::from_seconds(1_767_225_600 + n * DAY);
        (board, Period { starts_at, ends_at: Some(starts_at.plus_seconds(DAY)) })
    };
    let creating = |places: [Place; 2]| -> Party {
        let pool = arena.pool().clone();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            fold_periods::create(&mut connection, &places).await
        })
    };
    let parties = [creating([day(0), day(1)]), creating([day(1), day(0)])];
    let ended = meet_inserting(&arena.database, "leaderboard_periods", parties).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_eq!(arena.count("SELECT count(*) FROM leaderboard_periods").await, 2);
}

/// Two leases that stand in the table the other way round than by name.
async fn two_leases(pool: &Pool) -> Vec<Lease> {
    let mut held = Vec::new();
    for name in ["fold-2", "fold-1"] {
        held.push(leases::acquire(pool, name, "me").await.unwrap().unwrap());
    }
    held
}

const LEASES: [&str; 2] =
    ["SELECT 1 FROM leases WHERE name = 'fold-1' FOR UPDATE", "SELECT 1 FROM leases WHERE name = 'fold-2' FOR UPDATE"];

#[tokio::test]
async fn renewals_sign_offs_and_folds_of_several_leases_do_not_deadlock() {
    // What a fold of the version before locks: it runs beside this one while a release rolls out.
    const OLD_FOLD: &[&str] = &["SELECT name FROM leases WHERE name LIKE 'fold-%' ORDER BY name FOR SHARE"];
    let database = database().await;
    let pool = &database.pool;
    let held = two_leases(pool).await;
    let renewing = || -> Party {
        let (pool, held) = (pool.clone(), held.clone());
        Box::pin(async move { leases::renew(&pool, &held).await.map(drop) })
    };
    let releasing = || -> Party {
        let (pool, held) = (pool.clone(), held.clone());
        Box::pin(async move { leases::release(&pool, &held).await })
    };
    let folding = || -> Party {
        let (pool, held) = (pool.clone(), held.clone());
        Box::pin(async move {
            let mut transaction = pool.begin().await?;
            leases::lock_and_check(&mut transaction, &held).await?;
            transaction.commit().await
        })
    };
    for parties in [
        [renewing(), statements(pool, OLD_FOLD)],
        [releasing(), statements(pool, OLD_FOLD)],
        [renewing(), releasing()],
        [renewing(), folding()],
        [releasing(), folding()],
    ] {
        let ended = meet(pool, LEASES, parties).await;
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    }
}

/// Two letters: the one that was received first stands second, in the table and by its id.
async fn two_letters(pool: &Pool) -> Vec<Uuid> {
    let ids = [Uuid::from_u128(1), Uuid::from_u128(2)];
    for (n, id) in ids.iter().enumerate() {
        sqlx::query(
            "INSERT INTO dead_letters (id, job_id, queue, lane, kind, reason, error, attempts, crashes, payload,
                                       received_at)
             VALUES ($1, $2, 'q0', 'low', 'k', 'r', 'e', 1, 0, '', now() - make_interval(hours => $3))",
        )
        .bind(id)
        .bind(format!("job-{n}"))
        .bind(n as i32)
        .execute(pool)
        .await
        .unwrap();
    }
    ids.to_vec()
}

const LETTERS: [&str; 2] = [
    "SELECT 1 FROM dead_letters WHERE job_id = 'job-1' FOR UPDATE",
    "SELECT 1 FROM dead_letters WHERE job_id = 'job-0' FOR UPDATE",
];

#[tokio::test]
async fn operators_that_decide_about_the_same_letters_do_not_deadlock() {
    let database = database().await;
    let pool = &database.pool;
    let ids = two_letters(pool).await;
    // It happens to read them in order; nothing says that it is always used.
    let mut owner = database.owner().await;
    sqlx::query("DROP INDEX dead_letters_waiting").execute(&mut owner).await.unwrap();
    let discarding = {
        let (pool, ids) = (pool.clone(), ids.clone());
        Box::pin(async move {
            let mut transaction = pool.begin().await?;
            dead_letters::decide(&mut transaction, None, &ids, "discarded").await?;
            transaction.commit().await
        })
    };
    let replaying = {
        let (pool, ids) = (pool.clone(), ids.clone());
        Box::pin(async move {
            let mut transaction = pool.begin().await?;
            let waiting = dead_letters::lock_waiting(&mut transaction, None, &ids).await?;
            let waiting: Vec<Uuid> = waiting.into_iter().map(|letter| letter.id).collect();
            dead_letters::decide(&mut transaction, None, &waiting, "replayed").await?;
            transaction.commit().await
        })
    };
    let ended = meet(pool, LETTERS, [discarding, replaying]).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    let decided: i64 = sqlx::query_scalar("SELECT count(DISTINCT state) FROM dead_letters WHERE state <> 'waiting'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(decided, 1, "one of them decided about both");
}

#[tokio::test]
async fn what_cleans_up_waits_for_nobody() {
    let database = database().await;
    let pool = &database.pool;
    two_letters(pool).await;
    for statement in [
        "UPDATE dead_letters SET state = 'discarded', decided_at = now() - interval '2 days'",
        "INSERT INTO processes VALUES ('old', 'cron', 4, now() - interval '2 days'), ('mine', 'cron', 4, now())",
        "INSERT INTO leases VALUES ('recompute-1', 'x', 1, now() - interval '2 days')",
        "INSERT INTO audit_log (at, actor, action, subject) VALUES (now() - interval '2 days', 'a', 'b', 'c')",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
    let mut others = pool.begin().await.unwrap();
    for lock in [
        "SELECT 1 FROM dead_letters FOR UPDATE",
        "SELECT 1 FROM processes WHERE id = 'old' FOR UPDATE",
        "SELECT 1 FROM leases FOR KEY SHARE",
        "SELECT 1 FROM audit_log FOR UPDATE",
    ] {
        sqlx::query(lock).execute(&mut *others).await.unwrap();
    }
    let mut cleaning = pool.acquire().await.unwrap();
    sqlx::query("SET lock_timeout = '1ms'").execute(&mut *cleaning).await.unwrap();
    let day = std::time::Duration::from_secs(86_400);
    assert_eq!(retention::dead_letters(&mut cleaning, day, 10).await.unwrap(), 0);
    assert_eq!(retention::audit_log(&mut cleaning, day, 10).await.unwrap(), 0);
    assert_eq!(retention::processes(&mut cleaning, day, 10).await.unwrap(), 0);
    assert_eq!(retention::recompute_leases(&mut cleaning, day, 10).await.unwrap(), 0);
    processes::unregister(&mut *cleaning, "mine").await.unwrap();
    others.rollback().await.unwrap();
    assert_eq!(retention::dead_letters(&mut cleaning, day, 10).await.unwrap(), 2);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM processes").fetch_one(pool).await.unwrap();
    assert_eq!(left, 1, "its own row went at once");
}
