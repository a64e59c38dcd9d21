//! Nothing that cron does again and again reads a table whole that grows for ever.

use std::path::Path;

use scoreline::store::outbox::Outbox;
use sqlx::{AssertSqlSafe, PgConnection};

use super::stage::Stage;
use crate::stack::rules::{is_statement, literals, sources};

/// Files of `src/store` whose statements run on a schedule, or with every fold.
const SCHEDULED: [&str; 11] = [
    "baseline.rs",
    "definitions.rs",
    "entries.rs",
    "facts.rs",
    "fold_periods.rs",
    "markers.rs",
    "outbox.rs",
    "period_closing.rs",
    "recompute_steps.rs",
    "retention.rs",
    "under_way.rs",
];
/// What grows for ever, or for as long as somebody keeps an old snapshot.
const GROWING: [&str; 6] = [
    "leaderboard_periods",
    "dead_letters",
    "leaderboard_generations",
    "score_facts",
    "dirty_entries",
    "entry_baseline",
];
/// Statements that may, by how they begin: they run once for thousands of events that are dropped, once when a process
/// goes on with a recompute that another began, or when a fold has failed; or they end at a limit that the first rows
/// fill.
const ALLOWED: [&str; 6] = [
    "SELECT p.generation_id, p.starts_at\n           FROM leaderboard_periods p JOIN",
    "SELECT DISTINCT coalesce(first_id, id) FROM score_facts WHERE (games = '{}' OR games IS NULL)",
    "SELECT id FROM score_facts WHERE shard = $1 ORDER BY id LIMIT 1",
    "SELECT coalesce((SELECT id FROM dirty_entries WHERE shard >= 0 ORDER BY id DESC LIMIT 1), 0)",
    "WITH few AS MATERIALIZED (\n             SELECT min_received_at, games FROM score_facts WHERE shard >= 0",
    "DELETE FROM entry_baseline b\n        USING (WITH RECURSIVE place AS (",
];

/// Years of a large installation: what is over, decided or retired stands beside the few that are not.
async fn grow(stage: &Stage) {
    for statement in [
        "INSERT INTO games (slug, name) SELECT 'game-' || n, 'n' FROM generate_series(1, 50) n",
        "INSERT INTO leaderboards (game_id, slug, spec)
         SELECT (SELECT min(id) FROM games) + n % 50, 'b-' || n, '{}' FROM generate_series(1, 1000) n",
        "INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state, retired_at, cleaned_at)
         SELECT l.id, n, '{\"grace_seconds\": 600, \"order\": \"descending\"}',
                CASE WHEN n = 30 THEN 'live' ELSE 'retired' END, '2026-01-01', '2026-01-02'
           FROM leaderboards l, generate_series(1, 30) n",
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at, state, closed_at, unpublished_at)
         SELECT id, t, t + interval '1 day', 'closed', t + interval '2 days', t + interval '3 days'
           FROM leaderboard_generations, generate_series('2026-01-01'::timestamptz, '2026-08-01', '1 day') t
          WHERE state = 'live'",
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
         SELECT id, '2026-11-20', '2026-11-21' FROM leaderboard_generations WHERE state = 'live'",
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload,
                                   received_at, state, decided_at)
         SELECT gen_random_uuid(), n::text, 'q0', 'high', 'persist-events', n % 50, 'r', 'e', 1, 0, '',
                '2026-11-01'::timestamptz + n * interval '1 second',
                CASE WHEN n % 1000 = 0 THEN 'waiting' ELSE 'discarded' END, now()
           FROM generate_series(1, 50000) n",
        "INSERT INTO score_facts (shard, fact_count, min_received_at, facts, games)
         SELECT CASE WHEN n % 10000 = 0 THEN -1 ELSE n % 4 END, 1000, now(), '', '{1}' FROM generate_series(1, 50000) n",
        "INSERT INTO dirty_entries (shard, entries) SELECT n % 4, '' FROM generate_series(1, 50000) n",
        "INSERT INTO entry_baseline (generation_id, period_start, player_id, score, subscore, reached_at, event_id, plays)
         SELECT id, 'epoch', 'p-' || n, 1, 0, now(), gen_random_uuid(), 1
           FROM leaderboard_generations, generate_series(1, 50) n WHERE state = 'live'",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    sqlx::query("ANALYZE").execute(&mut stage.database.owner().await).await.unwrap();
}

/// Indexes that have every row of a table that grows.
async fn whole_indexes(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT indexrelid::regclass::text FROM pg_index
          WHERE indpred IS NULL AND indrelid = ANY (SELECT name::regclass FROM unnest($1::text[]) AS name)",
    )
    .bind(GROWING.as_slice())
    .fetch_all(connection)
    .await
    .unwrap()
}

/// Whether a plan reads a table that grows whole: as it stands, or by an index that has all of it and without a place
/// to begin at.
fn reads_all(plan: &[String], whole_indexes: &[String]) -> bool {
    plan.iter().enumerate().any(|(n, line)| {
        let walks = |index: &String| {
            line.contains(&format!("Scan using {index} on"))
                || line.contains(&format!("Scan Backward using {index} on"))
                || line.contains(&format!("Bitmap Index Scan on {index} "))
        };
        GROWING.iter().any(|table| line.contains(&format!("Seq Scan on {table} ")))
            || whole_indexes.iter().any(walks) && !plan.get(n + 1).is_some_and(|next| next.contains("Index Cond"))
    })
}

/// Parameters of a statement: the highest `$n`.
fn parameters(statement: &str) -> usize {
    let numbers = statement.split('$').skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    numbers.max().unwrap_or_default()
}

#[tokio::test]
async fn nothing_on_a_schedule_reads_a_growing_table_whole() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    grow(&stage).await;
    let mut connection = stage.pool().acquire().await.unwrap();
    sqlx::query("SET plan_cache_mode = force_generic_plan").execute(&mut *connection).await.unwrap();
    let whole = whole_indexes(&mut connection).await;
    assert!(whole.len() >= GROWING.len(), "{whole:?}");
    let (mut read, mut wrong) = (0, Vec::new());
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("src/store")) {
        if !SCHEDULED.iter().any(|file| path == &Path::new("src/store").join(file)) {
            continue;
        }
        let written = literals(text).into_iter().filter(|literal| is_statement(literal));
        let filled = written.flat_map(|text| {
            let text = text.replace("{o}", "ASC");
            let mut texts = Outbox::ALL.map(|outbox| outbox.fill(&text)).to_vec();
            texts.dedup();
            texts
        });
        for statement in filled {
            if !GROWING.iter().any(|table| statement.contains(table))
                || ALLOWED.iter().any(|allowed| statement.starts_with(allowed))
            {
                continue;
            }
            let prepare = format!("DEALLOCATE ALL; PREPARE planned AS {statement}");
            sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await.unwrap();
            let nothing = vec!["NULL"; parameters(&statement)].join(", ");
            let explain =
                if nothing.is_empty() { "EXECUTE planned".into() } else { format!("EXECUTE planned ({nothing})") };
            let plan: Vec<String> = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN {explain}")))
                .fetch_all(&mut *connection)
                .await
                .unwrap()
                .iter()
                .map(|row| sqlx::Row::get::<String, _>(row, 0))
                .collect();
            if reads_all(&plan, &whole) {
                wrong.push(format!("{}:\n{statement}\n{}\n", path.display(), plan.join("\n")));
            }
            read += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(read > 40, "only {read} statements were looked at");
}
