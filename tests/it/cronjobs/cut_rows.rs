//! A row of facts is cut up where its fold takes too long. Whoever waits for the row waits for what came of it.

use std::sync::Arc;
use std::time::Duration;

use scoreline::aggregator::close_periods::close_due;
use scoreline::aggregator::fold::{FoldError, fold_once};
use scoreline::aggregator::recompute::{Outcome, build};
use scoreline::aggregator::refused::Refused;
use scoreline::domain::fact::shard_of;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::store::leases::Lease;
use serde_json::json;

use super::stage::Stage;
use crate::support::{eventually, nothing_happens_for};

/// More than three entries at once take Postgres too long.
const TOO_LONG: &str = "
    CREATE FUNCTION too_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT count(*) FROM many) > 3 THEN RAISE EXCEPTION 'too long' USING ERRCODE = '57014'; END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER too_long AFTER INSERT ON leaderboard_entries REFERENCING NEW TABLE AS many
        FOR EACH STATEMENT EXECUTE FUNCTION too_long()";

/// The row at the front of a shard fails alone until it is cut up.
async fn cut(stage: &Stage, held: &[Lease]) {
    let mut refused = Refused::default();
    loop {
        let folded = fold_once(stage.pool(), &stage.rules, held, 1).await;
        let Err(FoldError::Postgres(error)) = folded else { panic!("{folded:?}") };
        if refused.met(stage.pool(), &stage.rules, held, 1.into(), &error).await.unwrap() {
            return;
        }
    }
}

/// It would be shown without them; and a period that is over would be frozen without them.
#[tokio::test]
async fn a_board_waits_for_the_parts_of_a_cut_row() {
    let stage = Stage::new("2026-11-22T01:00:00Z").await;
    // The first of its database.
    let generation = BoardGenerationId(1);
    let shard = shard_of(generation, "p-0");
    let in_one_row = |player: &String| shard_of(generation, player) == shard;
    let players: Vec<String> = (0..).map(|n| format!("p-{n}")).filter(in_one_row).take(20).collect();
    let events: Vec<_> = players.iter().map(|player| stage.event(player, 5, "2026-11-21T10:00:00Z")).collect();
    stage.accept(&events).await;
    assert_eq!(stage.create("daily", json!({"reset": "daily"})).await.id, generation);
    sqlx::raw_sql(TOO_LONG).execute(&mut stage.database.superuser().await).await.unwrap();
    let context = Arc::clone(&stage.context);
    let building = tokio::spawn(async move { build(&context, generation).await });
    eventually("the facts of the recompute wait in one row", Duration::from_secs(60), async || {
        stage.count("SELECT count(*) FROM score_facts WHERE games = '{}' AND fact_count = 20").await == 1
    })
    .await;
    stage.shards.renew().await.unwrap();
    let held = stage.shards.held().into_iter().filter(|lease| lease.name == format!("fold-{shard}"));
    let held: Vec<Lease> = held.collect();
    cut(&stage, &held).await;
    assert_eq!(stage.count("SELECT count(*) FROM score_facts WHERE fact_count = 1").await, 20);
    nothing_happens_for(Duration::from_secs(2)).await;
    assert!(!building.is_finished(), "it waits for each of them");
    stage.shards.renew().await.unwrap();
    while fold_once(stage.pool(), &stage.rules, &held, 3).await.unwrap().facts > 0 {}
    assert_eq!(building.await.unwrap().unwrap(), Outcome::Live);
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(stage.count("SELECT count(*) FROM period_standings").await, 20);
}
