//! The operator's commands, run as the binary that operators run.

use std::process::Output;

use hyper::StatusCode;
use scoreline::domain::clock::Micros;
use scoreline::store::periods;
use serde_json::{Value, json};

use super::world::{World, board};

impl World {
    async fn cli(&self, arguments: &[&str]) -> Output {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .args(arguments)
            .env("DATABASE_URL", &self.db.url)
            .env("REDIS_URL", &self.redis.url)
            .env("REDIS_PREFIX", "sl")
            .output()
            .await
            .unwrap()
    }

    async fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[tokio::test]
async fn a_game_is_run_from_the_command_line() {
    let world = World::new().await;
    let created = world.cli_json(&["game", "create", "chess", "--name", "Chess"]).await;
    let key = created["client_key"].as_str().unwrap();
    crate::support::eventually("the api takes the key", std::time::Duration::from_secs(2), || async {
        world.get("/v1/leaderboards", Some(key)).await.status == StatusCode::OK
    })
    .await;
    let text = world.cli(&["game", "list"]).await;
    assert!(String::from_utf8(text.stdout).unwrap().contains("chess"));
    let again = world.cli(&["game", "create", "chess"]).await;
    assert_eq!(again.status.code(), Some(4));
    assert!(String::from_utf8(again.stderr).unwrap().contains("already"));

    let file = std::env::temp_dir().join(format!("scoreline-cli-{}.json", created["game"]["id"]));
    let file = file.with_extension(format!("{}.json", world.address.port()));
    std::fs::write(&file, board("global").to_string()).unwrap();
    let path = file.to_str().unwrap();
    let applied = world.cli_json(&["leaderboard", "apply", path, "--game", "chess"]).await;
    assert_eq!((&applied["result"], &applied["state"]), (&json!("created"), &json!("live")));
    assert_eq!(world.cli_json(&["leaderboard", "apply", path, "--game", "chess"]).await["result"], "unchanged");
    std::fs::write(&file, "{\"slug\":\"global\",\"event\":\"x\"}").unwrap();
    let wrong = world.cli(&["leaderboard", "apply", path, "--game", "chess"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("unknown field 'event'"));
    std::fs::remove_file(&file).unwrap();
    let shown = world.cli_json(&["leaderboard", "show", "global", "--game", "chess"]).await;
    assert_eq!(shown["definition"]["event_type"], "game_ended");
    assert_eq!(world.cli(&["leaderboard", "show", "nope", "--game", "chess"]).await.status.code(), Some(3));
    assert_eq!(world.cli(&["leaderboard", "list", "--game", "nope"]).await.status.code(), Some(3));
    assert_eq!(world.cli_json(&["rebuild"]).await["rebuilt"][0]["leaderboard"], "chess/global");

    let made = world.cli_json(&["key", "create", "--game", "chess", "--kind", "server"]).await;
    let id = made["id"].to_string();
    assert_eq!(world.cli_json(&["key", "list", "--game", "chess"]).await["keys"].as_array().unwrap().len(), 3);
    assert!(world.cli_json(&["key", "revoke", &id]).await["revoked_at"].is_string());
    assert_eq!(world.cli(&["key", "revoke", "9999"]).await.status.code(), Some(3));
    let log = world.cli_json(&["audit-log", "--game", "chess"]).await;
    assert_eq!((&log["changes"][0]["action"], &log["changes"][0]["actor"]), (&json!("key.revoke"), &json!("cli")));

    let begun = world.cli_json(&["recompute", "--game", "chess", "--leaderboard", "global", "--no-wait"]).await;
    assert_eq!(begun["recomputed"][0]["state"], "building");
    // Nobody would ever finish it here: the command says so instead of waiting.
    let output = world.cli(&["recompute", "--game", "chess", "--leaderboard", "global"]).await;
    assert!(output.status.success() && String::from_utf8(output.stderr).unwrap().contains("no cron process"));
}

#[tokio::test]
async fn an_audit_says_what_differs_by_its_exit_code_too() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let live = world.board(&game, board("global")).await;
    let clean = world.cli_json(&["audit"]).await;
    assert_eq!((&clean["clean"], &clean["leaderboards"][0]["leaderboard"]), (&json!(true), &json!("demo/global")));
    // An entry that Redis lacks and that no event explains.
    let period = scoreline::domain::period::Period { starts_at: Micros::EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, live, &period).await.unwrap();
    world.store(live, period, &[("a", 3)]).await;
    let found = world.cli(&["audit", "--game", "demo", "--leaderboard", "global"]).await;
    let text = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.status.code(), Some(4), "{text}");
    assert!(text.contains("rebuilt from the entries") && text.contains("player 'a'"), "{text}");
    // Redis is repaired; what Postgres has is never touched.
    let redis_only = world.cli_json(&["audit", "--redis-only"]).await;
    assert_eq!((&redis_only["clean"], &redis_only["leaderboards"][0]["events"]), (&json!(true), &Value::Null));
    let found = world.cli(&["audit", "--json"]).await;
    assert_eq!(found.status.code(), Some(4));
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["leaderboards"][0]["events"]["differences"][0]["player_id"], "a");
    assert_eq!(world.cli(&["audit", "--game", "nope"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn queues_and_dead_letters_are_run_from_the_command_line() {
    let world = World::new().await;
    let status = world.cli_json(&["queue", "status"]).await;
    assert_eq!(status["queues"][0]["name"], "q0");
    assert_eq!(world.cli_json(&["queue", "pause", "q0"]).await["paused"], true);
    assert_eq!(world.cli_json(&["queue", "status"]).await["queues"][0]["paused"], true);
    assert_eq!(world.cli_json(&["queue", "resume", "q0"]).await["paused"], false);
    assert_eq!(world.cli(&["queue", "pause", "q9"]).await.status.code(), Some(3));
    for n in 0..3 {
        sqlx::query(
            "INSERT INTO dead_letters (id, job_id, queue, lane, kind, reason, error, attempts, crashes, payload, received_at)
             VALUES (gen_random_uuid(), $1, 'q0', 'low', 'persist-events', $2, 'x', 3, 0, '\\x01', now())",
        )
        .bind(format!("{n}"))
        .bind(if n == 0 { "crashed" } else { "data_refused" })
        .execute(&world.db.pool)
        .await
        .unwrap();
    }
    world.game("chess-club").await;
    let of_game =
        "UPDATE dead_letters SET game_id = (SELECT id FROM games WHERE slug = 'chess-club') WHERE job_id = '0'";
    sqlx::query(of_game).execute(&world.db.pool).await.unwrap();
    let shown = String::from_utf8(world.cli(&["dead-letters", "list"]).await.stdout).unwrap();
    assert!(shown.contains("chess-club"), "whose they are: {shown}");
    let hinted = world.cli(&["rebuild", "--game", "chess-club", "pts"]).await;
    let hint = String::from_utf8(hinted.stderr).unwrap();
    assert!(hinted.status.code() == Some(2) && hint.contains("--leaderboard pts"), "{hint}");
    let listed = world.cli_json(&["dead-letters", "list", "--reason", "crashed"]).await;
    let id = listed["dead_letters"][0]["id"].as_str().unwrap();
    assert_eq!(world.cli_json(&["dead-letters", "show", id]).await["reason"], "crashed");
    assert_eq!(world.cli_json(&["dead-letters", "discard", id]).await["ids"], json!([id]));
    assert_eq!(world.cli(&["dead-letters", "discard", id]).await.status.code(), Some(3));
    let replayed = world.cli_json(&["dead-letters", "replay", "--all", "--reason", "data_refused"]).await;
    assert_eq!(replayed["ids"].as_array().unwrap().len(), 2);
    assert_eq!(world.cli_json(&["queue", "status"]).await["queues"][0]["jobs"], 2);
    assert!(world.cli_json(&["partitions"]).await["partitions"].is_array());
    assert_eq!(world.cli(&["dead-letters", "replay"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_rebuild_ranks_as_the_live_board_does_while_an_edit_of_its_order_is_computed() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = scoreline::domain::period::Period { starts_at: Micros::EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    world.store(generation, period, &[("low", 1), ("high", 3), ("middle", 2)]).await;
    // As written from now on; what is live is of before.
    sqlx::query("UPDATE leaderboards SET spec = spec || '{\"order\": \"ascending\"}'")
        .execute(&world.db.pool)
        .await
        .unwrap();
    let shown = world.cli_json(&["leaderboard", "show", "global", "--game", "demo"]).await;
    assert_eq!(shown["definition"]["order"], "ascending");
    assert_eq!(world.cli_json(&["rebuild"]).await["rebuilt"][0]["entries"], 3);
    let page = world.get("/v1/leaderboards/global/entries?limit=900", Some(&game.client)).await;
    assert_eq!(page.players(), ["high", "middle", "low"]);
}

#[tokio::test]
async fn a_command_on_all_leaderboards_goes_on_behind_one_that_fails() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let [broken, whole] = [world.board(&game, board("a")).await, world.board(&game, board("b")).await];
    for generation in [broken, whole] {
        let period = scoreline::domain::period::Period::WHOLE;
        let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
        world.store(generation, period, &[("p", 3)]).await;
    }
    // Somebody wrote there: the board cannot be repaired.
    let shadow = format!("{{sl:b3:{broken}}}:shadow:periods");
    redis::cmd("SET").arg(&shadow).arg("x").exec(&mut world.redis.connection()).unwrap();
    let done_and_failed = async |arguments: &[&str], done: &str| {
        let output = world.cli(&[arguments, &["--json"]].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["failed"][0]["leaderboard"], "demo/a", "{said}");
        assert_eq!((said["failed"].as_array().unwrap().len(), said[done].as_array().unwrap().len()), (1, 1), "{said}");
        assert_eq!(said[done][0]["leaderboard"], "demo/b", "{said}");
        said
    };
    let audited = done_and_failed(&["audit", "--redis-only"], "leaderboards").await;
    assert_eq!(audited["leaderboards"][0]["redis"]["repaired"], true);
    // The other one is whole by now, and of this one nobody knows.
    let audited = done_and_failed(&["audit", "--redis-only"], "leaderboards").await;
    assert_eq!((&audited["leaderboards"][0]["clean"], &audited["clean"]), (&json!(true), &json!(false)));
    redis::cmd("DEL").arg(&shadow).exec(&mut world.redis.connection()).unwrap();
    let token = world.ranking.begin_rebuild(broken).await.unwrap();
    done_and_failed(&["rebuild"], "rebuilt").await;
    let text = world.cli(&["rebuild"]).await;
    assert!(String::from_utf8(text.stdout).unwrap().contains("demo/a: another rebuild"), "it is named for people, too");
    world.ranking.abort_rebuild(&token).await.unwrap();
    let mut holding = world.db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM leaderboards WHERE slug = 'a' FOR UPDATE").execute(&mut *holding).await.unwrap();
    done_and_failed(&["recompute", "--no-wait"], "recomputed").await;
}
