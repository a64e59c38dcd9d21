//! Games, keys, leaderboards, dead letters and the audit log.

use std::time::Duration;

use hyper::{Method, StatusCode};
use scoreline::domain::clock::Micros;
use scoreline::domain::period::Period;
use scoreline::store::{leaderboards, periods};
use scoreline::telemetry::recorder;
use serde_json::{Value, json};

use super::world::{ADMIN, Game, World, board};
use crate::support::eventually;

async fn put(world: &World, game: &Game, spec: &Value) -> super::world::Answer {
    let path = format!("/v1/admin/leaderboards/{}", spec["slug"].as_str().unwrap());
    world.send(Method::PUT, &path, Some(&game.server), spec).await
}

/// An event of the game, so that there is history to recompute.
async fn store_event(world: &World, game: &Game) {
    sqlx::query("CREATE TABLE IF NOT EXISTS events_all PARTITION OF events FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
        .execute(&world.db.pool)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type,
                             player_id, payload)
         VALUES ($1, gen_random_uuid(), now(), now(), 1, false, 'game_ended', 'p-1', '{\"score\":1}')",
    )
    .bind(game.id.0)
    .execute(&world.db.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_game_is_created_with_keys_that_work_at_once() {
    let world = World::new().await;
    let body = json!({"slug": "chess", "name": "Chess"});
    let created = world.send(Method::POST, "/v1/admin/games", Some(ADMIN), &body).await;
    assert_eq!(created.status, StatusCode::CREATED, "{:?}", created.body);
    let created = created.json();
    let (client, server) =
        (created["client_key"]["key"].as_str().unwrap(), created["server_key"]["key"].as_str().unwrap());
    assert_eq!(world.get("/v1/leaderboards", Some(client)).await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/admin/keys", Some(client)).await.code(), "server_key_required");
    assert_eq!(world.get("/v1/admin/games", Some(server)).await.code(), "admin_token_required");
    assert_eq!(world.get("/v1/admin/games", Some(ADMIN)).await.json()["games"][0]["slug"], "chess");
    let again = world.send(Method::POST, "/v1/admin/games", Some(ADMIN), &body).await;
    assert_eq!((again.status, again.code().as_str()), (StatusCode::CONFLICT, "game_exists"));
    for bad in [json!({"slug": "A B"}), json!({}), json!({"slug": "x", "colour": 1})] {
        let answer = world.send(Method::POST, "/v1/admin/games", Some(ADMIN), &bad).await;
        assert_eq!(answer.code(), "body_invalid", "{bad}");
    }
    // What is no object is not read as one, item by item.
    for bad in [json!(["demo2", "x"]), json!("demo2"), json!(null), json!([])] {
        let answer = world.send(Method::POST, "/v1/admin/games", Some(ADMIN), &bad).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "body_invalid"), "{bad}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("must be a JSON object"), "{bad}");
    }
    let edit = async |body: Value| world.send(Method::PATCH, "/v1/admin/games/chess", Some(ADMIN), &body).await.json();
    assert_eq!(edit(json!({"limit_player_events": 5, "limit_game_events": 0})).await["limit_player_events"], 5);
    let edited = edit(json!({"limit_player_events": null})).await;
    assert_eq!((&edited["limit_player_events"], &edited["limit_game_events"]), (&Value::Null, &json!(0)));
}

#[tokio::test]
async fn a_revoked_key_is_refused_within_a_second_everywhere() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let wanted = json!({"kind": "client", "label": "ci"});
    let made = world.send(Method::POST, "/v1/admin/keys", Some(&game.server), &wanted).await.json();
    let key = made["key"].as_str().unwrap();
    assert_eq!(world.get("/v1/leaderboards", Some(key)).await.status, StatusCode::OK);
    // Another process, with a directory of its own.
    let source = scoreline::directory::DirectorySource::open(&world.redis.url, "sl").unwrap();
    let other = source.wait_for_first(None, &world.stop).await.unwrap();
    tokio::spawn(source.follow(other.clone(), world.stop.clone()));
    eventually("the other process knows the key", Duration::from_secs(1), || async {
        other.load().authenticate(key).is_some()
    })
    .await;
    let path = format!("/v1/admin/keys/{}", made["id"]);
    let revoked = world.send(Method::DELETE, &path, Some(&game.server), &json!({})).await;
    assert_eq!(revoked.status, StatusCode::OK);
    assert!(revoked.json()["revoked_at"].is_string());
    assert_eq!(world.get("/v1/leaderboards", Some(key)).await.code(), "key_unknown");
    eventually("the other process refuses it", Duration::from_secs(1), || async {
        other.load().authenticate(key).is_none()
    })
    .await;
    let missing = world.send(Method::DELETE, "/v1/admin/keys/x", Some(&game.server), &json!({})).await;
    assert_eq!(missing.code(), "key_not_found");
}

#[tokio::test]
async fn a_leaderboard_of_a_game_without_events_is_live_at_once() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let created = put(&world, &game, &board("global")).await;
    assert_eq!(created.status, StatusCode::CREATED, "{:?}", created.body);
    let json = created.json();
    assert_eq!((&json["result"], &json["state"], &json["readable"]), (&json!("created"), &json!("live"), &json!(true)));
    let page = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
    assert_eq!((page.status, page.json()["total"].clone()), (StatusCode::OK, json!(0)), "{:?}", page.body);
    let again = put(&world, &game, &board("global")).await;
    assert_eq!((again.status, again.json()["result"].clone()), (StatusCode::OK, json!("unchanged")));
}

#[tokio::test]
async fn an_edit_is_built_beside_the_live_board() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let live = world.board(&game, board("global")).await;
    world.publish(live, Micros::EPOCH, 1, &[("a", 1)]).await;
    store_event(&world, &game).await;
    let mut edited = board("global");
    edited["operator"] = "incr".into();
    let answer = put(&world, &game, &edited).await.json();
    assert_eq!((&answer["result"], &answer["state"]), (&json!("recomputing"), &json!("building")));
    let page = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
    assert_eq!(page.players(), ["a"], "players still see the old definition");
    assert_eq!(world.get("/v1/leaderboards/global", Some(&game.client)).await.json()["status"], "recomputing");
    let stamp = |name: &str| format!("SELECT {name} FROM leaderboard_generations WHERE state = 'building'");
    let (since, game_generation): (i32, i32) = sqlx::query_as(
        "SELECT b.since_generation, g.definitions_generation FROM leaderboard_generations b, games g WHERE b.state = 'building'",
    )
    .fetch_one(&world.db.pool)
    .await
    .unwrap();
    assert_eq!(since, game_generation, "{}", stamp("since_generation"));
    // Another edit replaces what is being built; the way back calls it off.
    edited["operator"] = "set".into();
    assert_eq!(put(&world, &game, &edited).await.json()["result"], "recomputing");
    let building: i64 = sqlx::query_scalar("SELECT count(*) FROM leaderboard_generations WHERE state = 'building'")
        .fetch_one(&world.db.pool)
        .await
        .unwrap();
    assert_eq!(building, 1);
    assert_eq!(put(&world, &game, &board("global")).await.json()["state"], "live");

    // A new board over history cannot be read yet.
    let fresh = put(&world, &game, &board("fresh")).await;
    assert_eq!((fresh.status, fresh.json()["readable"].clone()), (StatusCode::CREATED, json!(false)));
    let page = world.get("/v1/leaderboards/fresh/entries", Some(&game.client)).await;
    assert_eq!((page.status, page.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "leaderboard_rebuilding"));
}

#[tokio::test]
async fn a_change_of_how_a_board_is_shown_applies_at_once() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let live = world.board(&game, board("global")).await;
    world.publish(live, Micros::EPOCH, 1, &[("a", 2), ("b", 2), ("c", 1)]).await;
    store_event(&world, &game).await;
    let path = "/v1/leaderboards/global/entries";
    assert_eq!(world.get(path, Some(&game.client)).await.ranks(), [1, 2, 3]);
    let mut edited = board("global");
    edited["tie_policy"] = "competition".into();
    edited["public"] = true.into();
    edited["name"] = "World ranking".into();
    assert_eq!(put(&world, &game, &edited).await.json()["result"], "shown");
    assert_eq!(world.get(path, Some(&game.client)).await.ranks(), [1, 1, 3]);
    assert_eq!(world.get("/v1/public/demo/leaderboards/global", None).await.json()["name"], "World ranking");
}

#[tokio::test]
async fn an_edit_that_loses_history_is_refused_unless_accepted() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let live = world.board(&game, board("global")).await;
    periods::ensure(&world.db.pool, live, &Period { starts_at: Micros::EPOCH, ends_at: None }).await.unwrap();
    sqlx::query("INSERT INTO baseline_progress (partition_name, range_start, range_end, dropped_at) VALUES ('events_2026_08', '2026-08-01', '2026-09-01', now())")
        .execute(&world.db.pool)
        .await
        .unwrap();
    let mut edited = board("global");
    edited["score"] = "/points".into();
    let refused = put(&world, &game, &edited).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::CONFLICT, "history_incomplete"));
    let all = leaderboards::list(&world.db.pool, game.id).await.unwrap();
    assert_eq!(all[0].live, Some(live), "nothing was changed");
    let mut shown = board("global");
    shown["public"] = true.into();
    assert_eq!(put(&world, &game, &shown).await.json()["result"], "shown");
    let path = "/v1/admin/leaderboards/global?accept_incomplete_history=true";
    let accepted = world.send(Method::PUT, path, Some(&game.server), &edited).await;
    assert_eq!(accepted.json()["result"], "recomputing");
}

#[tokio::test]
async fn a_wrong_definition_is_refused_with_the_field_at_fault() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let refuse = async |change: Value, code: &str, field: &str| {
        let mut spec = board("global");
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = put(&world, &game, &spec).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, code), "{change}");
        assert_eq!(answer.json()["field"], field, "{change}");
        answer.json()["detail"].as_str().unwrap().to_owned()
    };
    let detail = refuse(json!({"opperator": "best"}), "field_unknown", "/opperator").await;
    assert!(detail.contains("did you mean 'operator'"), "{detail}");
    refuse(json!({"operator": "average"}), "field_invalid", "/operator").await;
    refuse(json!({"score": "score"}), "pointer_invalid", "/score").await;
    refuse(json!({"time_zone": "Moon"}), "time_zone_unknown", "/time_zone").await;
    refuse(json!({"reset": {"cron": "61 * * * *"}}), "reset_invalid", "/reset").await;
    refuse(json!({"min_score": 5, "max_score": 1}), "bounds_invalid", "/min_score").await;
    let answer = world.send(Method::PUT, "/v1/admin/leaderboards/other", Some(&game.server), &board("global")).await;
    assert_eq!(answer.code(), "slug_mismatch");
    let answer = world.request(Method::POST, "/v1/admin/leaderboards", Some(&game.server), &[], "nope".into()).await;
    assert_eq!(answer.code(), "body_invalid");
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM leaderboards").fetch_one(&world.db.pool).await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_deleted_leaderboard_is_gone_and_its_name_is_free() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let live = world.board(&game, board("global")).await;
    world.publish(live, Micros::EPOCH, 1, &[("a", 2)]).await;
    let path = "/v1/admin/leaderboards/global";
    assert_eq!(world.send(Method::DELETE, path, Some(&game.server), &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/v1/leaderboards/global/entries", Some(&game.client)).await.code(), "leaderboard_not_found");
    assert_eq!(world.send(Method::DELETE, path, Some(&game.server), &json!({})).await.code(), "leaderboard_not_found");
    assert_eq!(put(&world, &game, &board("global")).await.status, StatusCode::CREATED);
    let page = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
    assert_eq!(page.players(), Vec::<String>::new(), "nothing of the old board shows");
}

#[tokio::test]
async fn each_change_is_in_the_audit_log_with_who_made_it() {
    let world = World::new().await;
    let game = world.game("demo").await;
    put(&world, &game, &board("global")).await;
    world.send(Method::PATCH, "/v1/admin/games/demo", Some(ADMIN), &json!({"name": "Demo"})).await;
    let log = world.get("/v1/admin/audit-log?limit=2", Some(&game.server)).await.json();
    let changes = log["changes"].as_array().unwrap();
    assert_eq!((&changes[0]["action"], &changes[0]["actor"]), (&json!("game.edit"), &json!("admin")));
    assert_eq!((&changes[1]["action"], &changes[1]["subject"]), (&json!("leaderboard.create"), &json!("global")));
    assert!(changes[1]["actor"].as_str().unwrap().starts_with("key:"));
    let older = world.get(&format!("/v1/admin/audit-log?before={}", changes[1]["id"]), Some(&game.server)).await.json();
    assert_eq!(older["changes"].as_array().unwrap().last().unwrap()["action"], "game.create");
    let other = world.game("other").await;
    let log = world.get("/v1/admin/audit-log", Some(&other.server)).await.json();
    assert!(log["changes"].as_array().unwrap().iter().all(|c| c["action"] != "leaderboard.create"), "{log}");
}

#[tokio::test]
async fn dead_letters_are_listed_read_and_discarded_by_their_own_game() {
    let world = World::new().await;
    let (game, other) = (world.game("demo").await, world.game("other").await);
    for (n, reason) in ["refused", "crashed", "refused"].iter().enumerate() {
        sqlx::query(
            "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload, body, received_at)
             VALUES (gen_random_uuid(), $1, 'q0', 'high', 'persist-events', $2, $3, 'an error', 3, 0, '\\x01', '{\"n\":1}', $4)",
        )
        .bind(format!("job-{n}"))
        .bind(game.id.0)
        .bind(reason)
        .bind(Micros(n as i64))
        .execute(&world.db.pool)
        .await
        .unwrap();
    }
    let list = async |query: &str, key: &str| {
        world.get(&format!("/v1/admin/dead-letters{query}"), Some(key)).await.json()["dead_letters"].clone()
    };
    let all = list("", &game.server).await;
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert_eq!(list("?reason=crashed", &game.server).await[0]["job_id"], "job-1");
    assert_eq!(list("", &other.server).await, json!([]));
    assert_eq!(list("?game=other", ADMIN).await, json!([]));
    let page = world.get("/v1/admin/dead-letters?limit=2", Some(&game.server)).await.json();
    let rest = list(&format!("?after={}", page["next_after"].as_str().unwrap()), &game.server).await;
    assert_eq!(rest[0]["job_id"], "job-2");
    let id = all[0]["id"].as_str().unwrap();
    let path = format!("/v1/admin/dead-letters/{id}");
    assert_eq!(world.get(&path, Some(&game.server)).await.json()["body"], json!({"n": 1}));
    assert_eq!(world.get(&path, Some(&other.server)).await.code(), "dead_letter_not_found");
    let discard = async |key: &str| {
        let body = json!({"ids": [id]});
        world.send(Method::POST, "/v1/admin/dead-letters/discard", Some(key), &body).await.json()["ids"].clone()
    };
    assert_eq!(discard(&other.server).await, json!([]));
    assert_eq!(discard(&game.server).await, json!([id]));
    assert_eq!(discard(&game.server).await, json!([]), "once");
    assert_eq!(list("", &game.server).await.as_array().unwrap().len(), 2);
    assert_eq!(list("?state=discarded", &game.server).await[0]["id"], *id);
}

#[tokio::test]
async fn a_dead_letter_is_replayed_once_under_its_old_id_and_the_queue_can_be_held() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let received = 1_795_255_200_000_000_i64;
    let job = format!("{received}-018f3b5e-7d1a-7c3e-9a55-1f2e3d4c5b6a-h");
    let id: uuid::Uuid = sqlx::query_scalar(
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload, received_at)
         VALUES (gen_random_uuid(), $1, 'q0', 'high', 'persist-events', $2, 'refused', 'x', 3, 0, '\\x0101', $3) RETURNING id",
    )
    .bind(&job)
    .bind(game.id.0)
    .bind(Micros(received))
    .fetch_one(&world.db.pool)
    .await
    .unwrap();
    let replay = async || {
        let body = json!({"ids": [id]});
        let answer = world.send(Method::POST, "/v1/admin/dead-letters/replay", Some(&game.server), &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        answer.json()["ids"].clone()
    };
    assert_eq!(replay().await, json!([id]));
    assert_eq!(replay().await, json!([]));
    let queues = world.get("/v1/admin/queues", Some(ADMIN)).await.json();
    assert_eq!((&queues["queues"][0]["jobs"], &queues["queues"][0]["paused"]), (&json!(1), &json!(false)), "{queues}");
    assert_eq!(queues["queues"][0]["lanes"][0]["waiting"], 1);
    let hold = async |action: &str, name: &str| {
        world.send(Method::POST, &format!("/v1/admin/queues/{name}/{action}"), Some(ADMIN), &json!({})).await
    };
    assert_eq!(hold("pause", "q0").await.json()["paused"], true);
    assert_eq!(hold("resume", "q0").await.json()["paused"], false);
    assert_eq!(hold("pause", "q7").await.code(), "queue_not_found");
    let waits: uuid::Uuid = sqlx::query_scalar(
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload, received_at)
         SELECT gen_random_uuid(), replace(job_id, '-018f', '-019f'), queue, lane, kind, game_id, reason, error, attempts, crashes, payload, received_at
           FROM dead_letters RETURNING id",
    )
    .fetch_one(&world.db.pool)
    .await
    .unwrap();
    redis::cmd("SHUTDOWN").arg("NOSAVE").exec(&mut world.redis.connection()).unwrap_err();
    let away = world.get("/v1/admin/queues", Some(ADMIN)).await;
    assert_eq!((away.status, away.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "queue_unreachable"));
    // What the queue does not have is not decided.
    let body = json!({"ids": [waits]});
    let refused = world.send(Method::POST, "/v1/admin/dead-letters/replay", Some(&game.server), &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "queue_unreachable"));
    let path = format!("/v1/admin/dead-letters/{waits}");
    assert_eq!(world.get(&path, Some(&game.server)).await.json()["state"], "waiting");
}

#[tokio::test]
async fn a_new_board_without_history_is_readable_before_its_creation_is_answered() {
    // Nothing runs here that rebuilds boards.
    let world = World::new().await;
    let game = world.game("demo").await;
    assert_eq!(put(&world, &game, &board("global")).await.status, StatusCode::CREATED);
    let page = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
    assert_eq!((page.status, page.json()["total"].clone()), (StatusCode::OK, json!(0)));
}

#[tokio::test]
async fn a_board_with_entries_is_not_opened_as_empty() {
    let world = World::new().await;
    let game = world.game("demo").await;
    put(&world, &game, &board("global")).await;
    let all = scoreline::store::leaderboards::list(&world.db.pool, game.id).await.unwrap();
    let live = all[0].live.unwrap();
    world.ranking.remove_board(live).await.unwrap();
    let period = Period { starts_at: Micros::EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, live, &period).await.unwrap();
    world.store(live, period, &[("a", 3)]).await;
    let opened =
        scoreline::services::board_rebuild::open_empty_board(&world.db.pool, &world.ranking, live).await.unwrap();
    assert!(!opened);
    assert_eq!(world.ranking.version(live).await.unwrap(), None);
    // And whoever rebuilds it need not wait.
    world.ranking.begin_rebuild(live).await.unwrap();
}

#[tokio::test]
async fn a_board_is_rebuilt_and_recomputed_on_demand() {
    let recorded = recorder::install().unwrap();
    let world = World::new().await;
    let game = world.game("demo").await;
    let live = world.board(&game, board("global")).await;
    let period = Period { starts_at: Micros::EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, live, &period).await.unwrap();
    world.store(live, period, &[("a", 3), ("b", 2)]).await;
    let post = async |action: &str| {
        world
            .send(Method::POST, &format!("/v1/admin/leaderboards/global/{action}"), Some(&game.server), &json!({}))
            .await
    };
    assert_eq!(post("rebuild").await.json()["entries"], 2);
    assert!(recorder::lines_of(&recorded.render(), "api").contains("scoreline_rebuilds_total{"), "by whom it was made");
    assert_eq!(world.get("/v1/leaderboards/global/entries", Some(&game.client)).await.players(), ["a", "b"]);
    let begun = post("recompute").await;
    assert_eq!((begun.status, begun.json()["state"].clone()), (StatusCode::ACCEPTED, json!("building")));
    let partitions = world.get("/v1/admin/partitions", Some(ADMIN)).await;
    assert_eq!(partitions.status, StatusCode::OK);
}
